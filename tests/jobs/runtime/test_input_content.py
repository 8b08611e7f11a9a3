"""Wrong files are named before Spark reads them, in one clear error each."""

import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from jobs.runtime import input_files
from jobs.runtime.input_content import check_files
from jobs.runtime.input_files import version_of, version_of_files
from kdlib.errors import InputError

TABLE = pa.table({"u": ["1"], "i": ["a"]})


def _bytes_of(write: Callable[[Any], Any]) -> bytes:
    write(stream := io.BytesIO())
    return stream.getvalue()


def _zip(stream: io.BytesIO) -> None:
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("xl/workbook.xml", "<x/>")


PARQUET, ZIP = _bytes_of(lambda stream: pq.write_table(TABLE, stream)), _bytes_of(_zip)
CSV = b"u,i\n1,a\n"
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


@pytest.mark.parametrize(
    ("name", "content", "format_", "message"),
    [
        ("e.csv", PNG, "csv", r"e\.csv is a PNG image: format csv expects CSV text\. Give the data file"),
        ("e.csv", PARQUET, "csv", r"e\.csv is a Parquet file: .*Set format: parquet"),
        ("e.csv", ZIP, "csv", r"is a ZIP archive or an Excel workbook: .*save the sheet as CSV"),
        ("e.csv", gzip.compress(CSV, mtime=0), "csv", r"is a gzip file without the ending \.gz: .*Rename it"),
        ("e.csv", CSV.decode().encode("utf-16"), "csv", r"is text in UTF-16: .*Save it as UTF-8"),
        ("e.csv", b"u,i\n1,\0\n", "csv", r"is a binary file"),
        ("e.csv.gz", CSV, "csv", r"is not compressed, though its name ends in \.gz"),
        ("e.csv", b"", "csv", r"e\.csv is empty: no file has any bytes"),
        ("e.csv.gz", b"", "csv", r"e\.csv\.gz has no bytes"),
        ("e.parquet", b"", "parquet", r"e\.parquet has no bytes"),
        ("e.parquet", CSV, "parquet", r"is not a Parquet file but text\. Set format: csv or jsonl"),
        ("e.parquet", b"ORC\x08", "parquet", r"is not a Parquet file but an ORC file\. Convert it to Parquet"),
        (
            "e.jsonl",
            b'[\n {"u": 1}\n]',
            "jsonl",
            r"is one JSON list: format jsonl expects a JSON object on each line\.",
        ),
        ("s.txt", PNG, "sequences", r"is a PNG image: format sequences expects lines of ids"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, name: str, content: bytes, format_: str, message: str) -> None:
    """The error says what the file is and what to do."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        version_of(str(tmp_path / name), format_, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "format_"),
    [
        ("e.csv", CSV, "csv"),
        ("e.csv", "ü,i\n".encode("latin-1"), "csv"),
        ("e.csv", b"\xef\xbb\xbf" + CSV, "csv"),
        ("e.csv.gz", gzip.compress(CSV, mtime=0), "csv"),
        ("e.csv.zst", b"\x28\xb5\x2f\xfd\0", "csv"),
        ("e.jsonl", b'{"u": [1]}\n', "jsonl"),
        ("e.parquet", PARQUET, "parquet"),
    ],
)
def test_a_file_of_the_format_passes(tmp_path: Path, name: str, content: bytes, format_: str) -> None:
    """Files of the format pass, also in other encodings and with other compression that Spark knows."""
    (tmp_path / name).write_bytes(content)
    assert version_of(str(tmp_path / name), format_, tmp_path)


@pytest.mark.parametrize("format_", ["csv", "parquet"])
def test_a_folder_of_mixed_files_names_one_that_does_not_fit(tmp_path: Path, format_: str) -> None:
    """The error names the file of another kind, and an empty CSV file among others passes."""
    (folder := tmp_path / "events").mkdir()
    (folder / "1.csv").write_bytes(CSV)
    (folder / "2.csv").write_bytes(b"")
    assert version_of(str(folder), "csv", tmp_path)
    (folder / "2.csv").unlink()
    (folder / "deeper").mkdir()
    (folder / "deeper" / "3.parquet").write_bytes(PARQUET)
    odd = r"3\.parquet is a Parquet file" if format_ == "csv" else r"1\.csv is not a Parquet file"
    with pytest.raises(InputError, match=odd):
        version_of(str(folder), format_, tmp_path)


def test_the_folder_of_a_table_is_not_read_as_its_files(tmp_path: Path) -> None:
    """The folder of a Delta Lake or Iceberg table is an error that names the format to set."""
    write_deltalake(tmp_path / "delta", TABLE)
    with pytest.raises(InputError, match=r"is a Delta Lake table, .*Set format: delta"):
        version_of(str(tmp_path / "delta"), "parquet", tmp_path)
    for name in ("metadata/v1.metadata.json", "data/1.parquet"):
        (tmp_path / "iceberg" / name).parent.mkdir(parents=True)
        (tmp_path / "iceberg" / name).write_bytes(PARQUET)
    with pytest.raises(InputError, match=r"is an Iceberg table, .*Set format: iceberg"):
        version_of(str(tmp_path / "iceberg"), "parquet", tmp_path)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux")
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """The check of the first bytes and the hash both name an unreadable file and the reason."""
    file = ("/proc/self/mem", 10, 1)  # opens, but cannot be read
    with pytest.raises(InputError, match=r"cannot read /proc/self/mem: Input/output error\. Check its permissions"):
        check_files([file], "csv", path="events")
    with pytest.raises(InputError, match=r"cannot read /proc/self/mem: Input/output error"):
        version_of_files([file], tmp_path)


@pytest.mark.parametrize(("limit", "value"), [("MOST_BYTES", 10), ("MOST_FILES", 1)])
def test_a_huge_input_counts_by_size_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    """Beyond a limit nothing is hashed, and a new time gives a new version."""
    (folder := tmp_path / "events").mkdir()
    for name in ("1.csv", "2.csv"):
        (folder / name).write_bytes(CSV)
    monkeypatch.setattr(input_files, limit, value)
    monkeypatch.setattr(input_files, "_hash_of", lambda *_: pytest.fail("hashed"))
    before = version_of(str(folder), "csv", tmp_path)
    assert version_of(str(folder), "csv", tmp_path) == before
    (folder / "1.csv").touch()
    assert version_of(str(folder), "csv", tmp_path) != before
