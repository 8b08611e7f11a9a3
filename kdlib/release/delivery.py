"""Deliver: copy the tables of the run in use to a place where others read them.

An object store has no rename and no links. So the switch is the write of one small object, which is atomic:

    s3://shop/recommender/promoted.json                                          names the files of the run in use
    s3://shop/recommender/_versions/recommendations/ds=2026-11-22.<digest>/part-00000-<version>.parquet

With Delta Lake the switch is the table's own commit. The newest `ds` in the table is then the run in use, and
`promoted.json` only records the last delivery. The export of a run is delivered as files in both formats.
"""

import hashlib
import uuid
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.dataset as pads

from kdlib.config.operations import EXPORT
from kdlib.errors import BusyError, DeliveryError, InputError
from kdlib.privacy import forgetting
from kdlib.release import promotions
from kdlib.release.delta_tables import check_delta, commit, foreign_tables, remove_delta_tables, vacuum
from kdlib.release.parquet_files import dataset_of, folder_of, folders_of, remove_folders, send
from kdlib.release.places import (
    DELIVERED,
    POINTER,
    TABLES,
    Delivered,
    cannot_deliver,
    delivered,
    first_line,
    place,
    place_outside,
    read_pointer,
    write_pointer,
)
from kdlib.release.promotions import Promotion
from kdlib.store import leases
from kdlib.store.folders import ConflictError, Folder
from kdlib.store.mirror import write_file
from kdlib.store.working_copy import held

LEASE = f"{leases.LOCKS}/deliver.json"
WAIT_SECONDS = 300
"""How long a delivery waits for another delivery from the same output folder."""


ATTEMPTS = 5
"""How often another delivery may replace the pointer before a delivery gives up."""


def check_place(root: Path, url: str, *, delta: bool) -> None:
    """Check a place when a run begins, without connecting to it: a wrong setting must not show only at the end.

    Raises:
      ConfigError: as `deliver`; for Delta Lake as `deliver_delta`.
    """
    if delta:
        check_delta()
    place_outside(root, url)


def read(url: str, table: str) -> pads.Dataset:
    """The table in use at a place, as a dataset of exactly its files: one run, even while another one is delivered.

    Raises:
      InputError: the place has no such table in Parquet format.
    """
    found = delivered(url)
    if found is None or table not in found.files:
        raise InputError(f"no {table} was delivered to {url} as Parquet: run `distilrec deliver` first")
    return dataset_of(place(url), [file["path"] for file in found.files[table]])


def deliver(root: Path, url: str, *, keep: int, warn: Callable[[str], object] = warnings.warn) -> Delivered:
    """Copy the run in use to a place as Parquet files, and switch the readers there.

    Files that the place has are not sent again. Old files are removed after the switch. The newest `keep` promoted runs
    stay, and the run that was in use before, for readers who have just opened it. Delta tables of an earlier
    `delivery.format` are removed by the second delivery.

    With `keep` 0 everything but the run in use is removed at once. The same happens when a user was erased from the
    output folder since the last delivery: afterwards no file at the place names that user.

    Args:
      root: the output folder.
      url: the place. Credentials come from the environment, as for every client of that store.
      keep: number of promoted runs that stay at the place.
      warn: called with a text when old files could not be removed, or a broken pointer is replaced.

    Returns:
      What is in use at the place. This is a later run where another delivery has brought one meanwhile.

    Raises:
      ConfigError: as `place_outside`.
      InputError: no run is in use in the output folder.
      DeliveryError: the place cannot be reached or written; it then keeps what was in use.
      DeliveryError: another output folder delivers to the place, or another delivery does not end.
      DeliveryError: files that may name a forgotten user could not be removed.
    """

    def send_all(step: _Step) -> Delivered:
        return replace(step.now, files={table: send(root, step.night, table, step.there) for table in step.now.folders})

    def tidy(step: _Step) -> None:
        remove_folders(step.there, kept=_kept_folders(root, step, keep, DELIVERED))
        if step.erases or not step.before or _has_parquet(step.before):  # else somebody may still read the Delta tables
            remove_delta_tables(step.there)

    return _deliver(root, url, keep, warn, send_all, tidy)


