"""Publish a folder of finished files as one partition of a table, in one atomic step, with a manifest.

    root/recommendations/ds=2026-11-22            a symbolic link, switched by one rename, to
    root/_versions/recommendations/ds=2026-11-22.<version>/data/part-00000-<version>.parquet
    root/_versions/recommendations/ds=2026-11-22.<version>/manifest.json

A reader of `root/recommendations` finds the old files or the new files, never a mix. File names hold the version: a
reader that lists the old files and opens them after the switch finds none of them. The folder holds data files only.

In an object store, `recommendations/ds=2026-11-22.json` stands in for the link, and `root` is the working copy on this machine
(`kdlib.store.mirror`).

Version folders are written once. The one exception is a user who is to be forgotten (`kdlib.privacy.forgetting`). Model
folders are published in the same way.
"""

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from kdlib.errors import InputError
from kdlib.store.files import make_folder, replace_file, sync
from kdlib.store.leases import check_held
from kdlib.store.mirror import SENDING, alone, begin_version, drop, point, send_version
from kdlib.store.mirror import STAGING as STAGING  # Callers write partitions.STAGING.
from kdlib.store.mirror import VERSIONS as VERSIONS
from kdlib.store.working_copy import fetch, give_up, remote_sizes

CHECKPOINTS = "_checkpoints"
EVER = "9999-12-31"
"""A date after every run."""


@dataclass(frozen=True)
class Manifest:
    """What one version of a partition holds, and what it was made from."""

    table: str
    ds: str
    version: str
    """Hash of the files' names, their contents and the fingerprint."""
    fingerprint: str
    """Hash of everything that the content depends on. A stage with an equal fingerprint is up to date."""
    rows: int | None
    files: list[dict[str, Any]]
    """`path`, `bytes`, `sha256`, and `rows` for Parquet."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Input name → its version."""
    details: dict[str, Any] = field(default_factory=dict)
    published_unix_seconds: float = 0.0
    made_by: dict[str, Any] = field(default_factory=dict)
    """What the fingerprint is the hash of: `settings`, `inputs` and `code`, each name → value, version or hash."""


def new_staging(root: Path, table: str, ds: str) -> Path:
    """A new empty folder on the file system of the tables. Leftovers of killed runs for this partition are removed.

    Raises:
      BusyError: another run has taken over from this one.
    """
    parent = root / STAGING
    parent.mkdir(parents=True, exist_ok=True)
    left_overs = list(parent.glob(f"{table.replace('/', '.')}.ds={ds}.*"))
    check_held()  # so all of them are older than this run's lease
    for left_over in left_overs:
        if left_over.is_symlink():
            left_over.unlink()
        else:
            shutil.rmtree(left_over, ignore_errors=True)
        drop(left_over)
    folder = parent / f"{table.replace('/', '.')}.ds={ds}.{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    return folder


