"""Publish a folder of finished files as one partition of a table, in one atomic step, with a manifest.

    root/recommendations/ds=2026-11-22            a symbolic link, switched by one rename, to
    root/_versions/recommendations/ds=2026-11-22.<version>/data/part-00000-<version>.parquet
    root/_versions/recommendations/ds=2026-11-22.<version>/manifest.json

A reader of `root/recommendations` finds last night's files or tonight's, never a mix (file names hold the version: one that
has listed the old ones and opens them too late finds none), and no file in it is anything but data. Version folders are
never written again, unless a user is to be forgotten (`kdlib.privacy.forgetting`). Model folders are published in the same way.
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

STAGING = "_staging"
CHECKPOINTS = "_checkpoints"
VERSIONS = "_versions"
EVER = "9999-12-31"
"""A date that no night is of: all are before it."""


@dataclass(frozen=True)
class Manifest:
    """What a partition holds and what it was made from."""

    table: str
    ds: str
    version: str
    """Hash of the files' names and contents and of the fingerprint."""
    fingerprint: str
    """Hash of everything that the content depends on; a step whose fingerprint matches need not run again."""
    rows: int | None
    files: list[dict[str, Any]]
    """`path`, `bytes`, `sha256` and, for Parquet, `rows`."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Input name → its version."""
    details: dict[str, Any] = field(default_factory=dict)
    published_unix_seconds: float = 0.0
    made_by: dict[str, Any] = field(default_factory=dict)
    """What the fingerprint is the hash of: `settings`, `inputs` and `code`, each name → value, version or hash."""


def new_staging(root: Path, table: str, ds: str) -> Path:
    """A new empty folder on the same file system as the tables. What a killed run left there for this table is removed."""
    parent = root / STAGING
    parent.mkdir(parents=True, exist_ok=True)
    for left_over in parent.glob(f"{table.replace('/', '.')}.ds={ds}.*"):
        if left_over.is_symlink():
            left_over.unlink()
        else:
            shutil.rmtree(left_over, ignore_errors=True)
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
    """Make the staged files the partition `ds` of `table`. The switch is one rename; before it readers see the old files.

    Args:
      staging: a folder from `new_staging` with the finished files, already checked; it is consumed.
      root: the folder of all outputs.
      table: its name, `recommendations` or `models/student`.
      ds: the partition, `YYYY-MM-DD`.
      fingerprint: from `fingerprint_of`.
      inputs: input name → version, kept in the manifest.
      details: anything else to keep, JSON-ready.
      made_by: what the fingerprint is the hash of.
    """
    _tidy(staging)
    files = [describe(path, staging) for path in sorted(staging.rglob("*")) if path.is_file()]
    digest = hashlib.sha256(json.dumps([(f["path"], f["sha256"]) for f in files]).encode())
    digest.update(fingerprint.encode())
    version = digest.hexdigest()[:12]
    for file in files:  # a reader that has listed one version must not open another one's file under the same name
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
    if before is None or damaged(root, before):
        wrapper = staging.with_name(staging.name + ".whole")
        wrapper.mkdir()
        staging.rename(wrapper / "data")
        _write_synced(wrapper / "manifest.json", json.dumps(asdict(manifest), indent=1))
        home.parent.mkdir(parents=True, exist_ok=True)
        if home.exists():  # a killed run's, without a manifest, or a damaged one
            shutil.rmtree(home)
        wrapper.rename(home)
    else:  # published before: that manifest stays the truth
        shutil.rmtree(staging)
        manifest = before
    switch_link(root / table / f"ds={ds}", home / "data", scratch=staging.with_name(staging.name + ".link"))
    return manifest


def current(root: Path, table: str, ds: str) -> Path:
    """The folder of the partition's present version: hold on to it to read one version throughout.

    Raises:
      InputError: there is no such partition.
    """
    link = root / table / f"ds={ds}"
    if not link.exists():
        raise InputError(
            f"no published {table} for {ds} under {root}: run the stage that makes it, or `distilrec nightly`, first; a night"
            " that its gates have blocked has none"
        )
    return link.resolve()


def version_folder(root: Path, table: str, ds: str, version: str) -> Path:
    """Where a version's data lie, whether or not the partition points there."""
    return root / VERSIONS / table / f"ds={ds}.{version}" / "data"


def version_manifest(root: Path, table: str, ds: str, version: str) -> Manifest:
    """The manifest of one version, of which the name is known; InputError where it is gone."""
    return _read(version_folder(root, table, ds, version).parent / "manifest.json")


def read_manifest(root: Path, table: str, ds: str) -> Manifest | None:
    """The manifest of the partition's present version; None where there is no such partition."""
    link = root / table / f"ds={ds}"
    if not link.exists():
        return None
    return _read(link.resolve().parent / "manifest.json")


def manifest_of(root: Path, table: str, ds: str) -> Manifest:
    """The same, where there has to be one; InputError, as `current` says it, where there is none."""
    return _read(current(root, table, ds).parent / "manifest.json")


def damaged(root: Path, manifest: Manifest) -> list[str]:
    """Files of a version that are gone or not as long as they were, as a broken disk or a hand leaves them; a look, not a proof."""
    data = version_folder(root, manifest.table, manifest.ds, manifest.version)
    found = []
    for file in manifest.files:
        try:
            whole = (data / file["path"]).stat().st_size == file["bytes"]
        except FileNotFoundError:
            whole = False
        found += [] if whole else [file["path"]]
    return found


def latest(root: Path, table: str, *, before: str = EVER) -> str | None:
    """The newest partition strictly before a date, of all without one; or None."""
    days = sorted(path.name.removeprefix("ds=") for path in (root / table).glob("ds=*") if path.exists())
    return next((day for day in reversed(days) if day < before), None)


def _tidy(staging: Path) -> None:
    """Drop what engines leave beside data and give the parts plain names, so that equal content has equal names."""
    for path in staging.rglob("*"):
        if path.is_file() and (path.name.startswith((".", "_SUCCESS")) or path.suffix == ".crc"):
            path.unlink()
    parts = sorted(staging.glob("*.parquet"))
    for number, path in enumerate(parts):
        path.rename(staging / f"~{number:05d}")
    for number in range(len(parts)):
        (staging / f"~{number:05d}").rename(staging / f"part-{number:05d}.parquet")


def rows_in(files: list[dict[str, Any]]) -> int | None:
    """Rows of all Parquet files of a manifest; None where it has none."""
    counted = [file["rows"] for file in files if "rows" in file]
    return sum(counted) if counted else None


def describe(path: Path, base: Path) -> dict[str, Any]:
    """A file as `Manifest.files` has it; what it holds is on the disk afterwards."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        os.fsync(stream.fileno())
    facts: dict[str, Any] = {"path": str(path.relative_to(base)), "bytes": path.stat().st_size, "sha256": digest}
    if path.suffix == ".parquet":
        facts["rows"] = pq.read_metadata(path).num_rows
    return facts


def _write_synced(path: Path, text: str) -> None:
    with path.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def switch_link(link: Path, target: Path, *, scratch: Path) -> None:
    """Point the link at the target in one rename; a killed run leaves its new link in staging, not beside the data."""
    link.parent.mkdir(parents=True, exist_ok=True)
    scratch.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
    scratch.replace(link)


def _read(file: Path) -> Manifest:
    try:
        return Manifest(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"no usable manifest at {file}: {error}. Partitions are links into {VERSIONS}; copy stores with links, "
            f"or remove this partition and run its stage again"
        ) from None