def deliver_delta(root: Path, url: str, *, keep: int, warn: Callable[[str], object] = warnings.warn) -> Delivered:
    """Deliver the run in use as Delta Lake tables, partitioned by `ds`, with one commit for each table.

    The commit also deletes later dates, which a rollback has taken out of use, and dates older than the newest `keep`
    promoted runs. It empties a table that the run in use does not have. A run that the table already holds is not
    written again. Files that the table no longer uses stay a week for readers. Parquet files of an earlier
    `delivery.format` are removed by the second delivery. A table that distilrec has not written stays as it is.

    With `keep` 0 everything but the run in use is removed at once. The same happens when a user was erased from the
    output folder since the last delivery.

    Args and returns: as `deliver`.

    Raises:
      ConfigError: as `deliver`; or the package `deltalake` is not installed.
      DeliveryError: as `deliver`. The first of two tables may then hold the new run, and the second the run before.
      DeliveryError: a table of the run is there, and distilrec has not written it.
    """
    check_delta()

    def commit_all(step: _Step) -> Delivered:
        kept = sorted({one.ds for one in _kept(root, step.night, 0 if step.erases else keep)})
        for table in _own_tables(step):
            name = step.now.folders.get(table, "")
            commit(root, step.night, table, step.there, kept=kept, name=name, rewrite=step.erases)
        files = {EXPORT: send(root, step.night, EXPORT, step.there)} if EXPORT in step.now.folders else {}
        return replace(step.now, files=files)

    def tidy(step: _Step) -> None:
        if step.now == step.before and not step.erases:
            return
        for table in _own_tables(step):
            vacuum(step.there, table, name=step.now.folders.get(table, ""), all_now=step.erases)
        if step.erases or not _has_parquet(step.before):  # else somebody may still read the Parquet files
            remove_folders(step.there, kept=_kept_folders(root, step, keep, (EXPORT,)))

    return _deliver(root, url, keep, warn, commit_all, tidy)


@dataclass(frozen=True)
class _Step:
    """One attempt of a delivery."""

    there: Folder
    night: Promotion
    """The run in use."""
    before: Delivered | None
    """What the pointer says when the attempt begins."""
    now: Delivered
    """What the pointer is to say. `files` is empty until they are sent."""
    erases: bool
    """The place may name forgotten users, so that all other files are removed."""


def _deliver(
    root: Path,
    url: str,
    keep: int,
    warn: Callable[[str], object],
    bring: Callable[[_Step], Delivered],
    tidy: Callable[[_Step], None],
) -> Delivered:
    """Bring the run in use to a place, replace the pointer, and remove old files."""
    there = place_outside(root, url)
    with _one_at_a_time(root, url):
        lost = 0
        while True:
            night, (found, before) = _in_use(root), read_pointer(there)
            if lost and before and before.owner == _owner(root) and before.number > night.number:
                return before
            now = _next(root, url, night, before)
            step = _Step(there, night, before, now, keep == 0 or _has_erased(root, before, now))
            try:
                step = replace(step, now=bring(step))
                if _in_use(root) != night:  # another run was promoted meanwhile
                    continue
                first = replace(step.now, erased=None) if step.erases else step.now  # until the old files are removed
                if first != before:
                    if found and not before:
                        warn(f"{url}/{POINTER} has {len(found.data)} bytes of an unfinished delivery. It is replaced")
                    found = write_pointer(there, first, over=found)
                break
            except ConflictError as error:  # another delivery was faster
                lost += 1
                if lost == ATTEMPTS:
                    raise cannot_deliver(url, error) from error
            except OSError as error:
                raise cannot_deliver(url, error) from error
        with _after_the_switch(url, step, warn):
            tidy(step)
            if step.erases:
                write_pointer(there, step.now, over=found)
    return step.now


