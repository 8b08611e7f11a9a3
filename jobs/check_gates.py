"""Judge input and models before the tables go out. A failed gate ends the run with exit status 3, and nothing is published."""

from jobs.runtime.judging import judge
from kdlib.config.run import RunConfig


def run(config: RunConfig, *, force: str = "") -> None:
    """Judge input and quality; GateError where a gate has failed.

    Args:
      config: the run config.
      force: why failures are overruled. Empty: they are not.
    """
    judge(config, force=force)
