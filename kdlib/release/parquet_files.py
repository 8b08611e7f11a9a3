"""Delivered tables as Parquet files: each version in a folder of its own that is written once.

<place>/_versions/recommendations/ds=2026-11-22.<digest>/part-00000-<version>.parquet
"""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyarrow import fs

from kdlib.errors import InputError
from kdlib.release import promotions
from kdlib.release.places import TABLES, Delivered
from kdlib.release.promotions import Promotion
from kdlib.store import partitions


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
    for table in (one for one in TABLES if one in night.versions):
        with suppress(InputError):
            found[table] = folder_of(root, night, table)
    return found


def send(root: Path, night: Promotion, table: str, system: fs.FileSystem, base: str) -> list[dict[str, Any]]:
    """Copy a table's files, unless the place has all of them with the right sizes.

    Returns:
      The files as in `Delivered.files`.

    Raises:
      OSError: the copy failed, or a file has a wrong size after it.
    """
    source = promotions.folder_of(root, night, table)
    folder = folder_of(root, night, table)
    files = [file | {"path": f"{folder}/{file['path']}"} for file in promotions.manifest_of(root, night, table).files]
    paths = [f"{base}/{file['path']}" for file in files]
    sizes = [file["bytes"] for file in files]
    if [info.size for info in system.get_file_info(paths)] != sizes:
        system.create_dir(f"{base}/{folder}", recursive=True)
        fs.copy_files(
            str(source), f"{base}/{folder}", source_filesystem=fs.LocalFileSystem(), destination_filesystem=system
        )
        if (found := [info.size for info in system.get_file_info(paths)]) != sizes:
            raise OSError(f"{folder} should hold files of {sizes} bytes, and holds {found}")
    return files


def remove_folders(system: fs.FileSystem, base: str, *, kept: set[str]) -> None:
    """Remove the folders of all versions, except the kept ones.

    Args:
      system: the place's file system.
      base: the place's path.
      kept: folders relative to the place.
    """
    for table in TABLES:
        home = fs.FileSelector(f"{base}/{partitions.VERSIONS}/{table}", allow_not_found=True)
        for info in system.get_file_info(home):
            if f"{partitions.VERSIONS}/{table}/{info.base_name}" not in kept and info.base_name.startswith("ds="):
                system.delete_dir(info.path)
