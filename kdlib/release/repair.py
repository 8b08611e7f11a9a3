"""What a power cut, a full disk or a hand has damaged in an output folder, and what mends it."""

import shutil
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kdlib.errors import InputError
from kdlib.privacy import forgetting
from kdlib.release import promotions, retention
from kdlib.release.promotions import Promotion
from kdlib.store import leases, partitions
from kdlib.store.files import make_folder, sync
from kdlib.store.mirror import drop, folder_of, send
from kdlib.store.working_copy import refresh

DAMAGED = "_damaged"
"""Folder beside the records of switches, for those that cannot be read."""


@dataclass(frozen=True)
class Fault:
    """Something that is wrong in an output folder."""

    what: str
    """What is wrong, and where."""
    remedy: str
    """What `mend` does, or what a person has to do."""
    mend: Callable[[], object] | None = None
    """None: a person has to decide. Call it while `promotions.switching` is held."""


def faults(root: Path, held: Callable[[], Collection[str]], *, alone: bool = False) -> list[Fault]:
    """What is wrong in an output folder, in the order in which to mend it. Nothing is changed.

    Args:
      root: the output folder.
      held: the dates that runs work on. What is of these dates is left alone.
      alone: the caller holds `promotions.switching`.
    """
    refresh(root)  # in a store, nothing on this machine is evidence
    if copied := _without_links(root):
        return [copied]
    busy = set(held())
    in_use, found = _in_use(root)
    found += _damaged_run(root, in_use)
    for (table, ds), link in partitions.links(root).items():
        if ds not in busy and not link.exists():
            found.append(Fault(f"{table}/ds={ds} leads to nothing", "remove this link", partial(_remove, link)))
    used = {(name, in_use.ds, version) for name, version in in_use.versions.items()} if in_use else set()
    for table, folder in retention.version_folders(root / partitions.VERSIONS):
        ds, _, version = folder.name.removeprefix("ds=").partition(".")
        if ds not in busy and (table, ds, version) not in used:
            found += _damaged_version(root, table, ds, version)
    found += _forgotten(root)
    left = retention.leftovers(root, held)
    if alone or not leases.alive(folder_of(root), [promotions.SWITCHING]):
        left += sorted((root / partitions.STAGING).glob("promotion.*"))
    for path in left:
        what = f"{partitions.STAGING}/{path.name} was left by a run that has ended"
        found.append(Fault(f"{what} ({retention.bytes_of(path):,} bytes)", "remove it", partial(_remove, path)))
    return found


def _without_links(root: Path) -> Fault | None:
    """The fault of an output folder that was copied without its links: nothing in it can be switched."""
    names = [f"{table}/{folder.name[:13]}" for table, folder in retention.version_folders(root / partitions.VERSIONS)]
    found = [
        name for name in (promotions.LINK, *sorted(names)) if (root / name).is_dir() and not (root / name).is_symlink()
    ]
    if not found:
        return None
    what = f"{found[0]} is a folder, and should be a link: the output folder was copied without its links"
    return Fault(what, "copy it again from the original, with `cp -a` or `rsync -a`")


def _in_use(root: Path) -> tuple[Promotion | None, list[Fault]]:
    """The run that is in use, or will be once the faults of its records are mended; and these faults."""
    damaged = promotions.damaged_records(root)
    aside = f"move it to {promotions.RECORDS}/{DAMAGED}"
    found = [
        Fault(f"the record of a switch, {path.relative_to(root)}, cannot be read", aside, partial(_put_aside, path))
        for path in damaged
    ]
    records = promotions.history(root)
    try:
        if (now := promotions.current(root)) or not (records or damaged):
            return now, found
    except InputError:  # the record in force is damaged
        pass
    link = root / promotions.LINK
    newest = sorted([*damaged, *(promotions.record_of(root, one) for one in records)])[-1]
    day = (link.readlink() if link.is_symlink() else newest).name.partition("ds=")[2]
    what = f"{promotions.LINK} leads to no record" if link.is_symlink() else f"the link {promotions.LINK} is missing"
    whole = [one for one in records if not promotions.missing_from(root, one)]
    if not whole:
        remedy = "no promoted run is whole. Make one with `distilrec nightly`"
        return None, [*found, Fault(f"{what}, so that no run is in use", remedy)]
    # the names of records hold their dates: after a rollback whose record is lost, no later run comes into use
    last = max(whole, key=lambda one: (one.ds == day, one.ds < day, one.number))
    record = promotions.record_of(root, last)
    remedy = f"put the run of {last.ds} in use ({record.relative_to(root)})"
    return last, [*found, Fault(f"{what}, so that no run is in use", remedy, partial(_point_to, root, record))]


def _damaged_run(root: Path, in_use: Promotion | None) -> Iterator[Fault]:
    """The run in use, if files of it are missing. It is left alone: readers may use the rest."""
    lost = promotions.missing_from(root, in_use) if in_use else []
    if not in_use or not lost:
        return
    more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
    nights = promotions.nights(root, before=in_use.ds)
    earlier = next((one.ds for one in reversed(nights) if not promotions.missing_from(root, one)), None)
    back = f"go back with `distilrec rollback --to {earlier}`, or " if earlier else ""
    again = f"make it again with `distilrec nightly --ds {in_use.ds}`"
    yield Fault(f"the run in use, {in_use.ds}, has missing or cut files: {lost[0]}{more}", back + again)


def _damaged_version(root: Path, table: str, ds: str, version: str) -> Iterator[Fault]:
    """A version that is not in use, if it has no manifest, or if it is published and has missing or cut files."""
    link, data = root / table / f"ds={ds}", partitions.version_folder(root, table, ds, version)
    linked = link.is_symlink() and link.resolve() == data.resolve()
    name = data.parent.relative_to(root)
    try:
        lost = partitions.damaged(root, partitions.version_manifest(root, table, ds, version))
    except InputError:
        links = [link] if linked else []
        yield Fault(f"{name} has no usable manifest", "remove it", lambda: [*map(_remove, [*links, data.parent])])
        return
    if linked and lost and data.is_dir():
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        remedy = f"remove the link {table}/ds={ds}, so that the next run of {ds} makes it again"
        yield Fault(f"{name} has missing or cut files: {lost[0]}{more}", remedy, partial(_remove, link))


def _forgotten(root: Path) -> Iterator[Fault]:
    """The list of forgotten users, if it cannot be read."""
    if not forgetting.list_is_damaged(root):
        return
    what = f"the list of forgotten users, {forgetting.LIST}, is empty or damaged"
    if forgetting.has_copy(root):
        yield Fault(what, f"put it back from {forgetting.COPY}", lambda: forgetting.put_back(root))
    else:
        yield Fault(what, "put it back from a backup; or remove it and `distilrec forget` each user again")


def _put_aside(record: Path) -> None:
    folder = record.parent / DAMAGED
    make_folder(folder)
    name = f"{record.name}.{uuid.uuid4().hex[:8]}" if (folder / record.name).exists() else record.name
    record.rename(folder / name)
    send(folder / name)
    drop(record)
    sync(folder)
    sync(record.parent)


def _point_to(root: Path, record: Path) -> None:
    scratch = root / partitions.STAGING / f"promotion.{uuid.uuid4().hex[:8]}"
    make_folder(scratch.parent)
    partitions.switch_link(root / promotions.LINK, record, scratch=scratch)


def _remove(path: Path) -> None:
    drop(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
