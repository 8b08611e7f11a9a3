"""Copy the night in use to where others read it: an object store, or any other file system that `pyarrow.fs` reaches.

An object store has no rename and no links, so the switch is the writing of one small object, which is atomic:

    s3://shop/recommender/promoted.json                                          names the files of the night in use
    s3://shop/recommender/_versions/recommendations/ds=2026-11-22.<digest>/part-00000-<version>.parquet

As Delta Lake the switch is the table's own commit, and the newest `ds` of the table is the night in use; `promoted.json`
then only says what was delivered last.
"""

import hashlib
import json
import re
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
from pyarrow import fs

from kdlib.config.operations import refuse_credentials
from kdlib.errors import ConfigError, DeliveryError, InputError, extra_hint
from kdlib.privacy import forgetting
from kdlib.release import promotions
from kdlib.release.promotions import Promotion
from kdlib.store import partitions
from kdlib.store.locks import lock

POINTER = "promoted.json"
TABLES = ("recommendations", "search_rankings")
"""What others read; models and intermediate tables stay at home."""
WAIT_SECONDS = 300
"""So long a delivery waits for another one's end."""
PROPERTY = "distilrec.files"
"""Of a commit of a Delta table: the name of the night's folder (`Delivered.folders`)."""


@dataclass(frozen=True)
class Delivered:
    """What `promoted.json` says, and what is in use at a place."""

    ds: str
    number: int
    """Of the switch (`kdlib.release.promotions`) that put this night in use."""
    versions: dict[str, str]
    """Table → version of its partition."""
    files: dict[str, list[dict[str, Any]]]
    """Table → its files: `path` relative to the place, `bytes`, `sha256`, `rows`. Empty for Delta Lake, which has its log."""
    folders: dict[str, str] = field(default_factory=dict)
    """Table → the name of its folder, which is another one when a user was erased from its files at home."""
    owner: str = ""
    """The output folder that it came from (`_owner`)."""
    erased: str | None = ""
    """Digest of the users forgotten at home whom no file there names; None while older files may still name one."""


def check_place(root: Path, url: str, *, delta: bool) -> None:
    """Look at a place before a run begins, without asking there: a wrong one must not come out when the night is in use.

    Raises:
      ConfigError: as `deliver`; or, for Delta Lake, as `deliver_delta`.
    """
    if delta:
        _delta_error()
    if not url.startswith(("hdfs:", "viewfs:")):  # these connect at once
        with suppress(DeliveryError):  # to be reached is the delivery's matter
            _elsewhere(root, url, ask=False)


def place(url: str, *, ask: bool = True) -> tuple[fs.FileSystem, str]:
    """A URL's file system and the path in it. Without `ask` nothing goes over the network; S3's is a stand-in then.

    Raises:
      ConfigError: it is no URL, of a kind that `pyarrow.fs` does not know, or holds credentials.
      DeliveryError: it cannot be reached; a bucket's region is asked for.
    """
    try:
        refuse_credentials(url)
    except ValueError as error:
        raise ConfigError(f"delivery.{error}") from None
    try:
        # to make S3's is to ask for region and credentials; "s3:///x" is refused before that
        system, path = fs.FileSystem.from_uri(url if ask else re.sub(r"^s3://(?!/)", "mock://", url))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigError(
            f"delivery.url {url!r}: {error}; expected s3://bucket/folder, gs://… or file:///folder"
        ) from None
    except OSError as error:
        raise _unreached(url, error) from None
    return system, path.rstrip("/")


def deliver(root: Path, url: str, *, keep: int, warn: Callable[[str], object] = warnings.warn) -> Delivered:
    """Make the night in use at home the one in use there. Files that are there already are not sent again.

    Args:
      root: the folder of all outputs.
      url: where to; credentials come from the environment, as for every client of that store.
      keep: promoted nights that stay there; besides, what was in use before stays for those who read it just now. With 0
        nothing stays but the night in use, and the same where a user was erased at home since the last delivery: what is
        there afterwards has no user whom `kdlib.privacy.forgetting` has erased at home. What `deliver_delta` left, before the format
        was changed, goes at once then, else with the second delivery.
      warn: gets to know of old files that could not be removed.

    Raises:
      ConfigError: as `place`; or it lies among our own files.
      InputError: no night is in use at home.
      DeliveryError: the place cannot be reached or written, and what was in use there still is; it is another output
        folder's; another delivery does not end; or files that may name a forgotten user could not be removed.
    """
    system, base = _elsewhere(root, url)
    with _one_at_a_time(root):
        try:
            while True:
                night, before, now = _begin(root, url)
                files = {table: _send(root, night, table, system, base) for table in now.folders}
                if _in_use(root) == night:  # else another came into use meanwhile
                    break
            now = replace(now, files=files)
            erases = keep == 0 or _has_erased(root, before, now)
            first = replace(now, erased=None) if erases else now
            if first != before:
                _switch(system, base, first)
        except OSError as error:
            raise _unreached(url, error) from None
        with _after_the_switch(url, night, erases, warn, OSError):
            nights = _kept(root, night, 0 if erases else keep)
            kept = {folder for one in nights for folder in _folders(root, one).values()}
            for one in (now,) if erases or not before else (now, before):
                kept |= {file["path"].rpartition("/")[0] for files in one.files.values() for file in files}
            _remove_others(system, base, kept)
            if erases or not before or before.files:  # else somebody may still read those Delta tables
                _remove_delta_tables(system, base)
            if erases:
                _switch(system, base, now)
    return now


