"""Versions of input files: local files count by their bytes, files elsewhere by size and time."""

import os
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pyarrow.fs as pafs
import pytest

from jobs.runtime.input_files import files_by_day, version_of, version_of_files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The output folder."""
    (folder := tmp_path / "out").mkdir()
    return folder


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_local_file_counts_by_its_bytes(tmp_path: Path, root: Path, scheme: str) -> None:
    """A new time with equal bytes gives the same version; a changed byte of the same size gives another one."""
    (file := tmp_path / "1.csv").write_bytes(b"u,i\n1,a\n")
    before = version_of(f"{scheme}{file}", "csv", root)
    os.utime(file, (1_000, 1_000))
    assert version_of(f"{scheme}{file}", "csv", root) == before
    file.write_bytes(b"u,i\n1,b\n")
    assert version_of(f"{scheme}{file}", "csv", root) != before


def test_a_known_file_is_not_read_again(tmp_path: Path, root: Path) -> None:
    """The output folder keeps the hash for a file's size and time. Without that folder every run reads the file."""
    (file := tmp_path / "1.csv").write_bytes(b"a")
    os.utime(file, (1_000, 1_000))
    before = version_of(str(file), "csv", root)
    file.write_bytes(b"b")
    os.utime(file, (1_000, 1_000))
    assert version_of(str(file), "csv", root) == before
    assert version_of(str(file), "csv", tmp_path / "nowhere") != before


@pytest.mark.parametrize("name", ["shop/day=2024-05-03/1.csv", "hdfs:/shop/1.csv"])
def test_a_file_elsewhere_counts_by_size_and_time(root: Path, name: str) -> None:
    """Names as an object store or HDFS gives them are not opened, and none is kept."""
    before = version_of_files([(name, 10, 1_000)], root)
    assert version_of_files([(name, 10, 1_000)], root) == before
    assert version_of_files([(name, 11, 1_000)], root) != before
    assert version_of_files([(name, 10, 1_001)], root) != before
    assert version_of_files([(f"{name}.gz", 10, 1_000)], root) != before
    assert not list(root.iterdir())


def test_hdfs_names_are_not_taken_for_local_ones(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """A file system elsewhere may name a file `/shop/…`: no local file of this name is looked for."""
    memory = fsspec.filesystem("memory")
    memory.pipe("/shop/day=2024-05-03/1.csv", b"u,i\n")
    elsewhere = pafs.PyFileSystem(pafs.FSSpecHandler(memory))
    monkeypatch.setattr(pafs, "FileSystem", SimpleNamespace(from_uri=lambda path: (elsewhere, "/shop")))
    before = version_of("hdfs://nodes/shop", "csv", root)
    assert list(files_by_day("hdfs://nodes/shop/day={day}", needed=date(2024, 5, 3))) == [date(2024, 5, 3)]
    memory.pipe("/shop/day=2024-05-03/1.csv", b"u,i\n1,a\n")
    assert version_of("hdfs://nodes/shop", "csv", root) != before
