"""Which night is in use: one link, switched by one rename, for table and model together; and the record of each switch.

    root/promoted                              a link to the record in force
    root/_promotions/00003.ds=2026-11-22/      never written again, but for the mark that the night is removed
        promotion.json
        recommendations -> ../../_versions/recommendations/ds=2026-11-22.<version>/data
        models/student  -> …

A reader of `root/promoted/recommendations` finds the last night that passed its gates, and a rollback moves it back.
"""

import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from kdlib.errors import InputError
from kdlib.store import partitions
from kdlib.store.partitions import Manifest

LINK = "promoted"
RECORDS = "_promotions"
REMOVED = "removed"
"""An empty file in the record of a night that is removed."""
LINKED = ("recommendations", "models/student", "item_vocabulary")
"""What a record holds a link to: what serves, and what explains it."""
SEARCH = ("search_rankings", "search_index", "models/search_student")
"""What it links to besides, or instead where a shop has search alone."""


@dataclass(frozen=True)
class Promotion:
    """One switch."""

    number: int
    """Counts all switches, from 1."""
    ds: str
    """The night that is in use from here on."""
    action: str
    """`promote` or `rollback`."""
    versions: dict[str, str]
    """Table or model → version, of all that this night consists of."""
    forced: list[str]
    """Gates that failed and were overruled."""
    reason: str
    """The words given with `--force` or `--reason`; empty without."""
    unix_seconds: float


def history(root: Path) -> list[Promotion]:
    """All switches, oldest first."""
    return [_read(folder) for folder in sorted((root / RECORDS).glob("*.ds=*"))]


def current(root: Path) -> Promotion | None:
    """The switch in force; None before the first."""
    link = root / LINK
    return _read(link.resolve()) if link.exists() else None


def nights(root: Path, *, before: str = partitions.EVER, holding: str | None = None) -> list[Promotion]:
    """The promoted nights strictly before a date, all without one, by date, each with its last promotion; rolled-back ones do not count.

    With `holding`, a table or model, only those that consist of it too and have not been removed as too old. One whose files
    are gone otherwise counts: what goes on from it must fail.
    """
    found: dict[str, Promotion] = {}
    for switch in history(root):
        if switch.action == "rollback":
            found = {ds: night for ds, night in found.items() if ds < switch.ds}
        found[switch.ds] = switch
    return [found[ds] for ds in sorted(found) if ds < before and (holding is None or _holds(root, found[ds], holding))]


def last_night(root: Path, *, before: str, holding: str | None = None) -> Promotion | None:
    """The last of `nights`; None where there is none."""
    return next(reversed(nights(root, before=before, holding=holding)), None)


def last_use(root: Path, ds: str, versions: Mapping[str, str]) -> tuple[Promotion | None, Promotion | None]:
    """The last switch to these versions of a night, and the rollback that has withdrawn them since; None for what is not.

    Args:
      root: the folder of all outputs.
      ds: the night.
      versions: table or model → version; others that the night consisted of do not matter.
    """
    used = withdrawn = None
    for switch in history(root):
        if switch.ds == ds and versions.items() <= switch.versions.items():
            used, withdrawn = switch, None
        elif used and switch.action == "rollback" and switch.ds < ds:
            withdrawn = withdrawn or switch
    return used, withdrawn


def folder_of(root: Path, night: Promotion, name: str) -> Path:
    """Where a part of a promoted night lies."""
    return partitions.version_folder(root, name, night.ds, night.versions[name])


def manifest_of(root: Path, night: Promotion, name: str) -> Manifest:
    """The manifest of a part of a promoted night; InputError where it is gone."""
    return partitions.version_manifest(root, name, night.ds, night.versions[name])


def promote(
    root: Path, ds: str, versions: Mapping[str, str], *, forced: list[str] | None = None, reason: str = ""
) -> Promotion:
    """Put a night in use; nothing happens where just this is in use, or a later night.

    Args:
      root: the folder of all outputs.
      ds: the night.
      versions: of published partitions of that date; those of `LINKED` and `SEARCH` among them are linked to.
      forced: gates that failed and were overruled.
      reason: why.

    Returns:
      What is in use now.
    """
    with _one_at_a_time(root):
        now = current(root)
        if now is not None and (now.ds > ds or (now.ds, now.versions) == (ds, dict(versions))):
            return now
        return _switch(root, ds, "promote", dict(versions), forced or [], reason)


def rollback(root: Path, ds: str, *, reason: str = "") -> Promotion:
    """Put an earlier promoted night in use again, table and model together.

    Raises:
      InputError: that night was never promoted, or its files are gone; names the nights there are.
    """
    earlier = [night for night in history(root) if night.ds == ds and night.action == "promote"]
    if not earlier:
        known = ", ".join(sorted({night.ds for night in history(root)})) or "none"
        raise InputError(
            f"{ds} was never promoted under {root}; nights to roll back to: {known}. One that was made but not promoted comes"
            " into use by a rollback to a night before it, and `distilrec promote` for it"
        )
    last = earlier[-1]
    with _one_at_a_time(root):
        return _switch(root, ds, "rollback", last.versions, last.forced, reason)


@contextmanager
def _one_at_a_time(root: Path) -> Iterator[None]:
    """Runs of different dates may switch at the same moment: each waits for the other, and gets a number of its own."""
    (root / RECORDS).mkdir(parents=True, exist_ok=True)
    with (root / RECORDS / "lock").open("a") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _switch(root: Path, ds: str, action: str, versions: dict[str, str], forced: list[str], reason: str) -> Promotion:
    number = 1 + max((switch.number for switch in history(root)), default=0)
    switch = Promotion(number, ds, action, versions, forced, reason, time.time())
    record = _record(root, number, ds)
    staging = root / partitions.STAGING / f"promotion.{uuid.uuid4().hex[:8]}"
    staging.mkdir(parents=True)
    try:
        (staging / "promotion.json").write_text(json.dumps(asdict(switch), indent=1))
        for name in (one for one in (*LINKED, *SEARCH) if one in versions):
            data = partitions.version_folder(root, name, ds, versions[name])
            if not data.is_dir():
                raise InputError(
                    f"{name} of {ds}, version {versions[name]}, is not there any more ({data}): choose another night,"
                    " or run this one again"
                )
            link = staging / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(data, (record / name).parent), target_is_directory=True)
        record.parent.mkdir(parents=True, exist_ok=True)
        staging.rename(record)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    partitions.switch_link(root / LINK, record, scratch=staging)
    return switch


def mark_removed(root: Path, *, before: str, busy: Collection[str] = ()) -> None:
    """Note that the nights before a date, but for the busy ones, are removed on purpose, with all their tables."""
    for switch in history(root):
        if switch.ds < before and switch.ds not in busy:
            (_record(root, switch.number, switch.ds) / REMOVED).touch()


def _holds(root: Path, night: Promotion, name: str) -> bool:
    removed = (_record(root, night.number, night.ds) / REMOVED).exists()
    return name in night.versions and (not removed or folder_of(root, night, name).is_dir())


def _record(root: Path, number: int, ds: str) -> Path:
    return root / RECORDS / f"{number:05d}.ds={ds}"


def _read(folder: Path) -> Promotion:
    try:
        return Promotion(**json.loads((folder / "promotion.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"no usable record of a promotion at {folder}: {error}. Remove that folder; `distilrec rollback --to DS`"
            " then names the night to use"
        ) from None
