import hashlib
import json
import shutil
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdlib.errors import InputError
from kdlib.store import partitions
from kdlib.store.fingerprint import fingerprint_of

DS = "2026-11-22"


def put(root, *values, ds=DS, table="recommendations", fingerprint="f", **more):
    """Publish one file of one row for each value."""
    staging = partitions.new_staging(root, table, ds)
    for number, value in enumerate(values):
        pq.write_table(pa.table({"x": [value]}), staging / f"from-{number}.parquet")
    return partitions.publish(staging, root, table, ds, fingerprint=fingerprint, **more)


def read(root, ds=DS, table="recommendations"):
    return pq.read_table(partitions.current(root, table, ds))["x"].to_pylist()


def test_a_published_folder_is_read_through_its_partition(tmp_path):
    """The staged files lie under `table/ds=…`, named by number and version, with nothing beside them."""
    version = put(tmp_path, 1, 2).version
    partition = tmp_path / "recommendations" / f"ds={DS}"
    assert [path.name for path in sorted(partition.iterdir())] == [
        f"part-00000-{version}.parquet",
        f"part-00001-{version}.parquet",
    ]
    assert read(tmp_path) == [1, 2]
    assert list((tmp_path / "_staging").iterdir()) == []


def test_the_manifest_says_what_the_partition_holds(tmp_path):
    """The manifest that is read back holds rows, files with size and hash, inputs and details."""
    made = put(tmp_path, 1, 2, inputs={"histories": "v1"}, details={"users": 2})
    name = f"part-00001-{made.version}.parquet"
    data = (partitions.current(tmp_path, "recommendations", DS) / name).read_bytes()
    assert partitions.read_manifest(tmp_path, "recommendations", DS) == made
    assert (made.rows, made.inputs, made.details) == (2, {"histories": "v1"}, {"users": 2})
    assert made.files[1] == {
        "path": name,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "rows": 1,
    }


def test_a_folder_without_parquet_has_no_row_count(tmp_path):
    """A model folder is published in the same way and has no row count."""
    staging = partitions.new_staging(tmp_path, "models/student", DS)
    (staging / "model.json").write_text("{}")
    manifest = partitions.publish(staging, tmp_path, "models/student", DS, fingerprint="f")
    assert manifest.rows is None
    assert (tmp_path / "models" / "student" / f"ds={DS}" / "model.json").read_text() == "{}"


def test_a_new_version_replaces_the_old_one_for_readers_alone(tmp_path):
    """After a second publish readers find the new rows; a reader that holds the old folder still reads the old rows."""
    put(tmp_path, 1)
    held = partitions.current(tmp_path, "recommendations", DS)
    put(tmp_path, 2)
    assert read(tmp_path) == [2]
    assert pq.read_table(held)["x"].to_pylist() == [1]


def test_the_same_content_and_fingerprint_is_the_same_version(tmp_path):
    """Publishing the same content again returns the first manifest; another fingerprint is another version."""
    first = put(tmp_path, 1, details={"seconds": 1})
    again = put(tmp_path, 1, details={"seconds": 2})
    assert again == first == partitions.read_manifest(tmp_path, "recommendations", DS)
    assert len(list((tmp_path / "_versions" / "recommendations").iterdir())) == 1
    assert put(tmp_path, 1, fingerprint="g").version != first.version
    assert put(tmp_path, 2).version != first.version


def test_engine_leftovers_are_dropped_and_parts_renumbered(tmp_path):
    """Checksums, markers and hidden files are removed; parts are numbered in order; sub-folders keep their names."""
    staging = partitions.new_staging(tmp_path, "events", DS)
    (staging / "day=1").mkdir()
    for name, value in {"part-00001.parquet": 1, "z.parquet": 2, "day=1/part-b.parquet": 0}.items():
        pq.write_table(pa.table({"x": [value]}), staging / name)
    for name in ("_SUCCESS", ".DS_Store", ".z.parquet.crc", "z.parquet.crc", "day=1/.part-b.parquet.crc"):
        (staging / name).write_text("")
    manifest = partitions.publish(staging, tmp_path, "events", DS, fingerprint="f")
    names = [file["path"] for file in manifest.files]
    first, second = (f"part-0000{number}-{manifest.version}.parquet" for number in range(2))
    assert names == ["day=1/part-b.parquet", first, second]
    folder = partitions.current(tmp_path, "events", DS)
    assert pq.ParquetFile(folder / first).read()["x"].to_pylist() == [1]
    assert len([path for path in folder.rglob("*") if path.is_file()]) == 3


@pytest.mark.parametrize("moment", ["rename", "replace"])
def test_a_run_killed_while_publishing_changes_nothing_for_readers(tmp_path, monkeypatch, moment):
    """A run that is killed at a rename leaves the old rows and nothing beside them; the next run succeeds."""
    put(tmp_path, 1)

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, moment, die)
        with pytest.raises(KeyboardInterrupt):
            put(tmp_path, 2)
    assert read(tmp_path) == [1]
    assert [path.name for path in (tmp_path / "recommendations").iterdir()] == [f"ds={DS}"]
    assert list((tmp_path / "_staging").iterdir()) != []
    put(tmp_path, 2)
    assert read(tmp_path) == [2]
    assert list((tmp_path / "_staging").iterdir()) == []


