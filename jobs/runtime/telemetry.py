"""Write what is published for monitoring: a Prometheus text file, for the node exporter's textfile collector."""

import os
from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from jobs.runtime.command import Invocation
from jobs.runtime.console import warn
from jobs.runtime.names import models_of
from kdlib.config.load import expanded, read_mapping
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError
from kdlib.release import delivery, promotions
from kdlib.report.exposition import InUse, exposition
from kdlib.report.gather import find_partitions, gather
from kdlib.store.locks import lock

LOCK_SECONDS = 60.0
"""How long to wait for another process that writes the file."""


def write(config: RunConfig, *, status: int | None = None) -> None:
    """Write `telemetry.textfile`, in one rename.

    Args:
      config: with `telemetry`.
      status: the exit status of the run. None, after a single stage: the file keeps this day's status.

    A rerun of an earlier day does not change the day and the status in the file. There are two exceptions: the day in
    the file lies in the future, or its successful run was rolled back.
    """
    if config.telemetry is None:
        raise ConfigError("no file to write to: set telemetry.textfile in the run config")
    path, models = Path(config.telemetry.textfile), models_of(config)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a") as file:
        with suppress(OSError):  # no locks on this file system, or the wait was too long: write without the lock
            lock(file, seconds=LOCK_SECONDS)
        _write(config, path, models, status)


def _write(config: RunConfig, path: Path, models: list[str], status: int | None) -> None:
    """Read the file's day and status, then write the file. The caller holds the lock, so that no news is lost."""
    ds, before = _told(path, config.name) or ("", None)
    switch = promotions.current(config.root)
    rolled_back = before in (0, 74) and switch is not None and switch.ds < ds
    if config.day < ds <= (_today() + timedelta(days=1)).isoformat() and not rolled_back:
        config, status = config.model_copy(update={"ds": date.fromisoformat(ds)}), before
    elif ds == config.day and status is None:
        status = before
    found = find_partitions(config.root, config.day)
    night = gather(config.root, config.day, name=config.name, k=config.evaluation.judged_k, models=models, found=found)
    in_use = None
    if switch is not None:
        tables = [name for name in delivery.TABLES if name in switch.versions]
        rows = {name: promotions.manifest_of(config.root, switch, name).rows or 0 for name in tables}
        in_use = InUse(switch.ds, switch.unix_seconds, rows)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    fresh.write_bytes(exposition(night, in_use=in_use, status=status))
    fresh.replace(path)


def tell(config: RunConfig, *, status: int | None = None, mends: Collection[int] = ()) -> None:
    """Write the file after a manual command that has changed what is in use. The day in the file stays.

    Without `telemetry` it does nothing. A failure is a warning.

    Args:
      config: the run config.
      status: the new exit status of that day's run. None: the status stays.
      mends: exit statuses that the command has mended. They become 0 if the file is about the config's day. Status 74
        (not delivered) becomes 0 for any day.
    """
    if config.telemetry:
        ds, before = _told(Path(config.telemetry.textfile), config.name) or (config.day, None)
        mended = before in mends and (ds == config.day or before == 74)
        now = before if status is None else status
        write_or_warn(config.model_copy(update={"ds": date.fromisoformat(ds)}), 0 if mended else now)


def write_or_warn(config: RunConfig, status: int | None) -> None:
    """`write`, if the run config has `telemetry`. A failure is a warning."""
    try:
        if config.telemetry:
            write(config, status=status)
    except Exception as error:
        warn(f"telemetry warning: not written: {type(error).__name__}: {error}")


def readable(invocation: Invocation) -> list[RunConfig]:
    """The part of a wrong run config that `write` needs, with a made-up input: a list of one.

    Empty where this part is wrong too, or has no `telemetry`. Monitoring then hears nothing, as after a killed run. The
    alert rule DistilrecSilent notices that.
    """
    try:
        found = read_mapping(invocation.config, overrides=invocation.overrides)
        part = {name: found.get(name) for name in ("name", "output_dir", "telemetry")}
        part |= {"ds": invocation.ds or found.get("ds"), "input": {"simulate": {}}}
        config = RunConfig.model_validate(expanded(part))
    except Exception:  # whoever reads the whole config reports the error
        return []
    return [config] if config.ds and config.telemetry else []


def _today() -> date:
    return datetime.now(UTC).date()


def _told(path: Path, run: str) -> tuple[str, int | None] | None:
    """The day that the file is about, and its exit status; None where the file has no day of this run config."""
    try:
        families = list(text_string_to_metric_families(path.read_text()))
    except Exception:  # an unreadable file is written anew
        return None
    told = {sample.name: sample.value for one in families for sample in one.samples if sample.labels == {"run": run}}
    day, status = told.get("distilrec_night_day_timestamp_seconds"), told.get("distilrec_night_exit_status")
    if day is None:
        return None
    return datetime.fromtimestamp(day, UTC).date().isoformat(), None if status is None else int(status)
