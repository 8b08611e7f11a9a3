"""A run on a Ray cluster whose nodes share no folder. The output folder is in an object store."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import yaml

from kdlib.config.load import load_config
from kdlib.store import partitions
from kdlib.store.mirror import attach, mirror_of, point, send
from tests.jobs.conftest import DS, EPOCHS, NIGHT
from tests.s3 import s3_server
from tests.two_nodes import needs_two_nodes, two_nodes
from tests.whole_nights import follow, start

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800), needs_two_nodes]
URL = "s3://shop/two"
MADE_ON_RAY = ("models", "teacher_targets", "metrics", "recommendations")


def _features_in_store(night: Path, root: Path) -> None:
    """Copy an output folder without its models and lists to a store, and make `root` its working copy."""
    shutil.copytree(night, root, symlinks=True, ignore=shutil.ignore_patterns("_promotions", "promoted", *MADE_ON_RAY))
    attach(root, URL)
    for name in ("_versions", "_format.json"):
        send(root / name)
    for link in partitions.links(root).values():
        point(link, link.resolve())


def test_another_machine_goes_on_with_a_run_on_nodes_that_share_no_folder(
    night: tuple[Path, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is killed while the student trains. The same command on a machine without any file goes on from the checkpoint,
    and ends with the bytes of the table that a laptop made on its disk. Each node has fetched what it worked on."""
    machines = [tmp_path / "a", tmp_path / "b"]
    for machine in machines:
        machine.mkdir()
    with s3_server(), two_nodes(*machines) as cluster:
        document = NIGHT | {"output_dir": URL, "ray": {"address": cluster.address}}
        document["training"] = NIGHT["training"] | {"cpus_per_worker": 2}  # so that each node has a worker
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(document))

        monkeypatch.setenv("DISTILREC_CACHE", str(machines[0]))
        _features_in_store(night[1], load_config(path).root)
        killed = start(path, more_environment=cluster.environment)
        printed = follow(killed, f"student epoch  4/{EPOCHS}", lambda: os.killpg(killed.pid, signal.SIGKILL))
        assert "train_teacher:\n" in printed

        monkeypatch.setenv("DISTILREC_CACHE", str(machines[1]))
        root = load_config(path).root
        resumed = start(path, more_environment=cluster.environment)
        printed = follow(resumed)
        assert resumed.returncode == 0, printed
        assert f"student epoch {EPOCHS}/{EPOCHS}" in printed
        assert "student epoch  1/" not in printed, "it began anew"

        tables = [partitions.current(folder, "recommendations", DS) for folder in (root, night[1])]
        files, expected = [[file.read_bytes() for file in sorted(table.iterdir())] for table in tables]
        assert files == expected
        for found in cluster.files(root):
            for name in ("histories", "models/teacher", "models/student"):
                assert any(one.startswith(f"_versions/{name}/") and "/data/" in one for one in found), (name, found)
        mirror = mirror_of(root)
        assert mirror is not None
        assert {name: mirror.folder.files(name) for name in ("_staging", "_checkpoints")} == {
            "_staging": {},
            "_checkpoints": {},
        }
