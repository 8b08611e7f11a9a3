"""Remove old runs: never the run in use, nor anything that the kept runs consist of.

A version is first moved aside in one rename, then removed there. The removal may fail half-way, as on NFS while
somebody has a file open. Even then nobody finds a part of the version under its own path.
"""

import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from kdlib.errors import BusyError, InputError
from kdlib.release import promotions
from kdlib.store import leases, partitions
from kdlib.store.mirror import drop, folder_of
from kdlib.store.working_copy import others

ASIDE = "removed."
"""Prefix of a version that was moved aside, in the staging folder."""


def remove_old_nights(
    root: Path,
    *,
    keep: int,
    before: str,
    busy: Collection[str] = (),
    starts: Collection[str] = (),
    warn: Callable[[str], object] = warnings.warn,
) -> list[str]:
    """Remove runs older than the newest `keep` promoted ones.

    Also removed: replaced versions of earlier dates, and the logs, checkpoints and unfinished tables of older dates.

    Args:
      root: the output folder.
      keep: number of promoted runs that stay, to roll back to.
      before: the run's date. Replaced versions of this date or a later one stay, because somebody may read them.
      busy: dates that another run works on, as a backfill. Their files stay, and so do the promoted runs before them,
        which they continue from.
      starts: dates of further runs that a busy run continues from, promoted or not. What their partitions point to stays.
      warn: called with a text when something could not be removed. Everything else is still removed.

    Returns:
      The removed dates, in order, each once.

    Raises:
      BusyError: another process switches runs, or has taken over from this one.
    """
    if promotions.current(root) is None:
        return []
    staging, left = root / partitions.STAGING, list[str]()
    with promotions.switching(root, "removal of old runs"):
        old = old_versions(root, keep=keep, before=before, busy=busy, starts=starts)
        moved = move_aside(root, old, left, own=before)
    for path in staging.glob(f"{ASIDE}*"):
        remove(path, left)
    remove_idle(root, leftovers_before(root, old.oldest, busy), left, own=before)
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        warn(f"not removed: {left[0]}{more}. The next promotion tries again")
    return sorted({one.ds for one in moved if one.ds < old.oldest})


class Version(NamedTuple):
    """A version of a table or model."""

    table: str
    ds: str
    folder: Path
    linked: bool
    """Whether the partition points to it."""


@dataclass(frozen=True)
class Old:
    """What may be removed."""

    oldest: str
    """The oldest date that stays; empty if there is none."""
    versions: list[Version]
    marked: Collection[str]
    """Dates before `oldest` that are not marked as removed."""


def old_versions(
    root: Path, *, keep: int, before: str, busy: Collection[str] = (), starts: Collection[str] = ()
) -> Old:
    """What `remove_old_nights` removes.

    Before the first promotion the newest `keep` dates with a partition stay.

    Raises:
      InputError: runs were promoted, and none is in use, because the link or its record is damaged.
    """
    nights, in_use = promotions.nights(root)[-keep:], promotions.current(root)
    if in_use:
        days = [night.ds for night in nights] and [in_use.ds, *(night.ds for night in nights)]
    elif promotions.history(root) or promotions.damaged_records(root):
        raise InputError(
            f"runs were promoted in {root}, but {promotions.LINK} leads to none, so that nobody can say what is in use:"
            " run `distilrec repair` first"
        )
    else:
        days = sorted({ds for _, ds in partitions.links(root)})[-keep:]
    oldest = min(days, default="")
    promoted = [night for ds in busy if (night := promotions.last_night(root, before=ds))]
    start_days = {*starts, *(night.ds for night in promoted)}
    kept = [*nights, *promoted, *([in_use] if in_use else [])]
    needed = {(name, night.ds, version) for night in kept for name, version in night.versions.items()}
    found = []
    for table, folder in version_folders(root / partitions.VERSIONS):
        ds, _, version = folder.name.removeprefix("ds=").partition(".")
        if ds in busy or (table, ds, version) in needed:
            continue
        linked = _is_linked(root, table, folder)
        if linked and ds in start_days:  # a busy run continues from it, even if it was made again after its promotion
            continue
        if not oldest or (ds >= oldest and (linked or ds >= before)):
            continue
        found.append(Version(table, ds, folder, linked))
    return Old(oldest, found, {*busy, *start_days})


