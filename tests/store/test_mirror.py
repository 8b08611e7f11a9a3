"""An output folder in an S3 server, with the working copies of two machines."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdlib.errors import BusyError, InputError
from kdlib.privacy import forgetting
from kdlib.release import freezing, promotions
from kdlib.release.freezing import FrozenError
from kdlib.release.repair import faults
from kdlib.release.retention import remove_old_nights
from kdlib.store import leases, mirror, partitions
from kdlib.store.objects import ObjectFolder
from kdlib.store.working_copy import fetch, held, refresh

DAYS = ["2026-11-19", "2026-11-20", "2026-11-21", "2026-11-22"]
LISTS = "recommendations"
TABLES = (LISTS, "models/student")
USERS = ["anna", "bo"]


@pytest.fixture
def shop(s3, tmp_path):
    """One output folder in a store, with working copies on the machines `a` and `b`."""
    url = f"{s3}/{tmp_path.name}/out"
    for name in "ab":
        mirror.attach(tmp_path / name, url)
    return SimpleNamespace(a=tmp_path / "a", b=tmp_path / "b", store=ObjectFolder(url))


def put(root: Path, ds: str, *, users=USERS, table: str = LISTS) -> str:
    staging = partitions.new_staging(root, table, ds)
    pq.write_table(pa.table({"user_id": users, "ds": [ds] * len(users)}), staging / "0.parquet")
    return partitions.publish(staging, root, table, ds, fingerprint=f"{ds} {users}").version


def put_and_promote(root: Path, *days: str) -> None:
    for ds in days:
        promotions.promote(root, ds, {table: put(root, ds, table=table) for table in TABLES})


def in_use(root: Path) -> promotions.Promotion:
    found = promotions.current(root)
    assert found is not None
    return found


def users_of(root: Path, ds: str) -> list[str]:
    return pq.read_table(partitions.current(root, LISTS, ds))["user_id"].to_pylist()


def test_another_machine_reads_what_one_has_published(shop):
    """It has the manifest at once, and the data with its first reader."""
    put(shop.a, DAYS[0])
    refresh(shop.b)
    manifest = partitions.manifest_of(shop.b, LISTS, DAYS[0])
    data = partitions.version_folder(shop.b, LISTS, DAYS[0], manifest.version)
    assert manifest == partitions.manifest_of(shop.a, LISTS, DAYS[0])
    assert partitions.latest(shop.b, LISTS) == DAYS[0]
    assert not any(data.iterdir())
    assert users_of(shop.b, DAYS[0]) == USERS
    assert [path.name for path in data.iterdir()] == [file["path"] for file in manifest.files]


def test_the_pointer_names_the_version(shop):
    """A reader without distilrec finds the files in two steps."""
    version = put(shop.a, DAYS[0])
    target = json.loads(shop.store.read(f"{LISTS}/ds={DAYS[0]}.json").data)["target"]
    assert target == f"_versions/{LISTS}/ds={DAYS[0]}.{version}/data"
    assert len(shop.store.files(target)) == 1


def test_a_file_that_the_store_has_lost_is_damage(shop):
    """Also where the data were never fetched."""
    version = put(shop.a, DAYS[0])
    refresh(shop.b)
    manifest = partitions.manifest_of(shop.b, LISTS, DAYS[0])
    assert partitions.damaged(shop.b, manifest) == []
    shop.store.remove(shop.store.files(f"_versions/{LISTS}/ds={DAYS[0]}.{version}/data"))
    assert partitions.damaged(shop.b, manifest) == [manifest.files[0]["path"]]
    with pytest.raises(InputError, match="has no files"):
        users_of(shop.b, DAYS[0])


def test_a_rollback_on_one_machine_is_in_force_on_the_other(shop):
    """Both have the same history, and links to the same tables."""
    put_and_promote(shop.a, *DAYS[:2])
    promotions.rollback(shop.b, DAYS[0])
    refresh(shop.a)
    assert promotions.history(shop.a) == promotions.history(shop.b)
    assert in_use(shop.a).ds == DAYS[0]
    for root in (shop.a, shop.b):
        fetch((root / "promoted" / LISTS).resolve())
        assert set(pq.read_table((root / "promoted" / LISTS).resolve())["ds"].to_pylist()) == {DAYS[0]}


def test_a_freeze_on_one_machine_stops_a_promotion_on_the_other(shop):
    """And its end lets the promotion through."""
    put_and_promote(shop.a, DAYS[0])
    with promotions.switching(shop.a, "freeze"):
        freezing.freeze(shop.a, "a sale")
    versions = {LISTS: put(shop.b, DAYS[1])}
    with pytest.raises(FrozenError, match="a sale"):
        promotions.promote(shop.b, DAYS[1], versions)
    with promotions.switching(shop.a, "unfreeze"):
        freezing.unfreeze(shop.a)
    assert promotions.promote(shop.b, DAYS[1], versions).number == 2


def test_old_runs_go_from_the_store_and_from_every_working_copy(shop):
    """The kept runs stay, and nobody finds a fault."""
    put_and_promote(shop.a, *DAYS[:4])
    refresh(shop.b)
    assert remove_old_nights(shop.b, keep=2, before=DAYS[3]) == DAYS[:2]
    refresh(shop.a)
    for root in (shop.a, shop.b):
        assert sorted(ds for table, ds in partitions.links(root) if table == LISTS) == DAYS[2:4]
        assert faults(root, lambda: ()) == []
    assert not [
        name for name in shop.store.files() if DAYS[0] in name and "_promotions" not in name and "_locks" not in name
    ]


def test_a_forgotten_user_goes_from_the_store_and_from_every_working_copy(shop):
    """Also from data that another machine has fetched before, and from logs."""
    put(shop.a, DAYS[0])
    log = shop.a / "logs" / f"ds={DAYS[0]}" / "nightly.log"
    log.parent.mkdir(parents=True)
    log.write_text("user anna\nuser bo\n")
    mirror.send(log)
    refresh(shop.b)
    assert users_of(shop.b, DAYS[0]) == USERS
    forgetting.remember_to_forget(shop.b, ["anna"])
    assert sum(forgetting.erase(shop.b, ["anna"]).values()) == 2
    refresh(shop.a)
    for root in (shop.a, shop.b):
        assert users_of(root, DAYS[0]) == ["bo"]
        assert partitions.damaged(root, partitions.manifest_of(root, LISTS, DAYS[0])) == []
        assert forgetting.forgotten(root) == [forgetting.digest("anna")]
    assert shop.store.read(f"logs/ds={DAYS[0]}/nightly.log").data == b"user bo\n"


def test_a_working_copy_may_be_lost(shop):
    """A new one has everything."""
    put_and_promote(shop.a, *DAYS[:2])
    url = shop.store.url
    shutil.rmtree(shop.a)
    mirror.attach(shop.a, url)
    refresh(shop.a)
    assert in_use(shop.a).ds == DAYS[1]
    assert users_of(shop.a, DAYS[1]) == USERS


def test_what_a_killed_process_has_not_brought_to_the_store_does_not_count(shop):
    """The store decides: links, records and versions that it does not have go from the working copy."""
    put_and_promote(shop.a, DAYS[0])
    before = sorted(path for path in shop.a.rglob("*") if not path.name.startswith(".store"))
    version = shop.a / "_versions" / LISTS / f"ds={DAYS[1]}.x"
    record = shop.a / "_promotions" / f"00002.ds={DAYS[1]}"
    for folder in (version / "data", record):
        folder.mkdir(parents=True)
    (record / "promotion.json").write_text("{}")
    os.symlink(version / "data", shop.a / LISTS / f"ds={DAYS[1]}")
    refresh(shop.a)
    assert sorted(path for path in shop.a.rglob("*") if not path.name.startswith(".store")) == before


def test_a_pointer_that_a_killed_process_has_switched_counts(shop):
    """The process was killed before it changed its own working copy."""
    first, second = put(shop.a, DAYS[0]), put(shop.b, DAYS[0], users=["cleo"])
    link = shop.a / LISTS / f"ds={DAYS[0]}"
    assert first in str(link.readlink())
    refresh(shop.a)
    assert second in str(link.readlink())
    assert users_of(shop.a, DAYS[0]) == ["cleo"]


def test_a_holder_that_was_paused_publishes_nothing(shop):
    """Another run has its lease when it wakes up, and the pointer stays as that run has left it."""
    path = leases.of_date(DAYS[0])
    with held(shop.a, path, "nightly"):
        staged = partitions.new_staging(shop.a, LISTS, DAYS[0])
        pq.write_table(pa.table({"user_id": USERS}), staged / "0.parquet")
        other = b'{"token": "other", "beat": 0, "holder": {}, "written": "x"}'
        shop.store.write(path, other, over=shop.store.read(path))
        with pytest.raises(BusyError, match="Nothing of this run is published"):
            partitions.publish(staged, shop.a, LISTS, DAYS[0], fingerprint="late")
    assert shop.store.read(f"{LISTS}/ds={DAYS[0]}.json") is None


def test_a_version_without_a_manifest_is_a_fault_that_can_be_mended(shop):
    """A process was killed while it copied a version. `repair` removes it from the store."""
    put_and_promote(shop.a, DAYS[0])
    shop.store.write(f"_versions/{LISTS}/ds={DAYS[1]}.x/data/part-00000-x.parquet", b"cut", over=None)
    refresh(shop.b)
    [fault] = faults(shop.b, lambda: ())
    assert "has no usable manifest" in fault.what
    assert fault.mend is not None
    fault.mend()
    assert not shop.store.files(f"_versions/{LISTS}/ds={DAYS[1]}.x")


def test_readers_and_writers_on_one_machine_do_not_disturb_each_other(shop):
    """While a version is copied to the store, a refresh by another command leaves it alone."""
    staging = partitions.new_staging(shop.a, LISTS, DAYS[0])
    pq.write_table(pa.table({"user_id": USERS}), staging / "0.parquet")
    sent, works = [], ObjectFolder.upload

    def upload(self, file, path):
        refresh(shop.a)
        sent.append(path)
        works(self, file, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectFolder, "upload", upload)
        partitions.publish(staging, shop.a, LISTS, DAYS[0], fingerprint="one")
    assert len(sent) == 1
    assert users_of(shop.a, DAYS[0]) == USERS


def test_attach_refuses_another_store(shop):
    """A working copy belongs to one output folder."""
    with pytest.raises(InputError, match="is the working copy of s3://"):
        mirror.attach(shop.a, "s3://other/folder")


@pytest.mark.parametrize("killed_at", [0, 1])
def test_a_version_whose_sending_was_cut_off_is_sent_again(shop, monkeypatch, killed_at):
    """A rerun on the same machine finds the files here, and does not take them for published."""

    class Killed(BaseException):
        pass

    works, left = ObjectFolder.upload, [killed_at]

    def upload(self, file, path):
        if not left[0]:
            raise Killed
        left[0] -= 1
        works(self, file, path)

    def attempt():
        staging = partitions.new_staging(shop.a, LISTS, DAYS[0])
        for number in range(2):
            pq.write_table(pa.table({"user_id": USERS, "part": [number] * 2}), staging / f"{number}.parquet")
        partitions.publish(staging, shop.a, LISTS, DAYS[0], fingerprint="one")

    with monkeypatch.context() as patch:
        patch.setattr(mirror, "in_parallel", lambda step, items: [step(one) for one in items])
        patch.setattr(ObjectFolder, "upload", upload)
        with pytest.raises(Killed):
            attempt()
    refresh(shop.a)
    attempt()
    refresh(shop.b)
    assert users_of(shop.b, DAYS[0]) == USERS * 2
    assert faults(shop.b, lambda: ()) == []


def test_a_pointer_that_goes_back_is_noticed(shop):
    """It then holds the very bytes that this machine has read before."""
    first, second = put(shop.a, DAYS[0]), put(shop.a, DAYS[0], users=["cleo"])
    assert first != second
    put(shop.b, DAYS[0])
    refresh(shop.a)
    assert users_of(shop.a, DAYS[0]) == USERS


def test_what_is_damaged_here_is_fetched_again_and_no_fault_of_the_store(shop):
    """A record, a manifest and a data file that are cut on this machine, and an unreadable list of what was read."""
    put_and_promote(shop.a, *DAYS[:2])
    manifest = partitions.manifest_of(shop.a, LISTS, DAYS[1])
    data = partitions.current(shop.a, LISTS, DAYS[1]) / manifest.files[0]["path"]
    for path in (
        data,
        data.parent.parent / "manifest.json",
        promotions.record_of(shop.a, in_use(shop.a)) / "promotion.json",
    ):
        path.write_bytes(b"")
    (shop.a / ".store_seen.json").write_text("[]")
    assert faults(shop.a, lambda: ()) == []
    assert users_of(shop.a, DAYS[1]) == USERS
    assert in_use(shop.a).ds == DAYS[1]


def test_old_logs_go_from_the_store(shop):
    """Also those of another machine, and failed quarantines."""
    put_and_promote(shop.a, *DAYS[:3])
    for place in ("logs", "quarantine_failed"):
        for ds in DAYS[:3]:
            file = shop.a / place / f"ds={ds}" / "x.log"
            file.parent.mkdir(parents=True)
            file.write_text("x")
            mirror.send(file)
    refresh(shop.b)
    remove_old_nights(shop.b, keep=1, before=DAYS[2])
    assert [*shop.store.files("logs"), *shop.store.files("quarantine_failed")] == [
        f"{place}/ds={DAYS[2]}/x.log" for place in ("logs", "quarantine_failed")
    ]


def test_forget_trusts_no_log_of_this_machine(shop):
    """One of the same name and size may be another one in the store."""
    put(shop.a, DAYS[0])
    for root, user in ((shop.a, "4711"), (shop.b, "4712")):
        log = root / "logs" / f"ds={DAYS[0]}" / "nightly.log"
        log.parent.mkdir(parents=True)
        log.write_text(f"user {user}.\n")
    mirror.send(shop.a / "logs")
    assert forgetting.erase(shop.b, ["4711"]) == {f"logs/ds={DAYS[0]}": 1}
    assert shop.store.read(f"logs/ds={DAYS[0]}/nightly.log").data == b""


def test_a_listing_that_is_older_than_a_version_removes_nothing(shop, monkeypatch):
    """A command lists the store, and a run ends before the listing is used."""
    works = ObjectFolder.tags

    def tags(self):
        found = works(self)
        monkeypatch.setattr(ObjectFolder, "tags", works)
        put(shop.a, DAYS[0])
        return found

    monkeypatch.setattr(ObjectFolder, "tags", tags)
    monkeypatch.setattr(mirror, "_alone", {shop.a})  # the run is another process
    refresh(shop.a)
    refresh(shop.a)
    assert users_of(shop.a, DAYS[0]) == USERS


def test_objects_of_others_are_left_alone(shop):
    """They look like pointers, and are none."""
    put(shop.a, DAYS[0])
    for name, data in (("exports/ds=2026-11-19.json", b"not JSON"), ("exports/ds=2026-11-20.json", b"[1]")):
        shop.store.write(name, data, over=None)
    refresh(shop.b)
    assert partitions.published_on(shop.b, DAYS[0]) == [LISTS]
    assert len(shop.store.files("exports")) == 2


def test_a_damaged_mark_says_what_to_do(shop):
    """The next command that knows the URL writes it again."""
    (shop.a / ".store.json").write_text("")
    with pytest.raises(InputError, match=r"store.json is damaged: remove .* Nothing is lost"):
        mirror.mirror_of(shop.a)
    mirror.attach(shop.a, shop.store.url)
    assert mirror.folder_of(shop.a).url == shop.store.url
