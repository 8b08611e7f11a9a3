"""Each fault of an output folder is found and mended, and nothing else is changed."""

import json
import shutil
from pathlib import Path

import pytest

from kdlib.privacy import forgetting
from kdlib.release import promotions, repair
from kdlib.store import partitions
from tests.release.test_promotions import DAYS, put_and_promote, put_night


def found(root: Path, *busy: str) -> list[str]:
    return [fault.what for fault in repair.faults(root, lambda: busy)]


def mend(root: Path) -> list[str]:
    """Mend what can be mended; returns the remedies that are left to a person."""
    for fault in repair.faults(root, set, alone=True):
        if fault.mend:
            fault.mend()
    left = repair.faults(root, set, alone=True)
    assert not [fault for fault in left if fault.mend]
    return [fault.remedy for fault in left]


def in_use(root: Path) -> str | None:
    now = promotions.current(root)
    return now and now.ds


def first_file(root: Path, ds: str, table: str = "histories") -> Path:
    return sorted(partitions.current(root, table, ds).iterdir())[0]


def test_a_whole_folder_has_no_fault(tmp_path):
    """Neither has one with a rollback, nor one where nothing was ever promoted."""
    put_night(tmp_path, DAYS[0])
    assert found(tmp_path) == []
    put_and_promote(tmp_path, *DAYS[:3])
    promotions.rollback(tmp_path, DAYS[1])
    forgetting.remember_to_forget(tmp_path, ["a"])
    assert found(tmp_path) == []


@pytest.mark.parametrize("damage", ["", "{", None])
def test_a_record_that_cannot_be_read_goes_aside_and_the_run_before_comes_into_use(tmp_path, damage):
    """The record in force is damaged, as after a power cut. Its number is used again, and a second one goes aside too."""
    put_and_promote(tmp_path, *DAYS[:2])
    for _ in range(2):
        put_and_promote(tmp_path, DAYS[2])
        record = tmp_path / "_promotions" / f"00003.ds={DAYS[2]}"
        (record / "promotion.json").write_text(damage) if damage is not None else (record / "promotion.json").unlink()
        assert found(tmp_path)[0] == f"the record of a switch, _promotions/{record.name}, cannot be read"
        assert "promoted leads to no record" in found(tmp_path)[1]
        assert mend(tmp_path) == []
        assert in_use(tmp_path) == DAYS[1]
        assert promotions.damaged_records(tmp_path) == []
    assert len(list((tmp_path / "_promotions" / "_damaged").glob(f"{record.name}*"))) == 2


def test_after_a_rollback_whose_record_is_lost_the_withdrawn_run_stays_out(tmp_path):
    """The name of the record tells the date that it went back to."""
    put_and_promote(tmp_path, *DAYS[:3])
    promotions.rollback(tmp_path, DAYS[1])
    (tmp_path / "_promotions" / f"00004.ds={DAYS[1]}" / "promotion.json").write_text("")
    assert mend(tmp_path) == []
    assert in_use(tmp_path) == DAYS[1]


@pytest.mark.parametrize("how", ["missing", "dangling"])
def test_the_link_promoted_comes_back(tmp_path, how):
    """It leads to the newest record whose run is whole."""
    put_and_promote(tmp_path, *DAYS[:3])
    first_file(tmp_path, DAYS[2]).unlink()
    (tmp_path / "promoted").unlink()
    if how == "dangling":
        (tmp_path / "promoted").symlink_to("_promotions/00009.ds=2026-11-30")
    assert mend(tmp_path) == []
    assert in_use(tmp_path) == DAYS[1]
    assert (tmp_path / "promoted" / "recommendations").is_dir()


def test_without_a_whole_promoted_run_a_person_decides(tmp_path):
    """Nothing is put in use."""
    put_and_promote(tmp_path, DAYS[0])
    first_file(tmp_path, DAYS[0]).unlink()
    (tmp_path / "promoted").unlink()
    assert mend(tmp_path) == ["no promoted run is whole. Make one with `distilrec nightly`"]
    assert in_use(tmp_path) is None


def test_a_partition_that_leads_to_nothing_goes(tmp_path):
    """Only the link is there; the other tables of the date stay. A date that a run holds is left alone."""
    versions = put_night(tmp_path, DAYS[0])
    shutil.rmtree(partitions.version_folder(tmp_path, "models/student", DAYS[0], versions["models/student"]).parent)
    assert found(tmp_path, DAYS[0]) == []
    assert found(tmp_path) == [f"models/student/ds={DAYS[0]} leads to nothing"]
    assert mend(tmp_path) == []
    assert "models/student" not in partitions.published_on(tmp_path, DAYS[0])
    assert "recommendations" in partitions.published_on(tmp_path, DAYS[0])


