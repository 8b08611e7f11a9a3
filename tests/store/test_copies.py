"""Copies of files of an object store."""

from types import SimpleNamespace

import boto3
import pytest

from kdlib.errors import ConfigError
from kdlib.store import copies
from kdlib.store.copies import copy_files
from kdlib.store.remote_files import RemoteFile, remote_files


def test_files_are_copied_into_new_folders(s3, tmp_path):
    """Each file is at its place, whole."""
    for n in range(20):
        boto3.client("s3").put_object(Bucket="shop", Key=f"copies/{n % 3}/{n}.csv", Body=f"{n}\n".encode() * 1_000)
    files = list(remote_files(f"{s3}/copies"))
    copy_files({file: tmp_path / "x" / file.url.removeprefix(f"{s3}/copies/") for file in files})
    assert len(files) == 20
    assert (tmp_path / "x/1/19.csv").read_bytes() == b"19\n" * 1_000
    assert sum(path.stat().st_size for path in (tmp_path / "x").rglob("*.csv")) == sum(file.size for file in files)


def test_a_file_that_is_gone_is_an_error(s3, tmp_path):
    """A file that was listed and is gone ends the copying."""
    with pytest.raises(OSError, match="not found"):
        copy_files({RemoteFile(f"{s3}/copies/none.csv", 1, "x"): tmp_path / "none.csv"})


def test_a_full_disk_is_found_before(tmp_path, monkeypatch):
    """Without room for all files, none is fetched, and the error says how much is needed and where."""
    monkeypatch.setattr(copies.shutil, "disk_usage", lambda _: SimpleNamespace(free=2_000_000))
    monkeypatch.setattr(copies, "in_parallel", lambda *_, **__: pytest.fail("fetched"))
    files = {RemoteFile(f"s3://shop/{n}", 1_500_000, "x"): tmp_path / "x" / str(n) for n in range(2)}
    with pytest.raises(ConfigError, match=r"copies of 2 files need 3 MB, and .*/x has 2 MB free\. Make room there"):
        copy_files(files)
