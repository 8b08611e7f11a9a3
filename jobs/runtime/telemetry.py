"""Tell monitoring what is published: a file in the Prometheus text format, for the node exporter's textfile collector."""

import os
from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from jobs.runtime.command import Invocation
from jobs.runtime.console import say
from jobs.runtime.names import models_of
from kdlib.config.load import expanded, read_mapping
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError
from kdlib.release import delivery, promotions
from kdlib.report.exposition import InUse, exposition
from kdlib.report.gather import find_partitions, gather
from kdlib.store.locks import lock

LOCK_SECONDS = 60.0
"""Another run's telling takes some seconds: so long it is waited for."""


def write(config: RunConfig, *, status: int | None = None) -> None:
    """Write `telemetry.textfile`, in one rename.

    Args:
      config: with `telemetry`.
      status: the exit status of the night; None where a single stage has run: that which the file has of this day stays.
        Where the file speaks of a later day, that one and its status stay, whatever an earlier day's rerun has come to,
        unless that day is still to come, or its good night has been rolled back.
    """
    if config.telemetry is None:
        raise ConfigError("no file to write to: set telemetry.textfile in the run config")
    path, models = Path(config.telemetry.textfile), models_of(config)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a") as file:
        with suppress(OSError):  # a file system without locks, or one that has waited too long: better told than not
            lock(file, seconds=LOCK_SECONDS)
        _write(config, path, models, status)


def _write(config: RunConfig, path: Path, models: list[str], status: int | None) -> None:
    """What the file says is read, and written anew: one process at a time, else one could take back what another tells."""
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
    """Tell what is in use now, at the end of a job by hand that has changed it; nothing where no file is asked for.

    The night that the file speaks of stays. A failure is a warning.

    Args:
      config: the run config.
      status: what that night's exit status is now; None: it stays.
      mends: exit statuses that the job has made good, of this day's night, or 74, which speaks of the place; they become 0.
    """
    if config.telemetry:
        ds, before = _told(Path(config.telemetry.textfile), config.name) or (config.day, None)
        mended = before in mends and (ds == config.day or before == 74)
        now = before if status is None else status
        write_or_warn(config.model_copy(update={"ds": date.fromisoformat(ds)}), 0 if mended else now)


def write_or_warn(config: RunConfig, status: int | None) -> None:
    """`write`, at the end of something else, where a file is asked for: a failure is a warning."""
    try:
        if config.telemetry:
            write(config, status=status)
    except Exception as error:
        say(f"telemetry warning: not written: {type(error).__name__}: {error}")


def readable(invocation: Invocation) -> list[RunConfig]:
    """As much of a run config as it takes to tell of its night, whatever is wrong in the rest; the input is made up.

    Empty where a part of that is wrong, or no file is asked for. Monitoring then hears nothing, as of a night that is
    killed: the alert rule DistilrecSilent notices.
    """
    try:
        found = read_mapping(invocation.config, overrides=invocation.overrides)
        part = {name: found.get(name) for name in ("name", "output_dir", "telemetry")}
        part |= {"ds": invocation.ds or found.get("ds"), "input": {"simulate": {}}}
        config = RunConfig.model_validate(expanded(part))
    except Exception:  # what is wrong is said where the whole is read
        return []
    return [config] if config.ds and config.telemetry else []


def _today() -> date:
    return datetime.now(UTC).date()


def _told(path: Path, run: str) -> tuple[str, int | None] | None:
    """The night that the file speaks of and its exit status; None where no night of this run can be read there."""
    try:
        families = list(text_string_to_metric_families(path.read_text()))
    except Exception:  # whatever stands there is written anew
        return None
    told = {sample.name: sample.value for one in families for sample in one.samples if sample.labels == {"run": run}}
    day, status = told.get("distilrec_night_day_timestamp_seconds"), told.get("distilrec_night_exit_status")
    if day is None:
        return None
    return datetime.fromtimestamp(day, UTC).date().isoformat(), None if status is None else int(status)
