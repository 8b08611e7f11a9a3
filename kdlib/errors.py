"""Errors for the person who runs a job. Each text says what happened, what was expected, where, and what to do."""


class DistilrecError(Exception):
    """A fault in the input, the configuration or the environment that the user can fix.

    The command line prints the text without a traceback and exits with `exit_status`.
    """

    exit_status = 2


def extra_hint(extra: str) -> str:
    """How to install an optional dependency."""
    return f"the extra `{extra}` (`pip install 'distilrec[{extra}]'`)"


class ConfigError(DistilrecError):
    """The run config is wrong: unknown key, impossible value, missing setting."""


class InputError(DistilrecError):
    """The input data is missing, unreadable or empty, or lacks a column."""


class ContractError(DistilrecError):
    """A table breaks its contract in `kdlib.store.tables`."""


class ModelError(DistilrecError):
    """A model file is missing or damaged, or does not fit the data."""


class TrainingError(DistilrecError):
    """Training ended without a usable model."""

    exit_status = 1


class GateError(DistilrecError):
    """A gate forbids publishing the run, and the run in use stays in use. Or an A/B test fails its check, so that no lift of it
    can be trusted."""

    exit_status = 3


class BusyError(DistilrecError):
    """Another run works on the same date and folder. Retry later (`EX_TEMPFAIL` of sysexits.h)."""

    exit_status = 75


class LateInputError(DistilrecError):
    """The input is not whole yet: its marker is missing, or its files still change. Retry later (`EX_NOINPUT`)."""

    exit_status = 66


class UnreachableError(DistilrecError):
    """A cluster or a server does not answer. Retry later (`EX_TEMPFAIL` of sysexits.h)."""

    exit_status = 75


class DeliveryError(DistilrecError):
    """The run is in use in the output folder, but the delivery failed (`EX_IOERR` of sysexits.h).

    Either the place still has the run before, or files that had to be removed are still there.
    """

    exit_status = 74