def test_readers_beside_a_publisher_never_see_a_mix(tmp_path):
    """While versions are switched, a reader always finds both files of one version."""
    put(tmp_path, 0, 0)
    seen, done = [], threading.Event()

    def watch():
        while not done.is_set():
            try:
                seen.append(tuple(read(tmp_path)))
            except Exception as error:
                seen.append(error)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for value in range(1, 30):
        put(tmp_path, value, value)
    done.set()
    watcher.join()
    whole = {(value, value) for value in range(30)}
    odd = [found for found in seen if found not in whole]
    assert not odd, odd[0]
    assert len(set(seen)) > 1


def test_files_listed_before_a_switch_are_not_taken_for_those_after_it(tmp_path):
    """File names of the old version do not exist in the new version."""
    put(tmp_path, 1, 2)
    partition = tmp_path / "recommendations" / f"ds={DS}"
    listed = sorted(partition.iterdir())
    put(tmp_path, 3, 4)
    assert not any(file.exists() for file in listed)


def test_a_new_staging_folder_clears_what_a_killed_run_left(tmp_path):
    """Leftovers of the same table and date are removed, those of other tables and dates stay."""
    mine = partitions.new_staging(tmp_path, "models/student", DS)
    others = [
        partitions.new_staging(tmp_path, "models/student", "2026-11-21"),
        partitions.new_staging(tmp_path, "student", DS),
    ]
    fresh = partitions.new_staging(tmp_path, "models/student", DS)
    assert not mine.exists()
    assert all(folder.is_dir() for folder in [*others, fresh])


def test_a_moved_store_still_works(tmp_path):
    """The links are relative, so that the output folder may be moved or mounted elsewhere."""
    put(tmp_path / "here", 1)
    put(tmp_path / "here", 2, table="models/student")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert read(tmp_path / "there") == [1]
    assert read(tmp_path / "there", table="models/student") == [2]


def test_a_missing_partition_is_an_error_that_says_what_to_run(tmp_path):
    """`current` raises an error that names table, date, folder and what to run; `read_manifest` returns None."""
    with pytest.raises(InputError, match=f"no published histories for {DS} under .*: run the stage that makes it"):
        partitions.current(tmp_path, "histories", DS)
    assert partitions.read_manifest(tmp_path, "histories", DS) is None


@pytest.mark.parametrize("text", ["", "[]", json.dumps({"table": "x"}), None])
def test_a_damaged_manifest_is_an_error_that_names_the_file(tmp_path, text):
    """An empty, foreign, incomplete or missing manifest is an error that names the file."""
    put(tmp_path, 1)
    file = partitions.current(tmp_path, "recommendations", DS).parent / "manifest.json"
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(InputError, match=r"no usable manifest at .*manifest.json"):
        partitions.read_manifest(tmp_path, "recommendations", DS)


def test_latest_is_strictly_before_the_day(tmp_path):
    """`latest` finds the newest earlier partition, and skips one whose version was deleted."""
    for ds in ("2026-11-19", "2026-11-20", "2026-11-22", "2026-11-23"):
        put(tmp_path, 1, ds=ds)
    assert partitions.latest(tmp_path, "recommendations", before=DS) == "2026-11-20"
    shutil.rmtree(partitions.current(tmp_path, "recommendations", "2026-11-20").parent)
    assert partitions.latest(tmp_path, "recommendations", before=DS) == "2026-11-19"
    assert partitions.latest(tmp_path, "recommendations", before="2026-11-19") is None
    assert partitions.latest(tmp_path, "histories", before=DS) is None


def test_a_fingerprint_depends_on_values_and_not_on_the_order_of_keys():
    """Equal settings have equal fingerprints; any other value, or the same values in another place, has another."""
    assert fingerprint_of({"a": 1, "b": 2}) == fingerprint_of({"b": 2, "a": 1})
    assert fingerprint_of({"a": 1}, {"b": 2}) != fingerprint_of({"a": 1, "b": 2})
    assert fingerprint_of({"a": 1}) != fingerprint_of({"a": 2})


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:9])])
def test_a_damaged_version_is_told_and_can_be_published_anew(tmp_path, harm):
    """A missing or shortened file is named; publishing the same content again repairs the version."""
    first = put(tmp_path, "a")
    assert partitions.damaged(tmp_path, first) == []
    [file] = [file["path"] for file in first.files]
    harm(partitions.current(tmp_path, "recommendations", DS) / file)
    assert partitions.damaged(tmp_path, first) == [file]
    again = put(tmp_path, "a")
    assert again.version == first.version
    assert partitions.damaged(tmp_path, again) == []
    assert read(tmp_path) == ["a"]
