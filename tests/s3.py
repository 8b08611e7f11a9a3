"""A real S3 server and folders: fixtures for tests of places that may be either."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
import pytest
from botocore.config import Config


@contextmanager
def s3_server() -> Iterator[str]:
    """The endpoint of an S3 server with the bucket `shop`, in a process of its own. The environment has address and keys."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    boto3.client("s3", config=Config(retries={"max_attempts": 60, "mode": "standard"})).create_bucket(Bucket="shop")
    try:
        yield settings["AWS_ENDPOINT_URL"]
    finally:
        server.terminate()
        server.wait()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="package")
def s3():
    """A bucket of an S3 server."""
    with s3_server():
        yield "s3://shop"


@pytest.fixture(params=["s3", "folder"])
def url(request, tmp_path):
    """A place of its own for each test."""
    if request.param == "folder":
        return f"file://{tmp_path}/there"
    return f"{request.getfixturevalue('s3')}/{tmp_path.name}"


@pytest.fixture
def silent_s3(monkeypatch):
    """The environment names a store that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(50)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}.items():
            monkeypatch.setenv(name, value)
        yield


def assert_a_signal_ends(call, *, after):
    """A signal interrupts the call at once.

    Args:
      call: it would wait for longer.
      after: seconds until the signal.
    """
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, after)
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            call()
        assert time.monotonic() - started < 5
    finally:
        signal.signal(signal.SIGALRM, before)
