"""Write what is published for monitoring: a Prometheus text file, for the node exporter's textfile collector."""

from jobs.runtime import tracking
from jobs.runtime.telemetry import write
from kdlib.config.run import RunConfig


def run(config: RunConfig, *, status: int | None = None) -> None:
    """Write the file; see `jobs.runtime.telemetry.write`. With a status, the tracker learns how the run has ended, too."""
    tracked = status is not None and config.tracking.mlflow
    if config.telemetry or not tracked:
        write(config, status=status)
    if status is not None:
        tracking.end(config, status)
