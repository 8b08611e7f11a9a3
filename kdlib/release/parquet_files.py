"""Delivered files: each version of a table or of an export lies in a folder of its own that is written once.

<place>/_versions/recommendations/ds=2026-11-22.<digest>/part-00000-<version>.parquet
<place>/_versions/export/ds=2026-11-22.<digest>/encoder.onnx
"""

import hashlib
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.dataset as pads

from kdlib.errors import InputError
from kdlib.release import promotions
from kdlib.release.places import DELIVERED, Delivered
from kdlib.release.promotions import Promotion
from kdlib.store import partitions
from kdlib.store.folders import DiskFolder, Folder
from kdlib.store.objects import ObjectFolder


def folder_of(root: Path, night: Promotion | Delivered, table: str) -> str:
    """The folder of a run's table, relative to the place. Its name holds a digest of the files.

    The version alone is not enough: when a user is erased, the files change and the version stays.
    """
    manifest = partitions.version_manifest(root, table, night.ds, night.versions[table])
    digest = hashlib.sha256("".join(file["sha256"] for file in manifest.files).encode()).hexdigest()[:12]
    return f"{partitions.VERSIONS}/{table}/ds={night.ds}.{digest}"


def folders_of(root: Path, night: Promotion | Delivered) -> dict[str, str]:
    """Table → folder, for the tables of a run that the output folder still holds."""
    found = {}
    for table in (one for one in DELIVERED if one in night.versions):
        with suppress(InputError):
            found[table] = folder_of(root, night, table)
    return found


def send(root: Path, night: Promotion, table: str, there: Folder) -> list[dict[str, Any]]:
    """Copy a table's files, except those that the place has with the right size.

    Returns:
      The files as in `Delivered.files`.

    Raises:
      OSError: the copy failed, or a file has a wrong size after it.
    """
    source, folder = promotions.folder_of(root, night, table), folder_of(root, night, table)
    files = promotions.manifest_of(root, night, table).files
    sizes = {f"{folder}/{file['path']}": file["bytes"] for file in files}
    if missing := _differ(sizes, there.files(folder)):
        for path in missing:
            there.upload(source / path.removeprefix(f"{folder}/"), path)
        if missing := _differ(sizes, found := there.files(folder)):
            path = missing[0]
            raise OSError(f"{path} should have {sizes[path]} bytes, and has {found.get(path, 'none')}")
    return [file | {"path": f"{folder}/{file['path']}"} for file in files]


def _differ(expected: dict[str, int], found: dict[str, int]) -> list[str]:
    return [path for path, size in expected.items() if found.get(path) != size]


def remove_folders(there: Folder, *, kept: set[str]) -> None:
    """Remove the folders of all versions, except the kept ones.

    Args:
      there: the place.
      kept: folders relative to the place.
    """
    versions = re.compile(rf"{partitions.VERSIONS}/({'|'.join(DELIVERED)})/ds=[^/]+")
    found = ((path, versions.match(path)) for path in there.files(partitions.VERSIONS))
    there.remove([path for path, folder in found if folder and folder[0] not in kept])
    if isinstance(there, DiskFolder):  # copies that a killed delivery has not finished
        parts = (there.path / partitions.VERSIONS).glob("*/ds=*/.*.part")
        there.remove([one.relative_to(there.path).as_posix() for one in parts])


def dataset_of(there: Folder, paths: list[str]) -> pads.Dataset:
    """Parquet files at a place as one dataset."""
    if isinstance(there, DiskFolder):
        return pads.dataset([str(there.path / path) for path in paths], format="parquet")
    assert isinstance(there, ObjectFolder)
    base = there.url.partition("://")[2]
    return pads.dataset([f"{base}/{path}" for path in paths], filesystem=there.file_system(), format="parquet")
