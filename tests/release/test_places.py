"""A place is checked early, is never among our own files, and its faults are errors that say what to do."""

import json
import re
import socket
import sys

import boto3
import pytest

from kdlib.config.load import load_config
from kdlib.errors import ConfigError, DeliveryError, InputError
from kdlib.release import delivery, places
from kdlib.store import objects
from kdlib.store.folders import DiskFolder
from tests.release.deliveries import both, put, refuse


@pytest.mark.parametrize("place", ["real", "real/below", "", "link", "link/below"])
@both
def test_a_place_among_our_own_files_is_refused(tmp_path, send, place):
    """A place inside the output folder or around it is refused, also when a link leads there."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for root in (tmp_path / "link", tmp_path / "real"):
        put(root, "2026-11-01", 1)
        with pytest.raises(ConfigError, match=r"delivery\.url .* output_dir .*separate folder"):
            send(root, f"file://{tmp_path}/{place}", keep=1)
        assert (root / "recommendations" / "ds=2026-11-01").exists()


def test_a_place_is_looked_at_before_it_is_needed(tmp_path, monkeypatch):
    """`check_place` refuses what can never be delivered to, and opens no connection."""
    monkeypatch.setattr(objects, "wait_for", refuse)
    for url in ("s3://shop", "s3://shop/x", "gs://shop/x", "abfss://shop@a.dfs.core.windows.net/x"):
        for delta in (False, True):
            delivery.check_place(tmp_path / "output", url, delta=delta)
    for url in ("s3a://shop/x", "hdfs://n/x", "s3:///x", "s3://sh op/x", "file://there/x", f"file://{tmp_path}"):
        with pytest.raises(ConfigError, match=re.escape(f"delivery.url {url!r}")):
            delivery.check_place(tmp_path / "output", url, delta=False)
    for url, text in (("s3a://shop/x", "write s3:// in place of s3a://"), ("hdfs://n/x", "HDFS cannot replace a file")):
        with pytest.raises(ConfigError, match=rf"expected s3://bucket/folder, gs://.*\({text}"):
            delivery.check_place(tmp_path / "output", url, delta=False)
    monkeypatch.setitem(sys.modules, "deltalake.exceptions", None)
    with pytest.raises(ConfigError, match=r"needs deltalake.*pip install"):
        delivery.check_place(tmp_path / "output", "s3://shop/x", delta=True)


def test_a_place_that_does_not_answer_is_said(home, s3, monkeypatch):
    """A missing bucket and a refused connection are errors that name the command to run later."""
    put(home, "2026-11-01", 1)
    with pytest.raises(DeliveryError, match=r"cannot deliver to s3://no-such-shop.*`distilrec deliver`"):
        delivery.deliver(home, "s3://no-such-shop/x", keep=5)
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unheard.getsockname()[1]}")
        with pytest.raises(DeliveryError, match="cannot deliver"):  # refused
            delivery.deliver(home, s3, keep=5)


@both
def test_a_bucket_whose_region_is_unknown_is_said(home, monkeypatch, send):
    """If the region of a bucket cannot be looked up, the error names the command to run later."""
    put(home, "2026-11-01", 1)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(objects, "urlopen", refuse)
    with pytest.raises(DeliveryError, match=r"cannot deliver to s3://shop/x: AWS Error.*`distilrec deliver`"):
        send(home, "s3://shop/x", keep=5)


@both
def test_keys_come_from_a_profile_too(home, s3, tmp_path, monkeypatch, send):
    """Both formats read the files of the AWS command line."""
    put(home, "2026-11-01", 1)
    (tmp_path / "keys").write_text("[shop]\naws_access_key_id = a\naws_secret_access_key = b\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("AWS_PROFILE", "shop")
    url = f"{s3}/{tmp_path.name}"
    assert send(home, url, keep=5) == delivery.delivered(url)


def test_keys_in_a_url_are_refused_and_not_shown(tmp_path):
    """Keys in a URL are refused and never printed; the container name that Azure writes before an @ is no key."""
    config = tmp_path / "run.yaml"
    text = "name: a\noutput_dir: out\ninput: {simulate: {}}\ndelivery: {url: '%s'}\n"
    for url in (
        "s3://KEY:s3cr3t@shop/x",
        "s3://KEY:s3c/r3t@shop/x",
        "s3://s3cr3t@shop",
        "S3://KEY:s3cr3t@shop",
        "s3://shop/x?secret_key=s3cr3t",
        "s3:KEY:s3cr3t@shop",
        "abfss://KEY:s3cr3t@shop",
        "abfss://s3cr3t@a/x?a=b",
    ):
        config.write_text(text % url)
        for refused in (lambda: load_config(config), lambda url=url: delivery.read(url, "recommendations")):
            with pytest.raises(ConfigError, match="in the environment") as error:
                refused()
            assert not re.search("s3cr3t|r3t@", str(error.value))
    config.write_text(text % "nowhere")
    with pytest.raises(ConfigError, match=r"delivery: url .*s3://bucket/folder.*found nowhere"):
        load_config(config)
    for url in ("s3://shop/x", "gs://shop", "file:///there", "abfss://shop@account.dfs.core.windows.net/x"):
        config.write_text(text % url)
        found = load_config(config).delivery
        assert found is not None
        assert found.url == url


def test_the_rest_is_said(home, tmp_path):
    """An unknown URL, no run in use, no delivered table and a foreign pointer are errors that say so."""
    with pytest.raises(ConfigError, match="expected s3://"):
        places.place("nowhere://x")
    with pytest.raises(InputError, match=r"no run is in use.*distilrec nightly"):
        delivery.deliver(home, f"file://{tmp_path}/there", keep=1)
    with pytest.raises(InputError, match="no recommendations was delivered"):
        delivery.read(f"file://{tmp_path}/there", "recommendations")
    put(home, "2026-11-01", 1)
    with pytest.raises(ConfigError, match=r"delivery\.url .* output_dir"):
        delivery.deliver(home, f"file://{home}/there", keep=1)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "promoted.json").write_text(json.dumps({"other": 1}))
    with pytest.raises(DeliveryError, match=r"promoted\.json was not written by distilrec.*Remove"):
        delivery.deliver(home, f"file://{tmp_path}/there", keep=1)


def _objects() -> list[str]:
    """All objects of the bucket, markers of folders too."""
    found = boto3.client("s3").list_objects_v2(Bucket="shop")
    return [one["Key"] for one in found.get("Contents", [])]


@pytest.mark.parametrize("there", ["tried", "tried/deep/down"])
def test_a_trial_leaves_an_object_store_as_it_was(s3, there, monkeypatch):
    """A trial writes one object and removes it."""
    before, during = _objects(), list[str]()
    read = objects.ObjectFolder.read
    monkeypatch.setattr(objects.ObjectFolder, "read", lambda *words: (during.extend(_objects()), read(*words))[1])
    places.write_and_remove(places.place(f"{s3}/{there}"))
    assert [one for one in during if one.startswith(f"{there}/.distilrec-doctor-")]
    assert _objects() == before


@pytest.mark.parametrize("there", ["tried", "tried/deep/down"])
def test_a_trial_leaves_a_folder_as_it_was(tmp_path, there):
    """A trial removes the folders that it made, and keeps a folder that existed with its files."""
    (tmp_path / "tried").mkdir()
    (tmp_path / "tried" / "kept").write_text("x")
    places.write_and_remove(places.place(f"file://{tmp_path}/{there}"))
    assert [str(one.relative_to(tmp_path)) for one in sorted(tmp_path.rglob("*"))] == ["tried", "tried/kept"]


def test_a_trial_keeps_what_others_write_meanwhile(tmp_path, monkeypatch):
    """A trial keeps the files of a first delivery at the same moment, and their folder."""
    there = DiskFolder(tmp_path / "there")
    read = DiskFolder.read
    monkeypatch.setattr(DiskFolder, "read", lambda *words: ((tmp_path / "there/other").touch(), read(*words))[1])
    places.write_and_remove(there)
    assert [one.name for one in (tmp_path / "there").iterdir()] == ["other"]


def test_a_trial_at_a_place_without_a_bucket_fails(s3):
    """The error is the store's own, and no bucket is made."""
    with pytest.raises(OSError, match="NoSuchBucket"):
        places.write_and_remove(places.place("s3://no-such-bucket/x"))
    assert [one["Name"] for one in boto3.client("s3").list_buckets()["Buckets"]] == ["shop"]
