"""Remove old runs: never the run in use, nor anything that the kept runs consist of.

A version is first moved aside in one rename, then removed there. The removal may fail half-way, as on NFS while
somebody has a file open. Even then nobody finds a part of the version under its own path.
"""

import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kdlib.errors import BusyError
from kdlib.release import promotions
from kdlib.store import leases, partitions
from kdlib.store.folders import DiskFolder

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
    staging = root / partitions.STAGING
    staging.mkdir(exist_ok=True)
    left = list[str]()
    with promotions.switching(root, "removal of old runs"):
        oldest, removed = _move_aside(root, keep=keep, before=before, busy=busy, starts=starts, left=left)
    if oldest is None:
        return []
    for path in staging.glob(f"{ASIDE}*"):
        _remove(path, left)
    _remove_leftovers(root, oldest, own=before, busy=busy, left=left)
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        warn(f"not removed: {left[0]}{more}. The next promotion tries again")
    return sorted(removed)


def _move_aside(
    root: Path, *, keep: int, before: str, busy: Collection[str], starts: Collection[str], left: list[str]
) -> tuple[str | None, set[str]]:
    """Move what may go to the staging folder; returns the oldest date that stays, and the dates that are removed.

    The caller holds `switching`: between the choice and the move, no rollback may go to a run that is moved. The lease of a
    date keeps a run of that date from beginning meanwhile.
    """
    nights, in_use = promotions.nights(root)[-keep:], promotions.current(root)
    if in_use is None or not nights:
        return None, set()
    oldest, removed = min(nights[0].ds, in_use.ds), set[str]()
    promoted = [night for ds in busy if (night := promotions.last_night(root, before=ds))]
    start_days = {*starts, *(night.ds for night in promoted)}
    needed = {(name, n.ds, version) for n in (*nights, in_use, *promoted) for name, version in n.versions.items()}
    promotions.mark_removed(root, before=oldest, busy={*busy, *start_days})
    going: dict[str, list[tuple[str, Path, bool]]] = {}
    for table, folder in _version_folders(root / partitions.VERSIONS):
        ds, _, version = folder.name.removeprefix("ds=").partition(".")
        if ds in busy or (table, ds, version) in needed:
            continue
        linked = _is_linked(root, table, folder)
        if linked and ds in start_days:  # a busy run continues from it, even if it was made again after its promotion
            continue
        if ds >= oldest and (linked or ds >= before):
            continue
        going.setdefault(ds, []).append((table, folder, linked))
    for ds, versions in going.items():
        with _idle(root, ds, own=before) as idle:
            for table, folder, linked in versions if idle else []:
                with _or_left(folder, left):
                    if _is_linked(root, table, folder) != linked:  # a run of this date has just ended
                        continue
                    leases.check_held()
                    if linked:
                        (root / table / f"ds={ds}").unlink()
                    name = f"{ASIDE}{table.replace('/', '.')}.{folder.name.removeprefix('ds=')}.{uuid.uuid4().hex[:8]}"
                    folder.rename(root / partitions.STAGING / name)
                    if ds < oldest:
                        removed.add(ds)
    return oldest, removed


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
                lease = leases.held(DiskFolder(root, durable=False), leases.of_date(ds), "removal of old runs")
                stack.enter_context(lease)
            except BusyError:
                idle = False
        yield idle


def _remove_leftovers(root: Path, oldest: str, *, own: str, busy: Collection[str], left: list[str]) -> None:
    """Remove what runs of dates before `oldest` left beside their tables."""
    going: dict[str, list[Path]] = {}
    for place in ("logs", "quarantine_failed", "search_quarantine_failed", partitions.CHECKPOINTS, partitions.STAGING):
        for path in (root / place).glob("*ds=*"):
            ds = path.name.partition("ds=")[2][: len("YYYY-MM-DD")]
            if ds < oldest and ds not in busy:
                going.setdefault(ds, []).append(path)
    for ds, paths in going.items():
        with _idle(root, ds, own=own) as idle:
            for path in paths if idle else []:
                _remove(path, left)


def _remove(path: Path, left: list[str]) -> None:
    with _or_left(path, left):
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


def _version_folders(home: Path) -> Iterator[tuple[str, Path]]:
    """(table, version folder) of all versions. A table's name may hold a slash."""
    for place, folders, _ in os.walk(home):
        for name in [name for name in folders if name.startswith("ds=")]:
            folders.remove(name)  # do not walk into the data
            yield str(Path(place).relative_to(home)), Path(place, name)