def publish(
    staging: Path,
    root: Path,
    table: str,
    ds: str,
    *,
    fingerprint: str,
    inputs: dict[str, str] | None = None,
    details: dict[str, Any] | None = None,
    made_by: Mapping[str, Any] | None = None,
) -> Manifest:
    """Make the staged files the partition `ds` of `table`. Readers switch to the new files in one rename.

    Args:
      staging: a folder from `new_staging` with finished, checked files. It is gone afterwards.
      root: the output folder.
      table: its name, as `recommendations` or `models/student`.
      ds: the partition, `YYYY-MM-DD`.
      fingerprint: from `fingerprint_of`.
      inputs: input name → version, for the manifest.
      details: anything else for the manifest, JSON-ready.
      made_by: what the fingerprint is the hash of.

    Returns:
      The manifest. If the same version was published before, the manifest of then.

    Raises:
      BusyError: another run has taken over from this one. Readers keep what they have.
      InputError: files were removed while they were published.
    """
    fetch(staging)  # what other machines have made of it
    drop(staging)
    _tidy(staging)
    files = [describe(path, staging) for path in sorted(staging.rglob("*")) if path.is_file()]
    digest = hashlib.sha256(json.dumps([(f["path"], f["sha256"]) for f in files]).encode())
    digest.update(fingerprint.encode())
    version = digest.hexdigest()[:12]
    # the version in the name: a reader that has listed an old version must not open a new file under the old name
    for file in files:
        plain = staging / file["path"]
        if plain.parent == staging and plain.suffix == ".parquet":
            file["path"] = f"{plain.stem}-{version}.parquet"
            plain.rename(staging / file["path"])
    manifest = Manifest(
        table,
        ds,
        version,
        fingerprint,
        rows_in(files),
        files,
        inputs or {},
        details or {},
        time.time(),
        dict(made_by or {}),
    )
    home = version_folder(root, table, ds, version).parent
    before = _read(home / "manifest.json") if (home / "manifest.json").exists() else None
    if before is None or (home / SENDING).exists() or damaged(root, before):
        _move_into_place(staging, home, manifest)
        if lost := damaged(root, manifest):
            raise InputError(f"{home}: {lost[0]} was removed while it was published. Run this stage again")
    else:  # published before: its manifest stays
        shutil.rmtree(staging)
        manifest = before
    switch_link(root / table / f"ds={ds}", home / "data", scratch=staging.with_name(staging.name + ".link"))
    return manifest


def _move_into_place(staging: Path, home: Path, manifest: Manifest) -> None:
    """Make the staged files with their manifest the version folder `home`, in one rename that survives a power cut."""
    wrapper, replaced = (staging.with_name(f"{staging.name}.{end}") for end in ("whole", "replaced"))
    wrapper.mkdir()
    staging.rename(wrapper / "data")
    replace_file(wrapper / "manifest.json", json.dumps(asdict(manifest), indent=1).encode())
    begin_version(wrapper)
    for folder, _, _ in os.walk(wrapper):
        sync(Path(folder))
    make_folder(home.parent)
    check_held()
    if home.exists():  # a killed run left it without a manifest, or it is damaged
        home.rename(replaced)
    wrapper.rename(home)
    sync(home.parent)
    send_version(home)
    shutil.rmtree(replaced, ignore_errors=True)


def current(root: Path, table: str, ds: str) -> Path:
    """The folder of the partition's current version. A reader that keeps this path reads one version throughout.

    Raises:
      InputError: the partition does not exist.
    """
    return fetch(linked(root, table, ds))


def linked(root: Path, table: str, ds: str) -> Path:
    """As `current`, and the data need not be on this machine."""
    link = root / table / f"ds={ds}"
    if not link.exists():
        raise InputError(
            f"no published {table} for {ds} under {root}: run the stage that makes it, or `distilrec nightly`, first."
            " A run that was blocked by its gates publishes none"
        )
    return link.resolve()


def version_folder(root: Path, table: str, ds: str, version: str) -> Path:
    """The data folder of a version, whether or not the partition points to it, and whether or not the data are here."""
    return root / VERSIONS / table / f"ds={ds}.{version}" / "data"


def version_data(root: Path, table: str, ds: str, version: str) -> Path:
    """As `version_folder`, with the data on this machine if the version has not been removed."""
    folder = version_folder(root, table, ds, version)
    return fetch(folder) if folder.exists() else folder


def version_manifest(root: Path, table: str, ds: str, version: str) -> Manifest:
    """The manifest of one version.

    Raises:
      InputError: the version is gone.
    """
    return _read(version_folder(root, table, ds, version).parent / "manifest.json")


def read_manifest(root: Path, table: str, ds: str) -> Manifest | None:
    """The manifest of the partition's current version; None if the partition does not exist."""
    link = root / table / f"ds={ds}"
    if not link.exists():
        return None
    return _read(link.resolve().parent / "manifest.json")


def manifest_of(root: Path, table: str, ds: str) -> Manifest:
    """The manifest of the partition's current version.

    Raises:
      InputError: the partition does not exist.
    """
    return _read(linked(root, table, ds).parent / "manifest.json")