def move_aside(root: Path, old: Old, left: list[str], *, own: str = "") -> list[Version]:
    """Move versions to the staging folder; returns those that were moved. What cannot be moved is added to `left`.

    The caller holds `switching`, since before `old_versions`: between the choice and the move, no rollback may go to a
    run that is moved. The lease of a date keeps a run of that date from beginning meanwhile.

    Args:
      root: the output folder.
      old: from `old_versions`.
      left: see above.
      own: the date whose lease the caller holds.
    """
    promotions.mark_removed(root, before=old.oldest, busy=old.marked)
    (root / partitions.STAGING).mkdir(exist_ok=True)
    going, moved = dict[str, list[Version]](), list[Version]()
    for one in old.versions:
        going.setdefault(one.ds, []).append(one)
    for ds, versions in going.items():
        with _idle(root, ds, own=own) as idle:
            for one in versions if idle else []:
                with _or_left(one.folder, left):
                    if _is_linked(root, one.table, one.folder) != one.linked:  # a run of this date has just ended
                        continue
                    leases.check_held()
                    if one.linked:
                        drop(root / one.table / f"ds={ds}")
                        (root / one.table / f"ds={ds}").unlink()
                    drop(one.folder)
                    version = one.folder.name.removeprefix("ds=")
                    name = f"{ASIDE}{one.table.replace('/', '.')}.{version}.{uuid.uuid4().hex[:8]}"
                    one.folder.rename(root / partitions.STAGING / name)
                    moved.append(one)
    return moved


def _is_linked(root: Path, table: str, folder: Path) -> bool:
    """Whether a version is the one that its partition points to."""
    link = root / table / folder.name.partition(".")[0]
    return link.is_symlink() and link.resolve() == (folder / "data").resolve()


@contextmanager
def _idle(root: Path, ds: str, *, own: str) -> Iterator[bool]:
    """Whether no other run works on a date; then none begins in the block. The date `own` is that of this run."""
    with ExitStack() as stack:
        idle = True
        if ds != own:
            try:
                stack.enter_context(leases.held(folder_of(root), leases.of_date(ds), "removal of old runs"))
            except BusyError:
                idle = False
        yield idle


def remove_idle(root: Path, paths: Iterable[Path], left: list[str], *, own: str = "") -> None:
    """Remove what runs have left beside their tables, except of dates that another run works on now."""
    going = dict[str, list[Path]]()
    for path in paths:
        going.setdefault(_date_in(path), []).append(path)
    for ds, of_date in going.items():
        with _idle(root, ds, own=own) as idle:
            for path in of_date if idle else []:
                remove(path, left)


def leftovers(root: Path, held: Callable[[], Collection[str]]) -> list[Path]:
    """What ended runs and removals have left in the staging folder.

    Args:
      root: the output folder.
      held: the dates that runs work on. It is called last: a run that starts meanwhile makes files of its own.
    """
    staging = root / partitions.STAGING
    found, dated = (
        sorted(staging.glob(f"{ASIDE}*")),
        sorted({*staging.glob("*.ds=*"), *others(root, partitions.STAGING)}),
    )
    busy = held()
    return found + [path for path in dated if path not in found and _date_in(path) not in {"", *busy}]


def leftovers_before(root: Path, oldest: str, busy: Collection[str]) -> list[Path]:
    """What runs of dates before `oldest` have left beside their tables."""
    places = ("logs", "quarantine_failed", "search_quarantine_failed", partitions.CHECKPOINTS, partitions.STAGING)
    found = sorted({*(path for place in places for path in (root / place).glob("*ds=*")), *others(root, *places)})
    return [path for path in found if "" < _date_in(path) < oldest and _date_in(path) not in busy]


def _date_in(path: Path) -> str:
    return path.name.partition("ds=")[2][: len("YYYY-MM-DD")]


def bytes_of(path: Path) -> int:
    """Bytes of all files in a folder, or of a file."""
    files = (Path(place, name) for place, _, names in os.walk(path) for name in names)
    found = 0
    for file in files if path.is_dir() and not path.is_symlink() else [path]:
        with suppress(OSError):  # removed meanwhile
            found += file.lstat().st_size
    return found


def remove(path: Path, left: list[str]) -> None:
    """Remove a folder or a file. What cannot be removed is added to `left`, with the reason."""
    with _or_left(path, left):
        drop(path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def _or_left(path: Path, left: list[str]) -> Iterator[None]:
    """Add a path that cannot be removed to `left`, with the reason. Another run may have removed it: no fault."""
    try:
        yield
    except FileNotFoundError:
        pass
    except OSError as error:
        left.append(f"{path} ({error.strerror or error})")


def version_folders(home: Path) -> Iterator[tuple[str, Path]]:
    """(table, version folder) of all versions. A table's name may hold a slash."""
    for place, folders, _ in os.walk(home):
        for name in [name for name in folders if name.startswith("ds=")]:
            folders.remove(name)  # do not walk into the data
            yield str(Path(place).relative_to(home)), Path(place, name)
