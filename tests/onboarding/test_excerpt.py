"""Excerpts of large inputs: bounded, whole lines, the same names."""

import gzip
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdlib.onboarding.excerpt import excerpt


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_files_that_fit_are_linked(tmp_path):
    """A short file is not copied, and the excerpt is whole."""
    (tmp_path / "e.csv").write_text("a,b\n1,2\n")
    found = excerpt(str(tmp_path / "e.csv"), format_="csv", folder=_folder(tmp_path / "x"), rows=100)
    assert found.whole
    assert Path(found.path).is_symlink()
    assert Path(found.path).read_text() == "a,b\n1,2\n"


def test_a_long_file_gives_whole_lines_from_all_over(tmp_path, monkeypatch):
    """Of a long file, stretches from its begin to its end are copied, in whole lines, and no line twice."""
    monkeypatch.setattr("kdlib.onboarding.excerpt._BLOCK", 256)
    lines = [f"{n:06d},{'x' * (n % 13)}" for n in range(20_000)]
    (tmp_path / "e.csv").write_text("\n".join(["number,text", *lines]) + "\n")
    found = excerpt(str(tmp_path / "e.csv"), format_="csv", folder=_folder(tmp_path / "x"), rows=800)
    assert not found.whole
    head, *rows = Path(found.path).read_text().splitlines()
    assert head == "number,text"
    assert set(rows) <= set(lines)
    assert len(set(rows)) == len(rows)
    assert 500 < len(rows) < 1_200
    assert int(rows[-1][:6]) > 17_000


@pytest.mark.parametrize("block", [1 << 20, 64])
def test_stretches_neither_overlap_nor_leave_a_line_out(tmp_path, monkeypatch, block):
    """If the stretches have room for all lines, each line is copied once, also one that crosses two stretches."""
    monkeypatch.setattr("kdlib.onboarding.excerpt._BLOCK", block)
    monkeypatch.setattr("kdlib.onboarding.excerpt._is_short", lambda file, lines: False)
    text = "".join(f"{n},{'x' * (n * 7 % 90)}\n" for n in range(300)) + "the end"
    (tmp_path / "e.csv").write_text(text)
    found = excerpt(str(tmp_path / "e.csv"), format_="csv", folder=_folder(tmp_path / "x"), rows=9_000)
    assert Path(found.path).read_text() == text


def test_a_compressed_file_and_parquet_are_cut(tmp_path):
    """Of a long gzip file and a long Parquet file, a part is copied under the same name."""
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "e.csv.gz").write_bytes(gzip.compress("".join(f"{n},{n}\n" for n in range(300_000)).encode()))
    found = excerpt(str(tmp_path / "e"), format_="csv", folder=_folder(tmp_path / "x"), rows=1_000)
    text = gzip.decompress((Path(found.path) / "e.csv.gz").read_bytes()).decode()
    assert text.endswith("\n")
    assert not found.whole
    assert len(text.splitlines()) < 200_000
    (tmp_path / "p").mkdir()
    pq.write_table(pa.table({"n": range(5_000)}), tmp_path / "p" / "p.parquet", row_group_size=500)
    found = excerpt(str(tmp_path / "p"), format_="parquet", folder=_folder(tmp_path / "y"), rows=1_000)
    numbers = pq.read_table(Path(found.path) / "p.parquet")["n"].to_pylist()
    assert len(numbers) == 1_000
    assert max(numbers) > 4_000


def test_days_after_the_run_are_left_out(tmp_path):
    """With `{day}` in the path, only files up to the run's day are in the excerpt, and the days are named."""
    for day in (1, 2, 3):
        (tmp_path / f"day=2025-11-0{day}").mkdir()
        (tmp_path / f"day=2025-11-0{day}" / "e.csv").write_text("a\n1\n")
    path = str(tmp_path / "day={day}")
    found = excerpt(path, format_="csv", folder=_folder(tmp_path / "x"), rows=9, last_day=date(2025, 11, 2))
    assert found.days == (date(2025, 11, 1), date(2025, 11, 2))
    assert found.path == str(tmp_path / "x" / "day={day}")
    assert (tmp_path / "x" / "day=2025-11-02" / "e.csv").exists()
