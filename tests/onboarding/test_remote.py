"""`init` and excerpts of files in an object store."""

import gzip
import io
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from jobs.__main__ import main
from kdlib.config.load import load_config
from kdlib.errors import InputError
from kdlib.onboarding import scan
from kdlib.onboarding.excerpt import excerpt
from kdlib.onboarding.files import listing
from kdlib.store import remote_files
from tests.s3 import assert_a_signal_ends

HEADER = "user_id,item_id,timestamp,event_type\n"


def _rows(day):
    return "".join(f"u{user},i{(user + day) % 9},2025-11-{day:02d}T10:{user:02d}:00Z,view\n" for user in range(40))


def _put(name, body):
    body = body.encode() if isinstance(body, str) else body
    boto3.client("s3").put_object(Bucket="shop", Key=f"onboarding/{name}", Body=body)


@pytest.fixture(scope="module")
def shop(s3):
    """A bucket with the same events as one file, as files of days, and as folders of days."""
    _put("all.csv", HEADER + "".join(map(_rows, range(1, 13))))
    for day in range(1, 13):
        _put(f"in/2025-11-{day:02d}.csv", HEADER + _rows(day))
        _put(f"days/day=2025-11-{day:02d}/part-0.csv.gz", gzip.compress((HEADER + _rows(day)).encode(), mtime=0))
    _put("in/_SUCCESS", "")
    _put("items.csv", "item_id,title\n" + "".join(f"i{n},Title {n}\n" for n in range(9)))
    return f"{s3}/onboarding"


@pytest.fixture
def fetched(monkeypatch):
    """The number of bytes of each request for a part of an object."""
    sizes, read = [], remote_files._Reader._range
    monkeypatch.setattr(remote_files._Reader, "_range", lambda reader, a, b: sizes.append(b - a) or read(reader, a, b))
    return sizes


@pytest.mark.parametrize(
    ("path", "days"),
    [
        ("all.csv", None),
        ("in", "in/{day}.csv"),
        ("in/*.csv", "in/{day}.csv"),
        ("in/2025-11-*.csv", "in/{day}.csv"),
        ("days", "days/day={day}"),
    ],
)
def test_a_run_config_is_written_for_urls(shop, tmp_path, monkeypatch, capsys, path, days):
    """A file, a folder or a pattern at a URL gives the run config that the same files on a disk give."""
    monkeypatch.chdir(tmp_path)
    assert main(["init", f"{shop}/{path}", f"{shop}/items.csv", "--out", "shop.yaml"]) == 0
    config = load_config("shop.yaml")
    assert config.input.events
    assert config.input.catalogue
    assert (config.input.events.path, config.input.events.user) == (f"{shop}/{path}", "user_id")
    assert config.input.catalogue.path == f"{shop}/items.csv"
    assert "all 480 rows looked at" in capsys.readouterr().out
    assert (f"path: {shop}/{days}\n" in Path("shop.yaml").read_text()) == bool(days)


def test_a_folder_of_different_files_is_taken_apart(shop, tmp_path, monkeypatch):
    """Events and catalogue in one folder are told apart, and each path is a URL."""
    for day in (1, 2, 3):
        _put(f"mixed/events-{day}.csv", HEADER + _rows(day))
        _put(f"mixed/items-{day}.csv", "item_id,title\n" + "".join(f"i{n},Title {n}\n" for n in range(day, 9, 3)))
    monkeypatch.chdir(tmp_path)
    assert main(["init", f"{shop}/mixed", "--out", "mixed.yaml"]) == 0
    config = load_config("mixed.yaml")
    assert config.input.events
    assert config.input.catalogue
    assert config.input.events.path == f"{shop}/mixed/events*"
    assert config.input.catalogue.path == f"{shop}/mixed/items*"


def test_a_table_in_a_store_is_recognised(s3, tmp_path, monkeypatch, capsys):
    """The folder of a Delta Lake table gives a run config of that format; its files alone may hold deleted rows."""
    names = HEADER.rstrip().split(",")
    rows = [row.split(",") for day in range(1, 13) for row in _rows(day).splitlines()]
    write_deltalake(f"{s3}/lake", pa.table({name: [row[n] for row in rows] for n, name in enumerate(names)}))
    monkeypatch.chdir(tmp_path)
    assert main(["init", f"{s3}/lake", "--out", "lake.yaml"]) == 0
    assert "format: delta" in Path("lake.yaml").read_text()
    assert listing(f"{s3}/lake").format == "delta"


