"""Versions of input files: local files count by their bytes, files elsewhere by size and tag or time."""

import os
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import boto3
import fsspec
import pyarrow.fs as pafs
import pytest

from jobs.runtime.input_files import files_by_day, version_of, version_of_files
from kdlib.errors import InputError


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


def test_files_in_a_store_count_by_their_tag(s3: str, root: Path) -> None:
    """The same bytes written again give the same version, and other bytes of the same size another one, in any second.

    Files that Spark ignores do not count, and neither do files beside the pattern.
    """
    client, place = boto3.client("s3"), "versions/in"

    def put(name: str, body: bytes) -> None:
        client.put_object(Bucket="shop", Key=f"{place}/{name}", Body=body)

    put("day=2024-05-03/1.csv", b"u,i\n1,a\n")
    put("day=2024-05-03/2.csv", b"u,i\n1,a\n")
    path = f"{s3}/{place}/day=*/1*"
    before = version_of(path, "csv", root)
    for name in ("day=2024-05-03/1.csv", "_temporary/0/1.csv", "day=2024-05-03/_1.csv", "day=2024-05-03/3.csv"):
        put(name, b"u,i\n1,a\n")
        assert version_of(path, "csv", root) == before
    assert len(files_by_day(f"{s3}/{place}/day={{day}}", needed=date(2024, 5, 3))[date(2024, 5, 3)]) == 3
    put("day=2024-05-03/1.csv", b"u,i\n1,b\n")
    assert version_of(path, "csv", root) != before
    assert not list(root.iterdir())


def test_a_wrong_file_in_a_store_is_named(s3: str, root: Path) -> None:
    """The first bytes of files in a store are looked at too, and the log of a Delta Lake table tells the table."""
    client = boto3.client("s3")
    client.put_object(Bucket="shop", Key="wrong/e.csv", Body=b"\x89PNG\r\n\x1a\n\0")
    with pytest.raises(InputError, match=r"s3://shop/wrong/e\.csv is a PNG image: format csv expects CSV text"):
        version_of(f"{s3}/wrong", "csv", root)
    client.put_object(Bucket="shop", Key="wrong/_delta_log/0.json", Body=b"{}")
    with pytest.raises(InputError, match=r"s3://shop/wrong is a Delta Lake table, .*Set format: delta"):
        version_of(f"{s3}/wrong", "csv", root)


def test_a_store_that_cannot_be_listed_is_an_error(s3: str, root: Path) -> None:
    """A bucket that does not exist is named, with what to check."""
    with pytest.raises(InputError, match=r"cannot list s3://nobody/in: there is no bucket nobody at the store"):
        version_of("s3://nobody/in", "csv", root)


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
