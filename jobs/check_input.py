"""Judge the input before anything is trained on it. A failed gate ends the run with exit status 3."""

from jobs.runtime.judging import judge
from kdlib.config.run import RunConfig


def run(config: RunConfig, *, force: str = "") -> None:
    """Judge the input; GateError where a gate has failed.

    Args:
      config: the run config.
      force: why failures are overruled. Empty: they are not.
    """
    judge(config, parts=("input",), force=force)