def delivered(url: str) -> Delivered | None:
    """What is in use at a place; None before the first delivery.

    Raises:
      DeliveryError: it cannot be reached, or its `promoted.json` is somebody else's.
    """
    system, base = place(url)
    path, fault = f"{base}/{POINTER}", None
    for _ in range(3):  # an object that is replaced between the look at its length and its reading comes cut off
        try:
            if system.get_file_info(path).type == fs.FileType.NotFound:
                return None
            return Delivered(**json.loads(_bytes(system, path)))
        except OSError as error:
            raise _unreached(url, error) from None
        except (ValueError, TypeError) as error:
            fault = error
    raise DeliveryError(
        f"{url}/{POINTER} is not what distilrec wrote there: {fault}. Remove it, and `distilrec deliver`"
    )


def read(url: str, table: str) -> pads.Dataset:
    """The table in use at a place, as a dataset of just its files: one night's, whatever is delivered meanwhile.

    Raises:
      InputError: nothing, or no such table, was delivered there.
    """
    found = delivered(url)
    if found is None or table not in found.files:
        raise InputError(f"no {table} was delivered to {url} as Parquet")
    system, base = place(url)
    return pads.dataset([f"{base}/{file['path']}" for file in found.files[table]], filesystem=system, format="parquet")


def deliver_delta(root: Path, url: str, *, keep: int, warn: Callable[[str], object] = warnings.warn) -> Delivered:
    """The same as Delta Lake tables, one a table of ours, partitioned by `ds`: one commit a table and night.

    That commit also takes out later nights, which a rollback has taken out of use, and nights older than the newest `keep`
    promoted ones; a table that the night in use does not have is emptied. A night that is there already is not written
    again. Files that are in no night any more stay a week for their readers, with `keep` 0, or after a user was erased at
    home, not at all; what `deliver` left, before the format was changed, goes at once then, else with the next night. The
    log holds no statistics, for those are values: a forgotten user's id would stay there.

    Raises:
      ConfigError: as `deliver`; or the package `deltalake` is not installed.
      DeliveryError: as `deliver`; of two tables the first may have the night in use then, and the second the one before.
    """
    DeltaError = _delta_error()
    system, base = _elsewhere(root, url)
    targets = {table: f"{url.rstrip('/')}/{table}" for table in TABLES}
    with _one_at_a_time(root):
        while True:
            night, before, now = _begin(root, url)
            erases = keep == 0 or _has_erased(root, before, now)
            kept = sorted({one.ds for one in _kept(root, night, 0 if erases else keep)})
            for table, target in targets.items():
                try:
                    _commit(root, night, table, target, kept=kept, name=now.folders.get(table, ""), anew=erases)
                except (DeltaError, OSError) as error:
                    raise _unreached(target, error) from None
            if _in_use(root) == night:  # else another came into use meanwhile
                break
        with _after_the_switch(url, night, erases, warn, (DeltaError, OSError)):
            if now != before or erases:
                for table, target in targets.items():
                    _vacuum(target, name=now.folders.get(table, ""), all_now=erases)
                if erases:
                    _switch(system, base, replace(now, erased=None))
                if erases or not (before and before.files):  # else somebody may still read those Parquet files
                    _remove_others(system, base, set())
                _switch(system, base, now)
    return now


def _delta_error() -> type[Exception]:
    """What `deltalake` raises; ConfigError where it is not installed."""
    try:
        from deltalake.exceptions import DeltaError
    except ImportError:
        raise ConfigError(f"delivery.format delta needs deltalake, not installed here: {extra_hint('delta')}") from None
    return DeltaError


