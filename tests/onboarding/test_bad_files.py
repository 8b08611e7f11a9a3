"""Files that cannot be used: the sentence says what was found and what to do."""

import gzip
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdlib.errors import InputError
from kdlib.onboarding import files, sample, scan
from kdlib.onboarding.shop import shop_of

HEADER = "user_id,item_id,timestamp\n"
ROWS = "".join(f"{n % 7},{n % 5},2025-11-{n % 28 + 1:02d}T10:00:00Z\n" for n in range(60))


def message(folder: Path, name: str, content: str | bytes) -> str:
    """The error of a single file."""
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError) as caught:
        shop_of([str(folder / name)])
    text = str(caught.value)
    assert str(folder / name) in text
    return text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.csv", b"", "has no bytes"),
        ("blank.csv", b"\n \n\n", "only blank lines"),
        ("header.csv", HEADER, "has a header but no rows"),
        ("image.csv", b"\x89PNG\r\n\x1a\n" + bytes(200), "is a PNG image, expected CSV, JSON lines or Parquet"),
        ("sheet.csv", b"PK\x03\x04" + bytes(200), "an Excel workbook, expected CSV.*save the sheet as CSV"),
        ("noise.csv", bytes(range(256)) * 40, "is binary"),
        ("utf16.csv", (HEADER + ROWS).encode("utf-16"), "is UTF-16 text, expected UTF-8. Convert it: `iconv"),
        ("utf16le.csv", (HEADER + ROWS).encode("utf-16-le"), "is UTF-16 text"),
        ("zipped.csv", gzip.compress(ROWS.encode()), "is a gzip file without the ending .gz.*Rename it"),
        ("cut.csv.gz", gzip.compress(ROWS.encode())[:60], "cannot read .*Is the file whole"),
        ("cut.parquet", b"PAR1" + bytes(50), "cannot read .*Is the file whole"),
        ("list.json", "[\n{\"a\": 1},\n{\"a\": 2}\n]\n", "one object a line. Convert it: `jq"),
        ("python.json", "{u'user': 1, u'item': 2}\n", "Python's notation with single quotes"),
        ("prose.txt", "Dear reader,\nthis is a letter, and no table.\n\nYours\n", "text without columns"),
        ("notime.csv", "user_id,item_id\n" + "".join(f"{n % 7},{n % 5}\n" for n in range(60)), "no column with times"),
        (
            "oddtime.csv",
            "user_id,item_id,date_added\n" + "".join(f"{n % 7},{n % 5},Fri Nov 0{n % 9}\n" for n in range(60)),
            "date_added holds 'Fri Nov 00'.*which no known form of a time fits",
        ),
        ("noitem.csv", HEADER.replace("item_id", "shade") + ROWS, "no column for the item"),
        ("nouser.csv", HEADER.replace("user_id", "shade") + ROWS, "no column for the user or the session"),
        (
            "uniqueuser.csv",
            HEADER + "".join(f"u{n},{n % 5},2025-11-01T10:00:00Z\n" for n in range(60)),
            "each of the 60 rows has another user",
        ),
        (
            "uniqueitem.csv",
            HEADER + "".join(f"{n % 7},i{n},2025-11-01T10:00:00Z\n" for n in range(60)),
            "each of the 60 rows has another item",
        ),
        (
            "oneuser.csv",
            HEADER + "".join(f"me,{n % 5},2025-11-01T10:00:00Z\n" for n in range(60)),
            "all rows have the same user",
        ),
        (
            "nested.jsonl",
            "".join(f'{{"user_id": "{n % 7}", "ts": "2025-11-01T10:00:00Z", "items": [{{"item_id": 1}}]}}\n' for n in range(60)),
            "holds item_id inside .items,.*jq -c 'del\\(.items\\) \\+ .items\\[\\]\\?' nested.jsonl",
        ),
        (
            "packed.jsonl",
            "".join(json.dumps({"at": n, "value": json.dumps({"user_id": n % 7, "item_id": n % 5})}) + "\n" for n in range(60)),
            "holds user_id, item_id inside .value,.*jq -c 'del\\(.value\\) \\+ \\(.value \\| fromjson\\)' packed.jsonl",
        ),
        ("titled.csv", "# a report\n\n" + HEADER + ROWS, "begins with '# a report'.*3 fields.*`tail -n \\+3 titled.csv"),
        ("broken.csv", '"user\nid",item_id,timestamp\n' + ROWS, "line break inside a name of its header"),
        ("many.tsv", ("1\t2\t2025-11-01" + "\t" * 40 + "\n") * 60, "43 fields in a line and no header"),
        (
            "excel.csv",
            HEADER + "".join(f"{n % 7},{n % 5},{45_964 + n / 24:.4f}\n" for n in range(60)),
            "timestamp holds '45964.*Excel days since 1900, format the cells",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value and len(value) < 20 else "",
)  # fmt: skip
def test_a_file_that_cannot_be_used(tmp_path, name, content, words):
    """The text names the file, says what was found and what to do, in place of a traceback from a reader."""
    found = message(tmp_path, name, content)
    assert re.search(words, found), found


