"""A folder on a disk and in an object store."""

import os
import pickle
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from uuid import uuid4

import pytest

from kdlib.errors import ConfigError
from kdlib.store import objects
from kdlib.store.folders import ConflictError, StoreError
from kdlib.store.objects import folder_at
from tests.s3 import assert_a_signal_ends


@pytest.fixture
def folder(url):
    return folder_at(url)


def test_of_two_writers_that_have_read_the_same_object_one_is_told(folder):
    """The second write finds other content than its writer has read."""
    first = folder.write("pointer.json", b"1", over=None)
    assert folder.read("pointer.json") == first
    folder.write("pointer.json", b"2", over=first)
    with pytest.raises(ConflictError, match=r"pointer.json holds something else than before"):
        folder.write("pointer.json", b"3", over=first)
    with pytest.raises(ConflictError, match=r"pointer.json holds something else"):
        folder.write("pointer.json", b"3", over=None)
    assert folder.read("pointer.json").data == b"2"


def test_of_many_writers_at_once_one_wins_each_round(folder):
    """Four threads add 1 to a number, five times each: every success counts."""
    folder.write("number", b"0 ", over=None)
    wins = []

    def add():
        for _ in range(5):
            seen = folder.read("number")
            with suppress(ConflictError):
                wins.append(folder.write("number", f"{int(seen.data.split()[0]) + 1} {uuid4()}".encode(), over=seen))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert int(folder.read("number").data.split()[0]) == len(wins) >= 5


def test_files_go_there_and_come_back(folder, tmp_path, monkeypatch):
    """A file in several parts arrives whole; a list names what lies below a folder; removing twice is no fault."""
    monkeypatch.setattr(objects, "CHUNK_BYTES", 6 * 2**20)
    data = os.urandom(13 * 2**20)
    (tmp_path / "big").write_bytes(data)
    (tmp_path / "empty").touch()
    folder.upload(tmp_path / "big", "a/b/big")
    folder.upload(tmp_path / "empty", "a/empty")
    folder.write("ab", b"x", over=None)
    assert folder.files("a") == {"a/b/big": len(data), "a/empty": 0}
    assert set(folder.files()) == {"a/b/big", "a/empty", "ab"}
    assert folder.files("none") == {}
    folder.download("a/b/big", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    folder.download("a/empty", tmp_path / "back2")
    assert (tmp_path / "back2").read_bytes() == b""
    for _ in range(2):
        folder.remove(["a/b/big", "a/empty"])
    assert set(folder.files()) == {"ab"}
    assert folder.read("a/empty") is None
    assert pickle.loads(pickle.dumps(folder)).read("ab").data == b"x"


@pytest.mark.parametrize("url", ["s3:///x", "ftp://host/x", "file://host/x", "nothing", "hdfs://host/x"])
def test_another_kind_of_url_is_an_error(url):
    """The text shows what is expected."""
    with pytest.raises(ConfigError, match="expected s3://bucket/folder"):
        folder_at(url)


@pytest.fixture
def silent(silent_s3):
    """A folder in a store that takes connections and never answers."""
    return folder_at("s3://bucket/there")


def test_a_store_that_never_answers_is_an_error_after_the_deadline(silent, monkeypatch):
    """The text names the folder."""
    monkeypatch.setattr(objects, "RETRY_SECONDS", 0)
    monkeypatch.setattr(objects, "REQUEST_SECONDS", 1)
    with pytest.raises(StoreError, match=r"s3://bucket/there has not answered within 1 s|Error performing GET"):
        silent.read("pointer.json")


def test_a_signal_ends_the_wait_for_a_store(silent):
    """The package itself would wait on."""
    assert_a_signal_ends(lambda: silent.read("pointer.json"), after=0.3)


@pytest.mark.parametrize(
    ("status", "region"), [(200, "eu-west-1"), (301, "eu-west-1"), (403, "eu-west-1"), (404, None)]
)
def test_a_bucket_tells_its_region_to_everybody(monkeypatch, status, region):
    """The header is in every answer for a bucket that is there, also in a refusal."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            assert self.path == "/shop"
            self.send_response(status)
            if region:
                self.send_header("x-amz-bucket-region", region)
            self.end_headers()

        def log_message(self, *_):
            pass

    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setattr(objects, "S3", f"http://127.0.0.1:{server.server_port}")
        assert objects.s3_region("s3://shop/there") == region
    monkeypatch.setenv("AWS_REGION", "us-east-2")
    assert objects.s3_region("s3://shop/there") is None
