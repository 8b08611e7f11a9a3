"""Disks that fail: each step of publishing and promoting a run fails once, and readers see whole runs only."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdlib.release import promotions
from kdlib.store import locks, partitions
from tests.release.test_promotions import DAYS, in_use

STEPS = ("replace", "rename", "symlink", "mkdir", "fsync", "unlink")
SERVED = ("recommendations", "models/student")


def put_and_promote(root: Path, ds: str) -> None:
    """Publish a table and a model, and promote both in one switch."""
    versions = {}
    for name in SERVED:
        staging = partitions.new_staging(root, name, ds)
        pq.write_table(pa.table({"ds": [ds]}), staging / "0.parquet")
        versions[name] = partitions.publish(staging, root, name, ds, fingerprint=ds).version
    promotions.promote(root, ds, versions)


@contextmanager
def failing(number: int, error: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let one step fail, counted from 0; yields the names of the steps."""
    done: list[str] = []

    def failing_once(name: str) -> object:
        step = getattr(os, name)

        def call(*arguments: object, **more: object) -> object:
            done.append(name)
            if len(done) == number + 1:
                raise OSError(error, os.strerror(error))
            return step(*arguments, **more)

        return call

    with monkeypatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, failing_once(name))
        yield done


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.ESTALE], ids=errno.errorcode.get)
def test_a_step_that_fails_leaves_a_whole_night_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """A full disk, a broken one, and a server that has lost the file. The next attempt puts the new run in use."""
    monkeypatch.setattr(locks, "STALE_SECONDS", 0.1)
    with failing(-1, error, monkeypatch) as steps:
        put_and_promote(tmp_path / "whole", DAYS[1])
    assert set(steps) == set(STEPS)
    for number in range(len(steps) + 1):
        root = tmp_path / str(number)
        put_and_promote(root, DAYS[0])
        with failing(number, error, monkeypatch) as done, suppress(OSError):
            put_and_promote(root, DAYS[1])
        found = {name: in_use(root, name) for name in SERVED}
        assert len(set(map(frozenset, found.values()))) == 1, (number, done, found)
        for name in SERVED:
            for ds in DAYS[:2]:
                manifest = partitions.read_manifest(root, name, ds)
                assert manifest is None or partitions.damaged(root, manifest) == []
        put_and_promote(root, DAYS[1])
        assert {name: in_use(root, name) for name in SERVED} == {name: {DAYS[1]} for name in SERVED}
        if len(done) <= number:  # the switch after the first one takes a few steps less
            break
    assert number > len(steps) / 2