@contextmanager
def _one_at_a_time(root: Path, url: str) -> Iterator[None]:
    """Hold the lease of all deliveries from an output folder, of whatever date.

    Raises:
      DeliveryError: another delivery holds it for more than `WAIT_SECONDS`, or it cannot be written.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(held(root, LEASE, "deliver", seconds=WAIT_SECONDS))
        except BusyError as error:
            raise DeliveryError(
                f"another delivery from {root} has not ended within {WAIT_SECONDS} s ({error}). The run is in use there, but"
                " was not sent: run `distilrec deliver` when the other delivery has ended"
            ) from None
        except OSError as error:
            raise cannot_deliver(url, error) from error
        yield


def _next(root: Path, url: str, night: Promotion, before: Delivered | None) -> Delivered:
    """What the pointer is to say, without its files.

    Raises:
      DeliveryError: another output folder delivers to the place, or the place has a later switch of this one.
    """
    owner = _owner(root)
    if before and before.owner not in ("", owner):
        raise DeliveryError(
            f"{url}/{POINTER} was delivered by the output folder {before.owner}, and {root} is {owner}: two output"
            " folders would remove each other's files. Give each a delivery.url of its own. If the other one is no"
            f" longer used, remove {POINTER} and run `distilrec deliver`"
        )
    if before and before.number > night.number:
        raise DeliveryError(
            f"{url}/{POINTER} has switch {before.number} (to {before.ds}), but the last switch in {root} is"
            f" {night.number} (to {night.ds}): this looks like an older copy of the output folder. To deliver from it"
            f" anyway, remove {POINTER} and run `distilrec deliver`"
        )
    versions = {name: night.versions[name] for name in DELIVERED if name in night.versions}
    folders = {name: folder_of(root, night, name) for name in versions}
    return Delivered(night.ds, night.number, versions, {}, folders, owner, _forgotten(root))


def _own_tables(step: _Step) -> list[str]:
    """The Delta tables that a delivery may write.

    Raises:
      DeliveryError: somebody else's table has the name of a table of the run.
    """
    foreign = foreign_tables(step.there)
    if taken := [table for table in foreign if table in step.night.versions]:
        raise DeliveryError(
            f"{step.there.url}/{taken[0]} has files that distilrec has not written, and nothing was written there."
            " Readers still find the run before: give another delivery.url or move that folder away, then run"
            " `distilrec deliver`"
        )
    return [table for table in TABLES if table not in foreign]


def _owner(root: Path) -> str:
    """A name that no other output folder has. It stays the same when the folder is moved."""
    path = root / promotions.RECORDS / "owner"
    if not path.exists():
        write_file(path, f"{root.name}.{uuid.uuid4().hex[:8]}".encode())
    return path.read_text()


def _forgotten(root: Path) -> str:
    """A digest of the forgotten users of an output folder; empty if it has none."""
    users = "".join(forgetting.forgotten(root))
    return hashlib.sha256(users.encode()).hexdigest()[:12] if users else ""


def _has_erased(root: Path, before: Delivered | None, now: Delivered) -> bool:
    """Whether files at the place may name a user who was erased from the output folder since the last delivery."""
    if before is None:  # files without a pointer may be there, so any forgotten user may be in them
        return now.erased != ""
    here = folders_of(root, before)
    return before.erased != now.erased or any(before.folders.get(table, here[table]) != here[table] for table in here)


@contextmanager
def _after_the_switch(url: str, step: _Step, warn: Callable[[str], object]) -> Iterator[None]:
    """Around the removal of old files. If it fails, the run is in use at the place all the same: warn.

    Raises:
      DeliveryError: the removal failed, and the files may name a forgotten user.
    """
    try:
        yield
    except OSError as error:
        text = f"{step.night.ds} is in use at {url}, but older files may still be there: {first_line(error)}."
        if step.erases:
            raise DeliveryError(
                f"{text} They may name a forgotten user: run `distilrec deliver` when they can be removed"
            ) from None
        warn(f"{text} The next delivery tries again")


def _has_parquet(delivery: Delivered | None) -> bool:
    """Whether a delivery has brought tables as Parquet files."""
    return delivery is not None and any(table in delivery.files for table in TABLES)


def _kept_folders(root: Path, step: _Step, keep: int, names: Collection[str]) -> set[str]:
    """The folders of these tables, or of the export, that stay at the place."""
    nights = _kept(root, step.night, 0 if step.erases else keep)
    kept = {folder for one in nights for name, folder in folders_of(root, one).items() if name in names}
    kept |= _folders_in(step.now, names)
    if step.before and not step.erases:  # somebody may still read these
        kept |= _folders_in(step.before, names)
    return kept


def _folders_in(delivery: Delivered, names: Collection[str]) -> set[str]:
    """The folders of a delivery's files, relative to the place."""
    return {file["path"].rpartition("/")[0] for name in names for file in delivery.files.get(name, [])}


def _in_use(root: Path) -> Promotion:
    night = promotions.current(root)
    if night is None:
        raise InputError(f"no run is in use under {root}, so nothing can be delivered: run `distilrec nightly` first")
    return night


def _kept(root: Path, night: Promotion, keep: int) -> list[Promotion]:
    """The runs that stay at a place: the newest `keep`, and the run in use."""
    return [*promotions.nights(root)[-keep:], night] if keep else [night]
