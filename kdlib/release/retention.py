"""Remove what no night needs any more: never what is in use, nor what the kept nights consist of.

A version goes aside in one rename and is removed there: where that fails half-way, as on NFS while somebody has a file
open, nobody who looks for the version finds a part of it and takes it for the whole.
"""

import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from kdlib.release import promotions
from kdlib.store import partitions

ASIDE = "removed."
"""How the name of a version begins that has gone aside, into staging."""


def remove_old_nights(
    root: Path, *, keep: int, before: str, busy: Collection[str] = (), warn: Callable[[str], object] = warnings.warn
) -> list[str]:
    """Remove nights older than the newest `keep` promoted ones, versions of earlier dates that were replaced, and what
    runs of older dates left when they were given up: logs, checkpoints, half-made tables.

    Args:
      root: the folder of all outputs.
      keep: promoted nights that stay, and can be rolled back to.
      before: the run's date; replaced versions of this date or a later one stay, for whoever reads them now.
      busy: dates that a run is at work on, a backfill say; nothing of theirs is removed, nor the nights that they go on from.
      warn: gets to know of what could not be removed; the other nights are.

    Returns:
      The removed dates, each once.
    """
    nights = promotions.nights(root)[-keep:]
    in_use = promotions.current(root)
    if in_use is None or not nights:
        return []
    oldest = min(nights[0].ds, in_use.ds)
    earlier = [night for ds in busy if (night := promotions.last_night(root, before=ds))]
    gone_on_from = {night.ds for night in earlier}  # as promoted, and as made again since
    needed = {(name, n.ds, version) for n in (*nights, in_use, *earlier) for name, version in n.versions.items()}
    removed, left = set[str](), list[str]()
    promotions.mark_removed(root, before=oldest, busy={*busy, *gone_on_from})
    staging = root / partitions.STAGING
    staging.mkdir(exist_ok=True)
    for table, folder in _version_folders(root / partitions.VERSIONS):
        ds, _, version = folder.name.removeprefix("ds=").partition(".")
        if ds in busy or (table, ds, version) in needed:
            continue
        link = root / table / f"ds={ds}"
        linked = link.is_symlink() and link.resolve() == (folder / "data").resolve()
        if (linked and ds in gone_on_from) or (ds >= oldest and (linked or ds >= before)):
            continue
        with _or_left(folder, left):
            if linked:
                link.unlink()
            name = f"{ASIDE}{table.replace('/', '.')}.{ds}.{version}"
            folder.rename(staging / f"{name}.{uuid.uuid4().hex[:8]}")
            if ds < oldest:
                removed.add(ds)
    for path in staging.glob(f"{ASIDE}*"):
        _remove(path, left)
    for place in ("logs", "quarantine_failed", "search_quarantine_failed", partitions.CHECKPOINTS, partitions.STAGING):
        for path in (root / place).glob("*ds=*"):
            ds = path.name.partition("ds=")[2][: len("YYYY-MM-DD")]
            if ds < oldest and ds not in busy:
                _remove(path, left)
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        warn(f"not removed: {left[0]}{more}. The next promotion tries again")
    return sorted(removed)


def _remove(path: Path, left: list[str]) -> None:
    with _or_left(path, left):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def _or_left(path: Path, left: list[str]) -> Iterator[None]:
    """Note a path that cannot be removed, and why; one that another run's promotion has just removed is fine."""
    try:
        yield
    except FileNotFoundError:
        pass
    except OSError as error:
        left.append(f"{path} ({error.strerror or error})")


def _version_folders(home: Path) -> Iterator[tuple[str, Path]]:
    """(table, version folder) of all there are; a table's name may hold a slash."""
    for place, folders, _ in os.walk(home):
        for name in [name for name in folders if name.startswith("ds=")]:
            folders.remove(name)  # not into the data
            yield str(Path(place).relative_to(home)), Path(place, name)
