"""Paths and names of what Spark reads in an object store. `tests/jobs/test_build_features.py` reads one with Spark."""

from types import SimpleNamespace
from typing import Any

import pytest

from kdlib.errors import ConfigError, InputError
from kdlib.features import stored_input
from kdlib.features.read import spark_path, spark_paths
from kdlib.features.stored_input import Stores, reading_stores, shop_name
from kdlib.store.mirror import attach
from kdlib.store.remote_files import RemoteFile

FILES = {
    "s3://shop/in/1.csv": 10,
    "s3://shop/in/_SUCCESS": 0,
    "s3://shop/in/deep/2.csv": 20,
    "s3://shop/items.csv": 5,
}


def _spark(master="local[2]") -> Any:
    return SimpleNamespace(sparkContext=SimpleNamespace(master=master))


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """A block in which a Spark without connectors reads the files above, the lines it prints, and what it copies."""
    said, copied = [], []
    monkeypatch.setattr(stored_input, "connected", lambda *_: None)
    monkeypatch.setattr(
        stored_input,
        "remote_files",
        lambda url: [
            RemoteFile(one, size, "x") for one, size in FILES.items() if f"{one}/".startswith(f"{url.rstrip('/')}/")
        ],
    )
    monkeypatch.setattr(stored_input, "copy_files", lambda places: copied.extend(sorted(places.values())))
    (folder := tmp_path / "co pies").mkdir()
    with reading_stores(_spark(), new_folder=lambda: folder, tell=said.append):
        yield folder, said, copied


def test_a_path_becomes_that_of_its_copies(opened):
    """Files that are not hidden are copied once, under their names. The line says what, how much and where."""
    folder, said, copied = opened
    assert spark_path("s3://shop/in") == f"file:{folder}/0/"
    assert copied == [folder / "0/1.csv", folder / "0/deep/2.csv"]
    assert said == [f"Spark has no connector for s3://, so 2 files of s3://shop/in (0.1 MB) are copied to {folder}"]
    assert spark_path("s3://shop/in/") == f"file:{folder}/0/"
    assert len(copied) == 2
    assert spark_path("s3://shop/items.csv") == f"file:{folder}/1/items.csv"
    assert said[1:] == [f"Spark has no connector for s3://, so s3://shop/items.csv (0.1 MB) is copied to {folder}"]


def test_other_paths_stay_as_they_are(opened, tmp_path):
    """Paths of this machine and of HDFS are read in place."""
    assert spark_path(tmp_path) == f"file:{tmp_path}"
    assert spark_paths(["hdfs://nodes/in"]) == ["hdfs://nodes/in"]
    assert opened[1] == []


def test_texts_name_the_shop_s_files(opened):
    """The copy's name, in each form that Spark has for it, becomes the URL."""
    folder, *_ = opened
    spark_path("s3://shop/in")
    spark_path("s3://shop/items.csv")
    quoted = str(folder).replace(" ", "%20")
    assert shop_name(f"file://{quoted}/0/deep/2.csv") == "s3://shop/in/deep/2.csv"
    assert shop_name(f"cannot read file:{folder}/1/items.csv: cut") == "cannot read s3://shop/items.csv: cut"
    assert shop_name(f"{folder}/0") == "s3://shop/in"


def test_errors_name_the_shop_s_files_and_copies_are_removed(tmp_path, monkeypatch):
    """An error from inside the block speaks of URLs, and no copy is left."""
    (folder := tmp_path / "copies").mkdir()

    def fail() -> None:
        with reading_stores(_spark(), new_folder=lambda: folder, tell=print):
            stores = stored_input._OPEN.get()
            assert stores
            stores.folder, stores.tops = folder, ["s3://shop/in"]
            raise InputError(f"cannot read file:///{str(folder)[1:]}/0/1.csv")

    with pytest.raises(InputError, match=r"^cannot read s3://shop/in/1\.csv$"):
        fail()
    assert not folder.exists()
    assert stored_input._OPEN.get() is None


def test_no_file_is_an_error(opened):
    """A path that names nothing but hidden files is named."""
    with pytest.raises(InputError, match=r"no file matches s3://shop/none\. Check the path"):
        spark_path("s3://shop/none")


def test_a_cluster_needs_a_connector(monkeypatch):
    """Copies on one machine do not serve a cluster: the error names the package to add."""
    monkeypatch.setattr(stored_input, "connected", lambda *_: None)
    monkeypatch.setattr(stored_input, "package_for", lambda *_: "org.apache.hadoop:hadoop-aws:3.5.0")
    stores = Stores(_spark("spark://head:7077"), lambda: pytest.fail("copied"), print)
    with pytest.raises(
        ConfigError, match=r"spark://head:7077 has no connector for s3://, .*hadoop-aws:3\.5\.0; or set"
    ):
        stores.paths(["s3://shop/in"])


def test_a_connector_reads_in_place(monkeypatch):
    """With a connector, only the scheme changes, and nothing is copied."""
    monkeypatch.setattr(stored_input, "connected", lambda spark, scheme, environ: {"s3": "s3a", "gs": "gs"}[scheme])
    stores = Stores(_spark(), lambda: pytest.fail("copied"), print)
    assert stores.paths(["s3://shop/in/*.csv"]) == ["s3a://shop/in/*.csv"]
    assert stores.paths(["gs://shop/in"]) == ["gs://shop/in"]


def test_spark_on_a_cluster_reaches_an_output_folder_in_a_store_through_its_connector(tmp_path, monkeypatch):
    """It does not have the driver's disk. A Spark on this machine works in the working copy."""
    attach(tmp_path, "s3://shop/out")
    monkeypatch.setattr(stored_input, "connected", lambda *_: "s3a")
    staged, table = tmp_path / "_staging" / "x", tmp_path / "_versions" / "sessions" / "ds=2026-11-22.v" / "data"
    for master, start in (("spark://host:7077", "s3a://shop/out"), ("local[2]", f"file:{tmp_path}")):
        with reading_stores(_spark(master), new_folder=lambda: tmp_path, tell=print):
            assert spark_path(staged) == f"{start}/_staging/x"
            assert spark_path(table) == f"{start}/_versions/sessions/ds=2026-11-22.v/data"
            assert spark_path("/elsewhere/in") == "file:/elsewhere/in"
    monkeypatch.setattr(stored_input, "connected", lambda *_: None)
    monkeypatch.setattr(stored_input, "package_for", lambda *_: "org.apache.hadoop:hadoop-aws:3.4.2")
    with (
        reading_stores(_spark("spark://host:7077"), new_folder=lambda: tmp_path, tell=print),
        pytest.raises(ConfigError, match=r"spark://host:7077 has no connector for s3://.*hadoop-aws"),
    ):
        spark_path(staged)