def damaged(root: Path, manifest: Manifest) -> list[str]:
    """Files of a version that are missing or have another size than in the manifest. Contents are not read."""
    data = version_folder(root, manifest.table, manifest.ds, manifest.version)
    remote = remote_sizes(data)
    found = _damaged(manifest, data, remote)
    if found and remote is None and give_up(data):  # the store may have them whole
        found = _damaged(manifest, data, remote_sizes(data))
    return found


def _damaged(manifest: Manifest, data: Path, remote: Mapping[str, int] | None) -> list[str]:
    """As `damaged`. `remote`: the files in the store → bytes; None: the files are on this machine."""
    found = []
    for file in manifest.files:
        try:
            size = (data / file["path"]).stat().st_size if remote is None else remote.get(file["path"])
            # `forget` replaces a file, and notes its size before: a killed one may have left either form
            whole = size in (file["bytes"], file.get("before", file)["bytes"])
        except FileNotFoundError:
            whole = False
        found += [] if whole else [file["path"]]
    return found


def published_on(root: Path, ds: str) -> list[str]:
    """All tables, variants of tables and models that have a partition of a date."""
    names = {
        path.parent.relative_to(root).as_posix() for depth in ("*", "*/*") for path in root.glob(f"{depth}/ds={ds}")
    }
    return sorted(name for name in names if not name.startswith("_") and (root / name / f"ds={ds}").is_symlink())


def links(root: Path) -> dict[tuple[str, str], Path]:
    """(table or model, date) → link of the partition. Links that lead nowhere are among them."""
    found = sorted(path for depth in ("*", "*/*") for path in root.glob(f"{depth}/ds=*") if path.is_symlink())
    named = ((path.parent.relative_to(root).as_posix(), path.name.removeprefix("ds="), path) for path in found)
    return {(table, ds): path for table, ds, path in named if VERSIONS in path.readlink().parts and table[0] != "_"}


def latest(root: Path, table: str, *, before: str = EVER) -> str | None:
    """The date of the newest partition before a date (exclusive); None if there is none."""
    days = sorted(path.name.removeprefix("ds=") for path in (root / table).glob("ds=*") if path.exists())
    return next((day for day in reversed(days) if day < before), None)


def _tidy(staging: Path) -> None:
    """Remove what engines leave beside the data, and number the parts, so that equal content has equal names."""
    for path in staging.rglob("*"):
        if path.is_file() and (path.name.startswith((".", "_SUCCESS")) or path.suffix == ".crc"):
            path.unlink()
    parts = sorted(staging.glob("*.parquet"))
    for number, path in enumerate(parts):
        path.rename(staging / f"~{number:05d}")
    for number in range(len(parts)):
        (staging / f"~{number:05d}").rename(staging / f"part-{number:05d}.parquet")


def rows_in(files: list[dict[str, Any]]) -> int | None:
    """Rows of all Parquet files of a manifest; None if it has no Parquet file."""
    counted = [file["rows"] for file in files if "rows" in file]
    return sum(counted) if counted else None


def describe(path: Path, base: Path) -> dict[str, Any]:
    """A file's entry for `Manifest.files`. The file is synced to disk."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        os.fsync(stream.fileno())
    entry: dict[str, Any] = {"path": str(path.relative_to(base)), "bytes": path.stat().st_size, "sha256": digest}
    if path.suffix == ".parquet":
        entry["rows"] = pq.read_metadata(path).num_rows
    return entry


def switch_link(link: Path, target: Path, *, scratch: Path) -> None:
    """Point the link to the target in one rename, or in one conditional write in a store. The new link is made at `scratch`; a killed run leaves it there.

    Raises:
      BusyError: another run has taken over from this one.
    """
    make_folder(link.parent)
    scratch.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
    check_held()
    with alone(link.parent):
        point(link, target)
        scratch.replace(link)
    sync(link.parent)


def _read(file: Path) -> Manifest:
    try:
        return Manifest(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"no usable manifest at {file}: {error}. Run `distilrec repair`, then its stage again; if the output"
            f" folder was copied, copy it with its links, which lead into {VERSIONS}"
        ) from None
