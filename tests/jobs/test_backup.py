"""An output folder that was copied with its links goes on from the copy, on runs published by hand."""

import shutil
import subprocess

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from kdlib.privacy import forgetting
from kdlib.release import delivery, promotions
from kdlib.store import partitions
from tests.jobs.handmade import DAYS, put, put_night, root_of, run

USER = "anna.k"


def make(config, ds):
    """The tables of a run that names a user."""
    root = put_night(config, ds)
    users = pa.table({"user_id": [USER, "bruno"], "ds": [ds, ds]})
    put(root, "recommendations", ds, users, ("histories", "models/student"))
    assert run("check-gates", config, "--ds", ds) == 0


def users_in_use(root):
    return pq.read_table((root / "promoted" / "recommendations").resolve())["user_id"].to_pylist()


def test_a_run_goes_on_from_a_backup(config, capfd):
    """A copy with `cp -a` needs neither the old folder nor work in progress: `repair` finds it whole, and all commands work."""
    for ds in DAYS[:2]:
        make(config, ds)
        assert run("promote", config, "--ds", ds) == 0
    root, copy = root_of(config), config.parent / "elsewhere"
    subprocess.run(["cp", "-a", root, copy], check=True)
    shutil.rmtree(root)
    for name in ("_staging", "_locks", "logs"):
        shutil.rmtree(copy / name)
    document = yaml.safe_load(config.read_text())
    document |= {"output_dir": str(copy), "delivery": {"url": f"file://{config.parent}/there"}}
    config.write_text(yaml.safe_dump(document))
    capfd.readouterr()
    assert run("repair", config) == 0
    assert f"repair: no fault found in {copy}" in capfd.readouterr().out
    now = promotions.current(copy)
    assert now is not None
    assert now.ds == DAYS[1]
    assert not [name for name in now.versions if partitions.damaged(copy, promotions.manifest_of(copy, now, name))]
    assert run("rollback", config, "--to", DAYS[0]) == run("rollback", config, "--to", DAYS[1]) == 0
    shutil.move(copy, root)  # back to the place of old
    config.write_text(yaml.safe_dump(document | {"output_dir": str(root)}))
    make(config, DAYS[2])
    assert run("promote", config, "--ds", DAYS[2]) == 0
    assert f"promote: removed 1 old runs, {DAYS[0]} to {DAYS[0]}" in capfd.readouterr().out
    assert run("forget", config, "--user", USER) == 0
    assert users_in_use(root) == ["bruno"]
    assert delivery.read(f"file://{config.parent}/there", "recommendations").to_table()["user_id"].to_pylist() == [
        "bruno"
    ]
    assert forgetting.forgotten(root) == [forgetting.digest(USER)]
    assert run("rollback", config, "--to", DAYS[1]) == 0
    assert users_in_use(root) == ["bruno"]
    assert run("prune", config, "--keep", "1") == run("repair", config) == 0


@pytest.mark.parametrize("lost", ["all", "partitions"])
def test_a_copy_without_links_is_noticed(config, lost, capfd):
    """Nothing could be switched there: `repair` says how to copy, and changes nothing."""
    make(config, DAYS[0])
    assert run("promote", config, "--ds", DAYS[0]) == 0
    root = root_of(config)
    copy = config.parent / "elsewhere"
    shutil.copytree(root, copy)
    name = "promoted"
    if lost == "partitions":
        shutil.rmtree(copy / "promoted")
        name = f"gates/ds={DAYS[0]}"
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"output_dir": str(copy)}))
    assert run("repair", config) == run("repair", config, "--yes") == 1
    printed = capfd.readouterr().out
    assert f"{name} is a folder, and should be a link: the output folder was copied without its links" in printed
    assert "by hand: copy it again from the original, with `cp -a` or `rsync -a`" in printed
    assert "0 mended" in printed
