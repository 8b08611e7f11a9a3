"""Files on the nodes of a Ray cluster, with an S3 server and folders as machines. No cluster is started."""

import os
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from jobs.runtime import node_files as runtime_files
from jobs.runtime.node_files import LEFT_OVER_SECONDS, NodeFiles, node_files
from kdlib.config.run import RunConfig
from kdlib.errors import InputError
from kdlib.store import partitions
from kdlib.store.mirror import attach, mirror_of

DS = "2026-11-22"


@dataclass(frozen=True)
class _Spec:
    export: str
    models: list[tuple[str, float]]
    more: dict[str, object] = field(default_factory=dict)


@pytest.fixture
def machines(s3: str, tmp_path: Path) -> tuple[NodeFiles, Callable[[str], None]]:
    """The files of a run, and a step to another machine, which sees its own disk at the same path."""
    root, url, now = tmp_path / "root", f"{s3}/{tmp_path.name}", ["driver"]
    attach(root, url)

    def to(machine: str) -> None:
        root.rename(tmp_path / now[0])
        now[0] = machine
        (tmp_path / machine).mkdir(exist_ok=True)
        (tmp_path / machine).rename(root)

    return NodeFiles(root, url), to


def _in_store(files: NodeFiles, folder: str) -> list[str]:
    mirror = mirror_of(files.root)
    assert mirror is not None
    return sorted(mirror.folder.files(folder))


def test_a_node_gets_what_its_arguments_name_and_the_driver_what_it_makes(
    machines: tuple[NodeFiles, Callable[[str], None]],
) -> None:
    """Published and unfinished files come to a machine without any, wherever the value holds their paths. A folder that nobody
    has written to is made. The node keeps nothing of what it gives, and nor does the store once the driver has taken it."""
    files, to = machines
    staging = partitions.new_staging(files.root, "models/teacher", DS)
    (staging / "model.json").write_text("teacher")
    partitions.publish(staging, files.root, "models/teacher", DS, fingerprint="f")
    teacher = partitions.current(files.root, "models/teacher", DS)
    rules, made = (partitions.new_staging(files.root, name, DS) for name in ("rules", "recommendations"))
    (rules / "pairs.bin").write_bytes(b"1234")
    export = files.root / "_checkpoints" / "n.distill.model"
    value = {
        "spec": _Spec(str(export), [(str(teacher), 1.0)], {"rules": rules, "text": "/elsewhere", "class": _Spec}),
        "folder": (str(made),),
    }
    files.offer(value)

    to("node")
    files = pickle.loads(pickle.dumps(files))
    files.bring(value)
    assert (teacher / "model.json").read_text() == "teacher"
    assert (rules / "pairs.bin").read_bytes() == b"1234"
    assert export.is_dir()
    (made / "part-0.parquet").write_text("rows")
    (made / "part-1.parquet").write_text("half")
    files.give(made / "part-0.parquet")
    assert [path.name for path in made.iterdir()] == ["part-1.parquet"]
    (export / "student").mkdir()
    (export / "student" / "model.json").write_text("student")
    files.offer(value)

    to("driver")
    export.mkdir(parents=True)
    files.gather(value)
    assert (export / "student" / "model.json").read_text() == "student"
    files.take(made)
    assert {path.name for path in made.iterdir()} >= {"part-0.parquet"}
    assert _in_store(files, f"_staging/{made.name}") == []


def test_a_node_follows_what_was_removed_and_tidies_up(
    machines: tuple[NodeFiles, Callable[[str], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that is gone is an error, and no node keeps it. Old unfinished files go, except those that the store has. A node
    does not take a model that an earlier run has left there for a finished one."""
    monkeypatch.setattr(runtime_files, "FRESH_SECONDS", 0.0)  # each step stands for another process
    files, to = machines
    staging = partitions.new_staging(files.root, "histories", DS)
    (staging / "a.json").write_text("a")
    partitions.publish(staging, files.root, "histories", DS, fingerprint="f")
    histories = partitions.current(files.root, "histories", DS)
    kept = files.root / "_checkpoints" / "kept.model"
    kept.mkdir(parents=True)
    (kept / "model.json").write_text("{}")
    files.offer(kept)

    to("node")
    (kept / "student").mkdir(parents=True)
    (kept / "student" / "model.json").write_text("of an earlier run")
    files.bring((histories, kept))
    assert [path.name for path in kept.rglob("*") if path.is_file()] == ["model.json"]
    assert (kept / "model.json").exists()
    left = [files.root / "_checkpoints" / name for name in ("old.model", "new.model")]
    for path in left:
        path.mkdir()
    long_ago = time.time() - LEFT_OVER_SECONDS - 60
    for path in (left[0], kept):
        os.utime(path, (long_ago, long_ago))
    mirror = mirror_of(files.root)
    assert mirror is not None
    mirror.folder.remove(_in_store(files, "_versions"))
    with pytest.raises(InputError, match="was removed"):
        files.bring(histories)
    assert not histories.exists()
    assert sorted(path.name for path in kept.parent.iterdir()) == ["kept.model", "new.model"]


def test_processes_that_share_a_disk_move_nothing(tmp_path: Path, silent_s3: None) -> None:
    """On a disk that all nodes share, and with a local Ray, no store is asked and no file moves."""
    document = {"name": "n", "input": {"simulate": {}}}
    places = [{"output_dir": str(tmp_path), "ray": {"address": "head:6379"}}, {"output_dir": "s3://shop/x"}]
    configs = [RunConfig.model_validate(document | place) for place in places]
    assert [node_files(config).store for config in configs] == [None, None]
    file = tmp_path / "_staging" / "a" / "part.parquet"
    file.parent.mkdir(parents=True)
    file.touch()
    files = NodeFiles(tmp_path, None)
    files.offer(file)
    files.bring(file.parent)
    files.give(file)
    files.take(file.parent)
    files.gather(file.parent)
    assert file.exists()