def _commit(root: Path, night: Promotion, table: str, target: str, *, kept: list[str], name: str, anew: bool) -> None:
    """Make a Delta table hold the night and no later one, of earlier ones those that are kept; where its last commit did, only
    if `anew`."""
    from deltalake import DeltaTable, write_deltalake

    exists = DeltaTable.is_deltatable(target)
    if table not in night.versions:
        if exists:
            DeltaTable(target).delete()
        return
    if exists and not anew and DeltaTable(target).history(1)[0].get(PROPERTY) == name:
        return
    data = pads.dataset(promotions.folder_of(root, night, table), format="parquet")
    batches = (batch.append_column("ds", pa.repeat(night.ds, len(batch))) for batch in data.to_batches())
    reader = pa.RecordBatchReader.from_batches(data.schema.append(pa.field("ds", pa.string())), batches)
    write_deltalake(
        target,
        reader,
        mode="overwrite",
        schema_mode="merge",
        partition_by=["ds"],
        commit_properties=_properties(name),
        predicate=f"ds >= '{night.ds}' OR ds NOT IN ({', '.join(map(repr, kept))})" if exists else None,
        configuration=None if exists else {"delta.dataSkippingNumIndexedCols": "0"},
    )


def _vacuum(target: str, *, name: str, all_now: bool) -> None:
    """Remove files that are in no night any more: those of a week ago, or all."""
    from deltalake import DeltaTable

    if not DeltaTable.is_deltatable(target):
        return
    how: dict[str, Any] = {"retention_hours": 0, "enforce_retention_duration": False, "full": True} if all_now else {}
    DeltaTable(target).vacuum(dry_run=False, commit_properties=_properties(name), **how)


def _properties(name: str) -> Any:
    """Of every commit, so that the last one says what the table holds."""
    from deltalake import CommitProperties

    return CommitProperties(custom_metadata={PROPERTY: name})


def _elsewhere(root: Path, url: str, *, ask: bool = True) -> tuple[fs.FileSystem, str]:
    """`place`, which must not lie among our own files, nor they in it: `forget` and the removal of old nights walk those."""
    system, base = place(url, ask=ask)
    here, there = root.resolve(), Path(base).resolve()
    if isinstance(system, fs.LocalFileSystem) and (there.is_relative_to(here) or here.is_relative_to(there)):
        raise ConfigError(
            f"delivery.url {url!r} lies below output_dir {root}, or above it: deliver to a folder of its own"
        )
    return system, base


