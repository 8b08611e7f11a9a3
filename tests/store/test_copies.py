"""Copies of files of an object store."""

import threading
import time
from types import SimpleNamespace

import boto3
import pytest

from kdlib.errors import ConfigError
from kdlib.store import copies
from kdlib.store.copies import copy_files, in_parallel
from kdlib.store.remote_files import RemoteFile, remote_files
from tests.s3 import assert_a_signal_ends


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
    monkeypatch.setattr(copies, "in_parallel", lambda _: pytest.fail("fetched"))
    files = {RemoteFile(f"s3://shop/{n}", 1_500_000, "x"): tmp_path / "x" / str(n) for n in range(2)}
    with pytest.raises(ConfigError, match=r"copies of 2 files need 3 MB, and .*/x has 2 MB free\. Make room there"):
        copy_files(files)


def test_calls_are_made_together_and_all_of_them():
    """As many calls as there are threads wait at a time."""
    together, done = threading.Barrier(4, timeout=5), []
    in_parallel([lambda n=n: (together.wait(), done.append(n)) for n in range(8)], threads=4)
    assert sorted(done) == list(range(8))


def test_the_first_error_ends_the_calls():
    """Calls that have not begun are not made after an error."""
    made = []

    def call(n):
        made.append(n)
        if n == 0:
            raise OSError("refused")
        time.sleep(0.05)

    with pytest.raises(OSError, match="refused"):
        in_parallel([lambda n=n: call(n) for n in range(100)], threads=2)
    time.sleep(0.5)
    assert len(made) < 8


def test_a_signal_ends_the_wait():
    """Ctrl-C is not held up by calls that wait."""
    assert_a_signal_ends(lambda: in_parallel([lambda: time.sleep(10)] * 3), after=0.2)
