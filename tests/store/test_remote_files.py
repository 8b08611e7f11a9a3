"""Files at a URL: what a path names, reading a part, and stores that refuse or do not answer."""

import time

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdlib.store import remote_files as remote
from kdlib.store.remote_files import fixed_part, is_hidden, open_remote, remote_files, why
from tests.s3 import assert_a_signal_ends

NAMES = (
    "in/2025-11-01.csv",
    "in/2025-11-02.csv",
    "in/sub/a b.csv",
    "in/sub/deep/c.csv.gz",
    "in/_tmp/d.csv",
    "in/day=2025-11-01/p.parquet",
    "inside.csv",
    "x[1].csv",
)


@pytest.fixture(scope="module")
def shop(s3):
    """A bucket with files, and with the empty objects that stand for folders."""
    client = boto3.client("s3")
    for name in NAMES:
        client.put_object(Bucket="shop", Key=f"remote/{name}", Body=name.encode())
    for name in ("in/", "in/sub/"):
        client.put_object(Bucket="shop", Key=f"remote/{name}", Body=b"")
    client.put_object(Bucket="shop", Key="remote/in/empty.csv", Body=b"")
    return f"{s3}/remote"


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("in", ["2025-11-01.csv", "2025-11-02.csv", "_tmp/d.csv", "day=2025-11-01/p.parquet", "empty.csv", "sub/a b.csv", "sub/deep/c.csv.gz"]),
        ("in/", ["2025-11-01.csv", "2025-11-02.csv", "_tmp/d.csv", "day=2025-11-01/p.parquet", "empty.csv", "sub/a b.csv", "sub/deep/c.csv.gz"]),
        ("in/2025-11-01.csv", ["2025-11-01.csv"]),
        ("in/*.csv", ["2025-11-01.csv", "2025-11-02.csv", "empty.csv"]),
        ("in/????-??-??.csv", ["2025-11-01.csv", "2025-11-02.csv"]),
        ("in/2025-11-0[^1].csv", ["2025-11-02.csv"]),
        ("in/{2025-11-02,2025-11-03}.csv", ["2025-11-02.csv"]),
        ("in/{sub,day=*}", ["day=2025-11-01/p.parquet", "sub/a b.csv", "sub/deep/c.csv.gz"]),
        ("in/*/deep", ["sub/deep/c.csv.gz"]),
        ("in/none*", []),
        ("none", []),
    ],
)  # fmt: skip
def test_a_path_names_files_as_for_spark(shop, path, found):
    """A file, a folder with all below it, and patterns, which stop at a `/`. Objects for folders are no files."""
    assert sorted(file.url for file in remote_files(f"{shop}/{path}")) == [f"{shop}/in/{name}" for name in found]


def test_the_scheme_of_spark_names_the_same_files(shop):
    """`s3a://` is `s3://`, and the URLs found begin like the path."""
    spark = shop.replace("s3://", "s3a://")
    assert [file.url for file in remote_files(f"{spark}/in/2*")] == [f"{spark}/in/2025-11-0{n}.csv" for n in (1, 2)]
    assert open_remote(f"{spark}/inside.csv").read() == b"inside.csv"


def test_the_scheme_of_spark_has_the_same_client():
    """Credentials and region are found as for `s3://`."""
    assert remote.in_bucket("s3a://shop/in/1.csv")[0].url == "s3://shop"


def test_pages_are_fetched_as_needed(shop, monkeypatch):
    """A listing of many objects that stops early asks for no more pages, and all pages together have all files."""
    monkeypatch.setattr(remote, "PAGE", 2)
    assert len(list(remote_files(f"{shop}/in"))) == 7
    asked = []
    listed = remote.wait_for
    monkeypatch.setattr(remote, "wait_for", lambda *args, **more: asked.append(1) or listed(*args, **more))
    next(iter(remote_files(f"{shop}/in")))
    assert len(asked) == 4  # is it a file, the listing, two pages: an empty object may stand for a folder


def test_another_content_has_another_mark(shop):
    """A file of the same size that is replaced within a second is another file."""
    client = boto3.client("s3")
    marks = set()
    for body in (b"1", b"2", b"1"):
        client.put_object(Bucket="shop", Key="remote/changing", Body=body)
        marks |= {file.mark for file in remote_files(f"{shop}/changing")}
    assert len(marks) == 2


