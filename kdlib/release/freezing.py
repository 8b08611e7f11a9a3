"""The freeze: while there is one, the run in use stays in use, and runs that are made later are not promoted.

root/_promotions/frozen.json      since when, and why
"""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from kdlib.errors import DistilrecError
from kdlib.store.files import sync
from kdlib.store.mirror import drop, write_file

FILE = "_promotions/frozen.json"


class FrozenError(DistilrecError):
    """The run cannot be promoted, because the run in use is frozen."""


@dataclass(frozen=True)
class Freeze:
    """Since when the run in use is frozen, and why."""

    since: str
    """Time in UTC, as `2026-11-22 14:05 UTC`."""
    reason: str

    def __str__(self) -> str:
        return f"frozen since {self.since} ({self.reason})"


def frozen(root: Path) -> Freeze | None:
    """The freeze of an output folder; None if there is none. A damaged file counts as a freeze."""
    try:
        return Freeze(**json.loads((root / FILE).read_text()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError) as error:
        return Freeze("an unknown time", f"{root / FILE} cannot be read: {error}")


def check_not_frozen(root: Path, ds: str) -> None:
    """Raise FrozenError if the run of a date cannot be promoted now. The text says what to do."""
    if freeze := frozen(root):
        raise FrozenError(f"{ds} stays out of use: {freeze}. `distilrec unfreeze`, then `distilrec promote --ds {ds}`")


def freeze(root: Path, reason: str) -> Freeze:
    """Freeze the run in use. The caller holds `promotions.switching`."""
    now = Freeze(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", reason)
    write_file(root / FILE, json.dumps(asdict(now)).encode())
    return now


def unfreeze(root: Path) -> None:
    """End the freeze. The caller holds `promotions.switching`."""
    drop(root / FILE)
    (root / FILE).unlink()
    sync((root / FILE).parent)