def test_a_path_without_files(tmp_path):
    """A file that does not exist, a pattern that matches nothing and an empty folder are no files."""
    for path in ("nothing.csv", "*.parquet", ""):
        with pytest.raises(InputError, match=r"no file matches .*Check the path"):
            shop_of([str(tmp_path / path)])


def test_latin_1_is_pointed_out(tmp_path):
    """Text in Latin-1 can be read, and a comment says which letters are lost and how to convert it."""
    events = tmp_path / "events.csv"
    events.write_bytes(("user_id,item_id,time,title\n" + ROWS.replace("Z\n", "Z,Gießkanne\n")).encode("latin-1"))
    shop = shop_of([str(events)])
    assert any("not UTF-8, for example in" in doubt.text and "iconv -f LATIN1" in doubt.text for doubt in shop.doubts)


def test_a_folder_without_data_says_why(tmp_path):
    """A folder in which no file can be read gives the reason of its first file."""
    (tmp_path / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(InputError, match="is a PNG image"):
        shop_of([str(tmp_path)])


def test_a_listing_is_bounded(tmp_path, monkeypatch):
    """Of a folder with more files than the bound, no more are listed, and a comment says so."""
    monkeypatch.setattr(files, "MOST_FILES", 5)
    for n in range(9):
        (tmp_path / f"{n}.csv").write_text(HEADER + ROWS)
    found = files.listing(str(tmp_path))
    assert (len(found.files), found.complete) == (5, False)
    assert any("more than 5 files" in doubt.text for doubt in shop_of([str(tmp_path)]).doubts)


def test_a_sample_is_bounded(tmp_path, monkeypatch):
    """Of a long file, the sample has the first lines only, whole ones, and ds comes from a scan of all lines."""
    monkeypatch.setattr(sample, "SAMPLE_BYTES", 1_000)
    (tmp_path / "events.csv").write_text(HEADER + ROWS * 20 + "1,1,2025-12-05T10:00:00Z\n" * 99)
    shop = shop_of([str(tmp_path / "events.csv")])
    assert not shop.events.source.whole
    assert shop.events.source.num_rows < 60
    assert shop.events.source.bad_rows == 0
    assert str(shop.ds) == "2025-12-05"


def test_an_endless_listing_ends(monkeypatch):
    """Listing stops at the bound, and does not walk the rest of a huge folder first."""
    seen = []

    def endless(path: str) -> Iterator[files.File]:
        for n in itertools.count():
            seen.append(n)
            yield files.File(f"{path}/{n}", 1)

    monkeypatch.setattr(files, "_local", endless)
    assert not files.listing("/huge").complete
    assert len(seen) == files.MOST_FILES + 1


def test_a_scan_is_bounded(tmp_path, monkeypatch):
    """Of a file that is too long to be scanned, the begin and the end are read, and the last day is not certain."""
    monkeypatch.setattr(sample, "SAMPLE_BYTES", 1_000)
    for name, size in (("MOST_BYTES", 2_000), ("_BLOCK", 1_000), ("TAIL_BYTES", 600)):
        monkeypatch.setattr(scan, name, size)
    (tmp_path / "events.csv").write_text(HEADER + ROWS * 20 + "1,1,2025-12-05T10:00:00Z\n" * 99)
    shop = shop_of([str(tmp_path / "events.csv")])
    assert shop.period is not None
    assert (str(shop.ds), shop.period.on_last_day) == ("2025-12-05", 600 // 25 - 1)
    assert any("the last day of a sample" in doubt.text for doubt in shop.doubts)
