"""Judge input and models before the run is promoted. A failed gate ends the run with exit status 3."""

from jobs.runtime.judging import judge
from kdlib.config.run import RunConfig


def run(config: RunConfig, *, force: str = "") -> None:
    """Judge input and quality; GateError where a gate has failed.

    Args:
      config: the run config.
      force: why failures are overruled. Empty: they are not.
    """
    judge(config, force=force)