@contextmanager
def _one_at_a_time(root: Path) -> Iterator[None]:
    """Hold the lock of all deliveries from an output folder, of whatever date; DeliveryError where another keeps it."""
    path = root / "_locks" / "deliver.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            lock(file, seconds=WAIT_SECONDS)
        except BlockingIOError:
            raise DeliveryError(
                f"another delivery from {root} has not ended within {WAIT_SECONDS} s. Here the night is in use;"
                " once that one has ended, `distilrec deliver` sends it"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield


def _begin(root: Path, url: str) -> tuple[Promotion, Delivered | None, Delivered]:
    """What is in use at home, what was delivered last, and what is to be, still without its files.

    Raises:
      DeliveryError: the place is another output folder's, or has a later switch of this one.
    """
    night, before, owner = _in_use(root), delivered(url), _owner(root)
    if before and before.owner not in ("", owner):
        raise DeliveryError(
            f"{url}/{POINTER} was delivered by {before.owner}, and this output folder, {root}, is {owner}: two of them"
            " would remove each other's files. Give each a delivery.url of its own; if that one is no more, remove"
            f" {POINTER}, and `distilrec deliver`"
        )
    if before and before.number > night.number:
        raise DeliveryError(
            f"{url}/{POINTER} has switch {before.number}, to {before.ds}, and the last one in {root} is"
            f" {night.number}, to {night.ds}: an older copy of the output folder? To deliver from it all the same remove"
            f" {POINTER}, and `distilrec deliver`"
        )
    versions = {table: night.versions[table] for table in TABLES if table in night.versions}
    folders = {table: _folder(root, night, table) for table in versions}
    return night, before, Delivered(night.ds, night.number, versions, {}, folders, owner, _forgotten(root))


def _owner(root: Path) -> str:
    """A name that tells this output folder, whose switches are counted, from all others; it stays when the folder is moved."""
    path = root / promotions.RECORDS / "owner"
    if not path.exists():
        path.write_text(f"{root.name}.{uuid.uuid4().hex[:8]}")
    return path.read_text()


def _forgotten(root: Path) -> str:
    """A digest of the users forgotten at home; empty where there are none."""
    users = "".join(forgetting.forgotten(root))
    return hashlib.sha256(users.encode()).hexdigest()[:12] if users else ""


def _has_erased(root: Path, before: Delivered | None, now: Delivered) -> bool:
    """Whether files there may name a user who has been erased at home since they were delivered."""
    if before is None:  # nothing is known of what may be there
        return now.erased != ""
    here = _folders(root, before)
    return before.erased != now.erased or any(before.folders.get(table, here[table]) != here[table] for table in here)


@contextmanager
def _after_the_switch(
    url: str,
    night: Promotion,
    erases: bool,
    warn: Callable[[str], object],
    errors: type[Exception] | tuple[type[Exception], ...],
) -> Iterator[None]:
    """The removal of old files: the night is in use there even where it fails."""
    try:
        yield
    except errors as error:
        text = f"{night.ds} is in use at {url}, but older files may still be there: {_first_line(error)}."
        if erases:
            raise DeliveryError(
                f"{text} They may name a user who is forgotten here; once they can be removed, `distilrec deliver` does it"
            ) from None
        warn(f"{text} The next delivery tries again")


def _in_use(root: Path) -> Promotion:
    night = promotions.current(root)
    if night is None:
        raise InputError(
            f"no night is in use under {root}, so there is nothing to deliver: run `distilrec nightly` first"
        )
    return night


def _kept(root: Path, night: Promotion, keep: int) -> list[Promotion]:
    """The nights that stay at a place, the one in use among them."""
    return [*promotions.nights(root)[-keep:], night] if keep else [night]


def _unreached(url: str, error: Exception) -> DeliveryError:
    return DeliveryError(
        f"cannot deliver to {url}: {_first_line(error)}. What was in use there still is; here the night is in use. Once the"
        " place can be reached and written, `distilrec deliver` sends it"
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:400]


def _folder(root: Path, night: Promotion | Delivered, table: str) -> str:
    """Where a night's table goes: named by what its files hold, so that a folder never changes (a forgotten user's does)."""
    manifest = partitions.version_manifest(root, table, night.ds, night.versions[table])
    digest = hashlib.sha256("".join(file["sha256"] for file in manifest.files).encode()).hexdigest()[:12]
    return f"{partitions.VERSIONS}/{table}/ds={night.ds}.{digest}"


def _folders(root: Path, night: Promotion | Delivered) -> dict[str, str]:
    """The folders of those of a night's tables that have not been removed at home."""
    found = {}
    for table in (one for one in TABLES if one in night.versions):
        with suppress(InputError):
            found[table] = _folder(root, night, table)
    return found


def _send(root: Path, night: Promotion, table: str, system: fs.FileSystem, base: str) -> list[dict[str, Any]]:
    """Copy a table's files unless they are there; checked by their sizes afterwards."""
    home = promotions.folder_of(root, night, table)
    folder = _folder(root, night, table)
    files = [file | {"path": f"{folder}/{file['path']}"} for file in promotions.manifest_of(root, night, table).files]
    paths = [f"{base}/{file['path']}" for file in files]
    sizes = [file["bytes"] for file in files]
    if [info.size for info in system.get_file_info(paths)] != sizes:
        system.create_dir(f"{base}/{folder}", recursive=True)
        fs.copy_files(
            str(home), f"{base}/{folder}", source_filesystem=fs.LocalFileSystem(), destination_filesystem=system
        )
        if (found := [info.size for info in system.get_file_info(paths)]) != sizes:
            raise OSError(f"{folder} should hold files of {sizes} bytes, and holds {found}")
    return files


def _switch(system: fs.FileSystem, base: str, now: Delivered) -> None:
    """An object appears whole or not at all; a file of a folder does when it is renamed."""
    local = isinstance(system, fs.LocalFileSystem)
    path = f"{base}/{POINTER}"
    with system.open_output_stream(f"{path}.new" if local else path) as stream:
        stream.write(json.dumps(asdict(now), indent=1).encode())
    if local:
        system.move(f"{path}.new", path)


def _remove_others(system: fs.FileSystem, base: str, kept: set[str]) -> None:
    for table in TABLES:
        home = fs.FileSelector(f"{base}/{partitions.VERSIONS}/{table}", allow_not_found=True)
        for info in system.get_file_info(home):
            if f"{partitions.VERSIONS}/{table}/{info.base_name}" not in kept and info.base_name.startswith("ds="):
                system.delete_dir(info.path)


def _remove_delta_tables(system: fs.FileSystem, base: str) -> None:
    """Those that `deliver_delta` has written: another one of that name may be somebody else's."""
    for table in TABLES:
        log = system.get_file_info(fs.FileSelector(f"{base}/{table}/_delta_log", allow_not_found=True))
        commits = [info.path for info in log if info.extension == "json"]
        if any(PROPERTY.encode() in _bytes(system, path) for path in commits):
            for info in system.get_file_info(fs.FileSelector(f"{base}/{table}")):
                if not info.is_file and info.base_name != "_delta_log":  # it goes last, for it says whose table this is
                    system.delete_dir(info.path)
            system.delete_dir(f"{base}/{table}")


def _bytes(system: fs.FileSystem, path: str) -> bytes:
    with system.open_input_file(path) as stream:
        return stream.read()