@pytest.mark.parametrize("manifest", [None, "", "[]", '{"table": "x"}'])
@pytest.mark.parametrize("without_data", [True, False])
def test_a_version_without_a_usable_manifest_goes(tmp_path, manifest, without_data):
    """Its partition goes too."""
    versions = put_night(tmp_path, DAYS[0])
    home = partitions.version_folder(tmp_path, "histories", DAYS[0], versions["histories"]).parent
    (home / "manifest.json").unlink() if manifest is None else (home / "manifest.json").write_text(manifest)
    if without_data:
        shutil.rmtree(home / "data")
    assert f"_versions/histories/{home.name} has no usable manifest" in found(tmp_path)
    assert mend(tmp_path) == []
    assert not home.exists()
    assert partitions.read_manifest(tmp_path, "histories", DAYS[0]) is None


@pytest.mark.parametrize("how", ["missing", "cut"])
def test_a_version_with_a_missing_or_cut_file_is_made_again(tmp_path, how):
    """Its partition goes, the other files stay, and the next run publishes the same version whole."""
    versions = put_night(tmp_path, DAYS[0])
    file = first_file(tmp_path, DAYS[0])
    file.unlink() if how == "missing" else file.write_bytes(file.read_bytes()[:-1])
    what = f"_versions/histories/ds={DAYS[0]}.{versions['histories']} has missing or cut files: {file.name}"
    assert found(tmp_path) == [what]
    assert mend(tmp_path) == []
    assert partitions.read_manifest(tmp_path, "histories", DAYS[0]) is None
    assert len(list(file.parent.iterdir())) == (1 if how == "missing" else 2)
    assert put_night(tmp_path, DAYS[0]) == versions
    assert partitions.damaged(tmp_path, partitions.manifest_of(tmp_path, "histories", DAYS[0])) == []


@pytest.mark.parametrize("lost", ["file", "manifest", "version"])
def test_the_run_in_use_is_left_alone_and_the_way_back_is_named(tmp_path, lost):
    """The rollback that is named goes to the newest whole run. After it the damaged version is mended."""
    put_and_promote(tmp_path, *DAYS[:3])
    first_file(tmp_path, DAYS[1], "models/student").unlink()
    mend(tmp_path)
    file = first_file(tmp_path, DAYS[2])
    home = file.parent.parent
    shutil.rmtree(home) if lost == "version" else (file if lost == "file" else home / "manifest.json").unlink()
    [remedy] = mend(tmp_path)
    assert remedy == (
        f"go back with `distilrec rollback --to {DAYS[0]}`, or make it again with `distilrec nightly --ds {DAYS[2]}`"
    )
    assert home.exists() == (lost != "version")
    assert in_use(tmp_path) == DAYS[2]
    promotions.rollback(tmp_path, DAYS[0])
    assert mend(tmp_path) == []
    assert partitions.read_manifest(tmp_path, "histories", DAYS[2]) is None


@pytest.mark.parametrize("damage", ["", "{", '{"users": 3}'])
def test_the_list_of_forgotten_users_comes_back_from_its_copy(tmp_path, damage):
    """Without a copy a person decides. A list that somebody has removed stays away."""
    put_night(tmp_path, DAYS[0])
    forgetting.remember_to_forget(tmp_path, ["a"])
    (tmp_path / forgetting.LIST).write_text(damage)
    assert mend(tmp_path) == []
    assert json.loads((tmp_path / forgetting.LIST).read_text())["users"] == [forgetting.digest("a")]
    (tmp_path / forgetting.LIST).write_text(damage)
    (tmp_path / forgetting.COPY).unlink()
    assert mend(tmp_path) == ["put it back from a backup; or remove it and `distilrec forget` each user again"]
    (tmp_path / forgetting.LIST).unlink()
    assert found(tmp_path) == []


def test_what_ended_runs_have_left_goes(tmp_path):
    """An unfinished table of a date that a run holds stays, and a switch that another process makes now."""
    put_and_promote(tmp_path, DAYS[0])
    names = [f"histories.ds={DAYS[0]}.abc.whole", f"histories.ds={DAYS[1]}.abc", "promotion.abc", "removed.x.y"]
    for name in names:
        (tmp_path / "_staging" / name).mkdir()
    left = [what.partition(" ")[0].removeprefix("_staging/") for what in found(tmp_path, DAYS[1])]
    assert sorted(left) == sorted(set(names) - {names[1]})
    with promotions.switching(tmp_path, "promote"):
        assert not [what for what in found(tmp_path) if "promotion." in what]
    assert mend(tmp_path) == []
    assert not list((tmp_path / "_staging").iterdir())
