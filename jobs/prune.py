"""Remove old runs by hand: `distilrec prune`. It also works on a full disk, and where no run was ever promoted."""

import errno
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from jobs.runtime.console import say, warn
from jobs.runtime.inputs import starts_of
from jobs.runtime.lock import held_dates
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError
from kdlib.release import promotions, retention
from kdlib.store import partitions


def run(config: RunConfig, *, keep: int | None, dry_run: bool) -> None:
    """Remove all but the newest runs, and say how many bytes that frees.

    What ended runs have left goes first: its removal needs no byte on the disk.

    Args:
      config: the run config.
      keep: number of promoted runs that stay; before the first promotion, of dates. None: `retention.nights`.
      dry_run: only print what would go.

    Raises:
      ConfigError: the disk is so full that the lease cannot be written.
      InputError: nobody can say which run is in use.
      BusyError: another process switches runs.
    """
    root, left = config.root, list[str]()
    staging, days, sizes = root / partitions.STAGING, {ds for _, ds in partitions.links(root)}, Counter[str]()
    aside = sorted(staging.glob(f"{retention.ASIDE}*"))
    total = _removed(aside, "tables that an earlier removal has left", left, dry_run=dry_run)
    with _room_for_leases(root):
        spare = [path for path in retention.leftovers(root, lambda: held_dates(config)) if path not in aside]
        total += _removed(spare, "unfinished tables of runs that have ended", left, dry_run=dry_run)
        busy = held_dates(config)
        with nullcontext() if dry_run else promotions.switching(root, "prune"):
            old = retention.old_versions(
                root,
                keep=keep or config.retention.nights,
                before=max(days, default=partitions.EVER),
                busy=busy,
                starts=starts_of(config, busy),
            )
            for one in old.versions:
                what = one.ds if one.ds < old.oldest else f"replaced tables of {one.ds}"
                sizes[what] += retention.bytes_of(one.folder)
            if not dry_run:
                retention.move_aside(root, old, left)
    for what, size in sorted(sizes.items()):
        say(f"  {what}: {in_words(size)}")
    for path in () if dry_run else staging.glob(f"{retention.ASIDE}*"):
        retention.remove(path, left)
    logs = [path for path in retention.leftovers_before(root, old.oldest, busy) if path not in (*aside, *spare)]
    total += sizes.total() + _removed(logs, f"logs and checkpoints of dates before {old.oldest}", left, dry_run=dry_run)
    kept = _stay(sorted(days - set(sizes)))
    if dry_run:
        say(
            f"prune: would remove {in_words(total)} from {config.place()}{kept}. Nothing is removed yet, because of --dry-run"
        )
    else:
        say(f"prune: removed {in_words(total)} from {config.place()}{kept}")
    if busy:
        say(f"prune: runs work on {', '.join(sorted(busy))}; these dates and what they start from stay")
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        warn(f"prune: warning: not removed: {left[0]}{more}. Run `distilrec prune` again")


def _stay(days: list[str]) -> str:
    if not days:
        return ""
    return f"; {days[0]} stays" if len(days) == 1 else f"; {len(days)} dates stay, {days[0]} to {days[-1]}"


def _removed(paths: Collection[Path], what: str, left: list[str], *, dry_run: bool) -> int:
    """Remove paths, and print what they are; returns their bytes."""
    size = sum(map(retention.bytes_of, paths))
    if paths:
        say(f"  {what}: {in_words(size)}")
    for path in () if dry_run else paths:
        retention.remove(path, left)
    return size


@contextmanager
def _room_for_leases(root: Path) -> Iterator[None]:
    """ConfigError where the disk has no room for the lease of a date or of all switches."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        largest = max((root / "logs").glob("ds=*"), key=retention.bytes_of, default=None)
        what = f", for example {largest} ({in_words(retention.bytes_of(largest))})" if largest else ""
        raise ConfigError(
            f"the disk of {root} is full ({error.strerror}). Not even a lease of a few bytes can be written, so no run is"
            f" removed. Free a little there: old logs, or checkpoints of runs that need not resume{what}. Then run"
            " `distilrec prune` again"
        ) from None


def in_words(size: int) -> str:
    """Bytes as a text."""
    return f"{size:,} bytes" if size < 2**20 else f"{size / 2**20:,.1f} MiB"
