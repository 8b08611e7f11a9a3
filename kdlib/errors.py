"""Errors for the person who runs the job: what was expected, what was found, where, and what to do next."""


class DistilrecError(Exception):
    """A fault in the input, the configuration or the environment that the user can mend.

    The command line prints its text without a traceback and exits with `exit_status`.
    """

    exit_status = 2


def extra_hint(extra: str) -> str:
    """How to install what an optional part needs."""
    return f"the extra `{extra}` (`pip install -e '.[{extra}]'` in distilrec's folder)"


class ConfigError(DistilrecError):
    """The run config is wrong: unknown key, impossible value, missing setting."""


class InputError(DistilrecError):
    """The input data is missing, unreadable, empty or lacks a column."""


class ContractError(DistilrecError):
    """A table between two stages does not hold what its contract in `kdlib.store.tables` promises."""


class ModelError(DistilrecError):
    """A model file is missing, damaged, or does not fit the data it is used with."""


class TrainingError(DistilrecError):
    """Training ended without a usable model."""

    exit_status = 1


class GateError(DistilrecError):
    """The night does not hold what it must before it is published; the night in use stays."""

    exit_status = 3


class BusyError(DistilrecError):
    """Another run is at work on the same date and folder; later the same command may do (`EX_TEMPFAIL` of sysexits.h)."""

    exit_status = 75


class UnreachableError(DistilrecError):
    """A cluster does not answer; later it may (`EX_TEMPFAIL` of sysexits.h)."""

    exit_status = 75


class DeliveryError(DistilrecError):
    """The night is in use here, but could not be brought to where others read it, or what had to leave from there is still
    there (`EX_IOERR` of sysexits.h)."""

    exit_status = 74