def test_a_part_is_read_at_any_place(shop, monkeypatch):
    """Reading goes on from the place sought, over pieces of a request's size, and stops at the end."""
    monkeypatch.setattr(remote, "CHUNK_BYTES", 4)
    file = open_remote(f"{shop}/in/sub/a b.csv")
    assert (file.size(), file.read(2), file.tell()) == (14, b"in", 2)
    file.seek(7)
    assert file.read(100) == b"a b.csv"
    assert file.read(1) == b""


def test_a_parquet_file_is_read_without_the_rest(shop):
    """Only the columns and row groups that are asked for are fetched."""
    table = pa.table({"n": range(100_000), "t": [f"{n:020d}" for n in range(100_000)]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=10_000, compression="none", use_dictionary=False)
    body = sink.getvalue().to_pybytes()
    boto3.client("s3").put_object(Bucket="shop", Key="remote/p.parquet", Body=body)
    fetched = []

    class Counted(remote._Reader):
        def _range(self, start, end):
            fetched.append(end - start)
            return super()._range(start, end)

    bucket, name = remote.in_bucket(f"{shop}/p.parquet")
    file = pq.ParquetFile(pa.PythonFile(Counted(bucket, name, None), mode="r"))
    assert file.read_row_group(3, columns=["n"])["n"].to_pylist() == list(range(30_000, 40_000))
    assert 80_000 < sum(fetched) < 200_000 < len(body)


def test_an_object_that_is_not_there_is_an_error(shop):
    """Opening a file that is gone says so."""
    with pytest.raises(OSError, match="not found"):
        open_remote(f"{shop}/none.csv")


def test_a_missing_bucket_is_named(s3):
    """The error of a bucket that does not exist says so, and what to check."""
    with pytest.raises(OSError, match="NoSuchBucket") as error:
        list(remote_files("s3://nobody/in"))
    assert why(error.value, "s3://nobody/in").startswith(
        "there is no bucket nobody at the store. Check the URL, and AWS_"
    )


def test_a_refusal_names_the_credentials():
    """The advice after 403 is about credentials, and the store's own words follow."""
    text = why(OSError("AccessDenied: … 403 Forbidden"), "s3://shop/in")
    assert text.startswith("the store refuses access. Check the credentials in the environment (AWS_ACCESS_KEY_ID")
    assert text.endswith("It says: AccessDenied: … 403 Forbidden")


def test_a_silent_store_ends_at_the_deadline(silent_s3, monkeypatch):
    """A store that never answers costs the deadline, and no more."""
    monkeypatch.setattr(remote, "SECONDS", 1)
    started = time.monotonic()
    with pytest.raises(OSError, match=r"s3://shop/in has not answered within 1 s"):
        list(remote_files("s3://shop/in"))
    assert time.monotonic() - started < 5


def test_a_signal_ends_listing_and_reading(silent_s3):
    """Ctrl-C is not held up by a silent store."""
    assert_a_signal_ends(lambda: list(remote_files("s3://shop/in")), after=0.3)
    assert_a_signal_ends(lambda: open_remote("s3://shop/in/a.csv", 100).read(10), after=0.3)
    assert_a_signal_ends(lambda: pq.ParquetFile(open_remote("s3://shop/in/a.parquet", 100)), after=0.3)


def test_names_are_hidden_as_for_spark():
    """Files and folders that begin with _ or . are hidden, but for folders that name a column."""
    assert [name for name in ("a", "_a", ".a", "b/_a", "_b/a", "_b=1/a", "_b=1/_a", ".b=1/a") if is_hidden(name)] == [
        "_a", ".a", "b/_a", "_b/a", "_b=1/_a", ".b=1/a",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("s3://shop/in", "s3://shop/in"),
        ("s3://shop/in/", "s3://shop/in"),
        ("s3://shop/in/*.csv", "s3://shop/in"),
        ("s3://shop/in/day=*/a.csv", "s3://shop/in"),
        ("s3://shop/{a,b}/c", "s3://shop"),
    ],
)
def test_the_fixed_part_of_a_path(path, part):
    """The folder above the first pattern."""
    assert fixed_part(path) == part