def test_only_a_part_of_a_long_file_is_fetched(s3, tmp_path, monkeypatch, fetched):
    """Of a file of 60 MB, `init` fetches its first and last bytes, as far as the bounds of sample and scan allow."""
    line = "u{},i{},2025-11-{:02d}T10:00:00Z,view" + "," + "x" * 900 + "\n"
    body = "user_id,item_id,timestamp,event_type,note\n" + "".join(
        line.format(n % 977, n % 91, 1 + n // 5_000) for n in range(60_000)
    )
    _put("long.csv", body)
    monkeypatch.setattr(scan, "MOST_BYTES", 16 * scan.REMOTE_SHARE * 2**20)
    monkeypatch.setattr(scan, "TAIL_BYTES", 2**20)
    monkeypatch.chdir(tmp_path)
    assert main(["init", f"{s3}/onboarding/long.csv", "--out", "long.yaml"]) == 0
    assert load_config("long.yaml").day == "2025-11-12"
    assert sum(fetched) < 40 * 2**20 < len(body)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (
            "s3://nobody/in",
            "cannot list s3://nobody/in: there is no bucket nobody at the store. Check the URL, and AWS_",
        ),
        ("{shop}/none.csv", "no file matches {shop}/none.csv. Check the path"),
        ("{shop}/in/*.json", "no file matches {shop}/in/*.json. Check the path"),
        ("s3://key:secret@shop/in", "s3://…@shop/in holds credentials: a URL may have no user or key before an @"),
        ("{shop}/in/_SUCCESS", "onboarding/in/_SUCCESS has no bytes"),
    ],
)
def test_a_url_that_names_nothing_is_explained(shop, capsys, path, words):
    """The status is 2, and the text names the URL and what to check; never a key."""
    assert main(["init", path.format(shop=shop)]) == 2
    printed = capsys.readouterr().err
    assert words.format(shop=shop) in printed
    assert "secret" not in printed


@contextmanager
def _refusing_store():
    """The endpoint of a store that answers 403."""

    class Refuses(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(403)
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_store_that_refuses_is_explained(silent_s3, monkeypatch):
    """After 403 the text is about credentials and rights."""
    with _refusing_store() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises(
            InputError, match=r"cannot list s3://shop/in: the store refuses access\. Check the credentials"
        ):
            listing("s3://shop/in")


def test_a_silent_store_does_not_hang(silent_s3, monkeypatch):
    """A listing ends at the deadline of one request, and a signal ends it before."""
    assert_a_signal_ends(lambda: listing("s3://shop/in"), after=0.3)
    monkeypatch.setattr(remote_files, "SECONDS", 1)
    with pytest.raises(InputError, match=r"cannot list s3://shop/in: s3://shop/in has not answered within 1 s"):
        listing("s3://shop/in")


def _folder(path):
    path.mkdir()
    return path


def test_files_at_a_url_are_copied_under_their_names(shop, tmp_path):
    """An excerpt of files that fit is whole: it has all their rows, and the input's path fits the copies."""
    found = excerpt(f"{shop}/in/2025-11-0?.csv", format_="csv", folder=_folder(tmp_path / "x"), rows=10_000)
    assert (found.whole, found.num_files, found.path) == (True, 9, f"{tmp_path}/x/2025-11-0?.csv")
    assert (tmp_path / "x/2025-11-03.csv").read_text() == HEADER + _rows(3)
    found = excerpt(f"{shop}/days", format_="csv", folder=_folder(tmp_path / "y"), rows=10_000)
    assert found.whole
    assert gzip.decompress((tmp_path / "y/day=2025-11-03/part-0.csv.gz").read_bytes()).decode() == HEADER + _rows(3)
    found = excerpt(f"{shop}/days", format_="csv", folder=_folder(tmp_path / "z"), rows=12)
    assert not found.whole


def test_a_long_file_at_a_url_gives_lines_from_all_over(s3, tmp_path, monkeypatch, fetched):
    """Of a long file, stretches from its begin to its end are fetched, and not the rest."""
    monkeypatch.setattr("kdlib.onboarding.excerpt._BLOCK", 4096)
    lines = [f"{n:06d},{'x' * (n % 13)}" for n in range(100_000)]
    _put("numbers.csv", "\n".join(["number,text", *lines]) + "\n")
    found = excerpt(f"{s3}/onboarding/numbers.csv", format_="csv", folder=_folder(tmp_path / "x"), rows=4_000)
    head, *rows = Path(found.path).read_text().splitlines()
    assert (found.whole, head) == (False, "number,text")
    assert set(rows) <= set(lines)
    assert int(rows[-1][:6]) > 80_000
    assert sum(fetched) < 400_000


def test_a_part_of_a_parquet_file_is_fetched(s3, tmp_path, fetched):
    """Of a long Parquet file, some rows of some row groups are fetched."""
    sink = io.BytesIO()
    numbers = pa.table({"n": range(400_000), "t": [f"{n * 7919:015d}" for n in range(400_000)]})
    pq.write_table(numbers, sink, row_group_size=10_000, compression="none", use_dictionary=False)
    _put("p.parquet", sink.getvalue())
    found = excerpt(f"{s3}/onboarding/p.parquet", format_="parquet", folder=_folder(tmp_path / "x"), rows=1_000)
    rows = pq.read_table(found.path)["n"].to_pylist()
    assert (found.whole, len(rows)) == (False, 1_000)
    assert max(rows) > 350_000
    assert sum(fetched) < len(sink.getvalue()) / 3
