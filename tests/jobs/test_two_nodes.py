"""A run on a Ray cluster whose nodes share no folder. The output folder is in an object store."""

import os
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from kdlib.config.load import load_config
from kdlib.release import promotions
from kdlib.store import partitions, tables
from kdlib.store.mirror import attach, mirror_of
from kdlib.store.working_copy import refresh
from tests.jobs.conftest import DS, EPOCHS, NIGHT
from tests.s3 import s3_server
from tests.two_nodes import needs_two_nodes, two_nodes
from tests.whole_nights import follow, start

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800), needs_two_nodes]
URL, BEFORE = "s3://shop/two", "2026-11-12"


def _put_an_earlier_run(root: Path) -> None:
    """Publish and promote a table of one list, to roll back to."""
    attach(root, URL)
    staging = partitions.new_staging(root, "recommendations_long", BEFORE)
    pq.write_table(pa.table({"user_id": ["u"]}), staging / "part.parquet")
    version = partitions.publish(staging, root, "recommendations_long", BEFORE, fingerprint="earlier").version
    promotions.promote(root, BEFORE, {"recommendations_long": version})


def _rows(root: Path, table: str, *, without: str | None = None) -> pa.Table:
    found = pq.read_table(partitions.current(root, table, DS))
    return found.filter(pc.field("user_id") != without) if without and "user_id" in found.column_names else found


def test_a_night_a_rollback_and_a_forget_on_nodes_that_share_no_folder(
    night: tuple[Path, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A night is killed while the student trains. The same command on a machine without any file goes on from the checkpoint.

    It ends with the tables that a laptop has made on its disk. Each node has fetched what it worked on. A third machine rolls back
    and forgets a user. The other tables' rows stay as they are.
    """
    machines = [tmp_path / name for name in "abc"]
    for machine in machines:
        machine.mkdir()
    with s3_server(), two_nodes(*machines) as cluster:
        document = NIGHT | {"output_dir": URL, "ray": {"address": cluster.address}}
        document["training"] = NIGHT["training"] | {"cpus_per_worker": 2}  # so that each node has a worker
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(document))

        def on(machine: Path) -> Path:
            monkeypatch.setenv("DISTILREC_CACHE", str(machine))
            return load_config(path).root

        _put_an_earlier_run(on(machines[0]))
        killed = start(path, more_environment=cluster.environment)
        printed = follow(killed, f"student epoch  4/{EPOCHS}", lambda: os.killpg(killed.pid, signal.SIGKILL))
        assert "train_teacher:\n" in printed

        root = on(machines[1])
        resumed = start(path, more_environment=cluster.environment)
        printed = follow(resumed)
        assert resumed.returncode == 0, printed
        assert f"student epoch {EPOCHS}/{EPOCHS}" in printed
        assert "student epoch  1/" not in printed, "it began anew"
        here, there = (
            [file.read_bytes() for file in sorted(partitions.current(one, "recommendations", DS).iterdir())]
            for one in (root, night[1])
        )
        assert here == there
        for found in cluster.files(root):
            for name in ("histories", "models/teacher", "models/student"):
                assert any(one.startswith(f"_versions/{name}/") and "/data/" in one for one in found), (name, found)
        mirror = mirror_of(root)
        assert mirror is not None
        assert {name: mirror.folder.files(name) for name in ("_staging", "_checkpoints")} == {
            "_staging": {},
            "_checkpoints": {},
        }

        root = on(machines[2])
        user = pq.read_table(partitions.current(night[1], "recommendations", DS))["user_id"][0].as_py()
        for command, *more in (("rollback", "--to", BEFORE), ("forget", "--user", user)):
            process = start(path, *more, command=command)
            printed = follow(process)
            assert process.returncode == 0, printed
        refresh(root)
        in_use = promotions.current(root)
        assert in_use is not None
        assert (in_use.ds, in_use.action) == (BEFORE, "rollback")
        for table in set(partitions.published_on(night[1], DS)) & set(tables.ALL) - {"gates", "quarantine"}:
            assert _rows(root, table).equals(_rows(night[1], table, without=user)), table
