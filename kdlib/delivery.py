"""Copy the night in use to where others read it: an object store, or any other file system that `pyarrow.fs` reaches.

An object store has no rename and no links, so the switch is the writing of one small object, which is atomic:

    s3://shop/recommender/promoted.json                                          names the files of the night in use
    s3://shop/recommender/_versions/recommendations/ds=2026-11-22.<digest>/part-00000-<version>.parquet

As Delta Lake the switch is the table's own commit, and the newest `ds` of the table is the night in use.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
from pyarrow import fs

from kdlib import promotions, publish
from kdlib.errors import ConfigError, DeliveryError, InputError
from kdlib.promotions import Promotion

POINTER = "promoted.json"
TABLES = ("recommendations", "search_rankings")
"""What others read; models and intermediate tables stay at home."""


@dataclass(frozen=True)
class Delivered:
    """What `promoted.json` says, and what is in use at a place."""

    ds: str
    number: int
    """Of the switch (`kdlib.promotions`) that put this night in use."""
    versions: dict[str, str]
    """Table → version of its partition."""
    files: dict[str, list[dict[str, Any]]]
    """Table → its files: `path` relative to the place, `bytes`, `sha256`, `rows`."""


def place(url: str) -> tuple[fs.FileSystem, str]:
    """A URL's file system and the path in it.

    Raises:
      ConfigError: it is no URL, or of a kind that `pyarrow.fs` does not know.
    """
    try:
        system, path = fs.FileSystem.from_uri(url)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise ConfigError(
            f"delivery.url {url!r}: {error}; expected s3://bucket/folder, gs://… or file:///folder"
        ) from None
    return system, path.rstrip("/")


def deliver(root: Path, url: str, *, keep: int) -> Delivered:
    """Make the night in use at home the one in use there. Files that are there already are not sent again.

    Args:
      root: the folder of all outputs.
      url: where to; credentials come from the environment, as for every client of that store.
      keep: promoted nights that stay there; besides, what was in use before stays for those who read it just now. With 0
        nothing stays but the night in use: what is there afterwards has no user whom `kdlib.forgetting` has erased at home.

    Raises:
      InputError: no night is in use at home.
      DeliveryError: the place cannot be reached or written; what was in use there still is.
    """
    night = _in_use(root)
    system, base = _elsewhere(root, url)
    try:
        before = _pointer(system, base)
        files = {table: _send(root, night, table, system, base) for table in TABLES if table in night.versions}
        versions = {table: night.versions[table] for table in files}
        now = Delivered(night.ds, night.number, versions, files)
        if now != before:
            _switch(system, base, now)
        kept = {folder for one in _kept(root, night, keep) for table in TABLES if (folder := _folder(root, one, table))}
        kept |= {file["path"].rpartition("/")[0] for one in files.values() for file in one}
        if before and keep:
            kept |= {file["path"].rpartition("/")[0] for one in before.files.values() for file in one}
        _remove_others(system, base, kept)
    except OSError as error:
        raise _unreached(url, error) from None
    return now


def delivered(url: str) -> Delivered | None:
    """What is in use at a place; None before the first delivery."""
    system, base = place(url)
    try:
        return _pointer(system, base)
    except OSError as error:
        raise _unreached(url, error) from None


def read(url: str, table: str) -> pads.Dataset:
    """The table in use at a place, as a dataset of just its files: one night's, whatever is delivered meanwhile.

    Raises:
      InputError: nothing, or no such table, was delivered there.
    """
    found = delivered(url)
    if found is None or table not in found.files:
        raise InputError(f"no {table} was delivered to {url}")
    system, base = place(url)
    return pads.dataset([f"{base}/{file['path']}" for file in found.files[table]], filesystem=system, format="parquet")


def deliver_delta(root: Path, url: str, *, keep: int) -> Delivered:
    """The same as Delta Lake tables, one a table of ours, partitioned by `ds`: a commit replaces the night's partition.

    Later nights, which a rollback has taken out of use, and nights older than the newest `keep` promoted ones leave the
    table; files that are in no night any more stay a week for their readers, with `keep` 0 not at all. The log holds no
    statistics, for those are values: a forgotten user's id would stay there.

    Raises:
      ConfigError: the package `deltalake` is not installed.
      DeliveryError: the place cannot be reached or written; what was in use there still is.
    """
    try:
        from deltalake import CommitProperties, DeltaTable, write_deltalake
        from deltalake.exceptions import DeltaError
    except ImportError:
        raise ConfigError(
            "delivery.format delta needs deltalake, not installed here: the extra `delta`"
            " (`pip install -e '.[delta]'` in distilrec's folder)"
        ) from None
    night = _in_use(root)
    _elsewhere(root, url)
    oldest = min(one.ds for one in _kept(root, night, keep))
    versions = {}
    for table in (one for one in TABLES if one in night.versions):
        target = f"{url.rstrip('/')}/{table}"
        data = pads.dataset(promotions.folder_of(root, night, table), format="parquet")
        batches = (batch.append_column("ds", pa.repeat(night.ds, len(batch))) for batch in data.to_batches())
        reader = pa.RecordBatchReader.from_batches(data.schema.append(pa.field("ds", pa.string())), batches)
        properties = CommitProperties(custom_metadata={"distilrec.version": night.versions[table]})
        try:
            exists = DeltaTable.is_deltatable(target)
            write_deltalake(
                target, reader, mode="overwrite", schema_mode="merge", partition_by=["ds"], commit_properties=properties,
                predicate=f"ds = '{night.ds}'" if exists else None,
                configuration=None if exists else {"delta.dataSkippingNumIndexedCols": "0"},
            )  # fmt: skip
            written = DeltaTable(target)
            written.delete(f"ds > '{night.ds}' OR ds < '{oldest}'")
            if keep:
                written.vacuum(dry_run=False)
            else:
                written.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True)
        except (DeltaError, OSError) as error:
            raise _unreached(url, error) from None
        versions[table] = night.versions[table]
    return Delivered(night.ds, night.number, versions, {})


def _elsewhere(root: Path, url: str) -> tuple[fs.FileSystem, str]:
    """`place`, which must not lie among our own files: `forget` and the removal of old nights walk those."""
    system, base = place(url)
    if isinstance(system, fs.LocalFileSystem) and Path(base).is_relative_to(root):
        raise ConfigError(f"delivery.url {url!r} lies below output_dir {root}: deliver to a folder outside of it")
    return system, base


def _in_use(root: Path) -> Promotion:
    night = promotions.current(root)
    if night is None:
        raise InputError(
            f"no night is in use under {root}, so there is nothing to deliver: run `distilrec nightly` first"
        )
    return night


def _kept(root: Path, night: Promotion, keep: int) -> list[Promotion]:
    """The nights that stay at a place, the one in use among them."""
    return [*promotions.nights(root, before="9999-12-31")[-keep:], night] if keep else [night]


def _unreached(url: str, error: Exception) -> DeliveryError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return DeliveryError(
        f"cannot deliver to {url}: {first[:400]}. What was in use there still is; here the night is in use. Once the place"
        " can be reached and written, `distilrec deliver` sends it"
    )


def _folder(root: Path, night: Promotion, table: str) -> str | None:
    """Where a night's table goes: named by what its files hold, so that a folder never changes (a forgotten user's does)."""
    if table not in night.versions:
        return None
    try:
        manifest = promotions.manifest_of(root, night, table)
    except InputError:  # removed at home
        return None
    digest = hashlib.sha256("".join(file["sha256"] for file in manifest.files).encode()).hexdigest()[:12]
    return f"{publish.VERSIONS}/{table}/ds={night.ds}.{digest}"


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


def _pointer(system: fs.FileSystem, base: str) -> Delivered | None:
    path = f"{base}/{POINTER}"
    if system.get_file_info(path).type == fs.FileType.NotFound:
        return None
    with system.open_input_file(path) as stream:
        data = stream.read()
    try:
        return Delivered(**json.loads(data))
    except (ValueError, TypeError) as error:
        raise DeliveryError(
            f"{path} is not what distilrec wrote there: {error}. Remove it, and `distilrec deliver`"
        ) from None


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
        home = fs.FileSelector(f"{base}/{publish.VERSIONS}/{table}", allow_not_found=True)
        for info in system.get_file_info(home):
            if f"{publish.VERSIONS}/{table}/{info.base_name}" not in kept and info.base_name.startswith("ds="):
                system.delete_dir(info.path)
