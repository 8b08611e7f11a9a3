"""Write what is published for monitoring: a Prometheus text file, for the node exporter's textfile collector."""

from jobs.runtime.telemetry import write
from kdlib.config.run import RunConfig


def run(config: RunConfig, *, status: int | None = None) -> None:
    """Write the file; see `jobs.runtime.telemetry.write`."""
    write(config, status=status)
