"""Tell monitoring what is published: a file in the Prometheus text format, for the node exporter's textfile collector."""

import os
import sys
from collections.abc import Collection
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from jobs._console import command, say
from jobs.report import models_of
from kdlib import delivery, promotions
from kdlib.config import RunConfig
from kdlib.errors import ConfigError
from kdlib.report.exposition import InUse, exposition, unix
from kdlib.report.gather import find_partitions, gather


def run(config: RunConfig, *, status: int | None = None) -> None:
    """Write `telemetry.textfile`, in one rename.

    Args:
      config: with `telemetry`.
      status: the exit status of the night; None where a single stage has run: that which the file has of this day stays.
    """
    if config.telemetry is None:
        raise ConfigError("no file to write to: set telemetry.textfile in the run config")
    path, models = Path(config.telemetry.textfile), models_of(config)
    found = find_partitions(config.root, config.day, models)
    night = gather(config.root, config.day, name=config.name, k=config.evaluation.judged_k, models=models, found=found)
    switch = promotions.current(config.root)
    in_use = None
    if switch is not None:
        tables = [name for name in delivery.TABLES if name in switch.versions]
        rows = {name: promotions.manifest_of(config.root, switch, name).rows or 0 for name in tables}
        in_use = InUse(switch.ds, switch.unix_seconds, rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    if status is None and path.exists():
        status = _status_told(path, config.name, config.day)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    fresh.write_bytes(exposition(night, in_use=in_use, status=status))
    fresh.replace(path)


def tell(config: RunConfig, *, mends: Collection[int] = ()) -> None:
    """`run`, at the end of a job by hand that changes what is in use; nothing where no file is asked for.

    Args:
      config: the run config.
      mends: exit statuses of this day's night that the job has made good; they become 0.
    """
    if config.telemetry is not None:
        path = Path(config.telemetry.textfile)
        told = _status_told(path, config.name, config.day) if path.exists() else None
        write_or_warn(config, 0 if told in mends else None)


def _status_told(path: Path, run: str, ds: str) -> int | None:
    """What the file says of a night's exit status; None where it says nothing, or of another one."""
    families = text_string_to_metric_families(path.read_text())
    told = {sample.name: sample.value for one in families for sample in one.samples if sample.labels == {"run": run}}
    status = told.get("distilrec_night_exit_status")
    return int(status) if status is not None and told.get("distilrec_night_day_timestamp_seconds") == unix(ds) else None


def write_or_warn(config: RunConfig, status: int | None) -> None:
    """`run`, at the end of something else: a failure is a warning."""
    try:
        run(config, status=status)
    except Exception as error:
        say(f"telemetry warning: not written: {type(error).__name__}: {error}")


def main(argv: list[str] | None = None) -> int:
    return command("telemetry", run, argv, description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
