"""`distilrec validate`: the verdicts of the real steps on a sample, and nothing written."""

from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pytest
import yaml
from deltalake import write_deltalake

from jobs.__main__ import main
from jobs.validate import ADVICE
from kdlib.features.clean import REASONS
from kdlib.onboarding import excerpt

HEADER = "user_id,item_id,timestamp,event_type\n"


def _rows(days: int = 12) -> list[str]:
    return [
        f"u{user},i{(user + day) % 9},2025-11-{day + 1:02d}T10:{user:02d}:00Z,view\n"
        for user in range(40)
        for day in range(days)
    ]


def _config(folder: Path, rows: list[str], **more: Any) -> str:
    (folder / "events.csv").write_text(HEADER + "".join(rows))
    events = {
        "path": str(folder / "events.csv"),
        "format": "csv",
        "user": "user_id",
        "item": "item_id",
        "event_type": "event_type",
        "time": {"column": "timestamp"},
    }
    section = {"events": events | more.pop("events", {})} | more.pop("input", {})
    found = {"name": "shop", "ds": "2025-11-12", "output_dir": str(folder / "output"), "input": section} | more
    (folder / "shop.yaml").write_text(yaml.safe_dump(found))
    return str(folder / "shop.yaml")


def test_each_row_gets_its_verdict_with_an_example(spark, tmp_path, capsys):
    """Kept, filtered, duplicate and quarantined rows are counted, with an example of each reason and its file."""
    rows = _rows()
    rows += [rows[0], ",i1,2025-11-03T10:00:00Z,view\n", "u1,i1,yesterday,view\n", "u1,i1\n"]
    rows += [f"u1,{'i' * 20_000},2025-11-03T10:00:00Z,view\n"]
    rows += ["u1,i1,2025-11-03T10:00:00Z,shown\n"] * 3 + ["u1,test,2025-11-03T11:00:00Z,view\n"]
    (tmp_path / "items.csv").write_text("item_id,title\n" + "".join(f"i{n},Title {n}\n" for n in range(8)))
    catalogue = {"path": str(tmp_path / "items.csv"), "format": "csv"}
    config = _config(tmp_path, rows, events={"where": "item_id <> 'test'"}, input={"catalogue": catalogue})
    assert main(["validate", "--config", config]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for words in (
        "rows 489 all of them",
        "kept 480 98.2%",
        "filtered 1 0.2%",
        "duplicate 1 0.2%",
        "quarantined 7 1.4%",
        "corrupt_row: 1",
        "missing_user: 1",
        "long_id: 1 (check user, session, item and event_id: an id has at most 256 characters)",
        "bad_time: 1 (check time.format and time.pattern)",
        f'"event_type":"view","timestamp":"yesterday"}} [{tmp_path}/events.csv]',
        "unknown_event_type: 3",
        "users 40 40 have two interactions or more to train on",
        "items 9 88.9% of them are in the catalogue",
        "days 12 2025-11-01 10:00:00 to 2025-11-12 10:39:00 UTC; ds is 2025-11-12",
        "split time, windows of 1 + 1 days: 40 users validate, 40 test",
        "nothing was written. Next: `distilrec nightly --config",
    ):
        assert words in printed
    assert not (tmp_path / "output").exists()


def test_every_reason_has_advice() -> None:
    """A person is told what to look at, whatever the reason."""
    assert set(ADVICE) == set(REASONS)


def test_a_sample_of_a_long_input_is_judged(spark, tmp_path, capsys, monkeypatch):
    """With fewer rows than the input has, the verdict is of a sample and says so."""
    monkeypatch.setattr(excerpt, "_BLOCK", 1_000)
    assert main(["validate", "--config", _config(tmp_path, _rows() * 3), "--rows", "300"]) == 0
    printed = capsys.readouterr().out
    assert "a sample; --rows N reads more" in printed
    assert 150 < int(printed.split()[1]) < 600


@pytest.mark.parametrize(
    ("rows", "more", "words"),
    [
        ([",i1,2025-11-03T10:00:00Z,view\n"] * 9, {}, "9 of 9 are missing_user. In the run config, check user"),
        (_rows(), {"ds": "2024-01-01"}, "480 of 480 are out_of_period. In the run config, check ds"),
        (_rows(), {"events": {"where": "item_id = 'x'"}}, "the filter input.events.where leaves out 480 of 480"),
        ([row for row in _rows() if "-12T" in row], {}, "none of the 40 users has a second interaction"),
    ],
)
def test_an_input_of_which_nothing_is_left_fails(spark, tmp_path, capsys, rows, more, words):
    """If no row is kept, or nothing can be trained on, the status is 2 and the text names the main reason and advice."""
    assert main(["validate", "--config", _config(tmp_path, rows, **more)]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "events.csv is a PNG image: format csv expects CSV text"),
        (HEADER.encode(), "has no rows"),
        (b"", "is empty: no file has any bytes"),
        ("a;b;c\n1;2;3\n".encode("utf-16"), "is text in UTF-16: format csv expects CSV text. Save it as UTF-8"),
        (b"user,item\n1,2\n", "lacks the mapped columns user_id, item_id, event_type, timestamp; found user, item"),
        (None, "no file matches"),
    ],
)
def test_a_wrong_file_is_named(spark, tmp_path, capsys, content, words):
    """A file of another kind, without rows or columns, or that is not there, is named as the shop knows it."""
    config = _config(tmp_path, _rows())
    path = tmp_path / "events.csv"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert main(["validate", "--config", config]) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert str(path) in printed


def test_a_delta_table_is_found_and_judged(spark, tmp_path, monkeypatch, capsys):
    """`init` takes the folder of a Delta Lake table for one, and `validate` judges its live rows."""
    monkeypatch.chdir(tmp_path)
    rows = [row.rstrip().split(",") for row in _rows()]
    names = HEADER.rstrip().split(",")
    table = pa.table({name: [row[place] for row in rows] for place, name in enumerate(names)})
    write_deltalake(tmp_path / "lake", table)
    assert main(["init", "lake", "--out", "lake.yaml"]) == 0
    assert main(["validate", "--config", "lake.yaml"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "rows 480 all of them kept 480" in printed


def test_few_test_users_are_a_warning(spark, tmp_path, capsys):
    """Fewer test users than the gate asks for, and no event on the run's day, are warnings with advice."""
    rows = [
        row for row in _rows() if not (row.startswith("u1") and "-12T" in row) and ("-12T" not in row or "u2," in row)
    ]
    assert main(["validate", "--config", _config(tmp_path, rows)]) == 0
    assert "1 users test, and a run needs 30 (gates.min_test_users)" in capsys.readouterr().out


def test_a_simulated_input_needs_no_check(tmp_path, capsys):
    """A run config without files of its own has nothing to validate."""
    (tmp_path / "shop.yaml").write_text(
        yaml.safe_dump({"name": "shop", "ds": "2025-11-12", "output_dir": "o", "input": {"simulate": {}}})
    )
    assert main(["validate", "--config", str(tmp_path / "shop.yaml")]) == 2
    assert "names no files with events (input.events)" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["disk", "store"])
def test_days_of_arrival_are_read_by_their_files(spark, tmp_path, capsys, request, place):
    """With `{day}` in the path, the files up to the run's day are judged, and late events are told."""
    folder = tmp_path / "in"
    folder.mkdir()
    path = f"{folder}" if place == "disk" else f"{request.getfixturevalue('s3')}/{tmp_path.name}"
    for day in range(1, 13):
        name = f"2025-11-{day:02d}"
        rows = [row for row in _rows() if f"{name}T" in row] + (["u9,i1,2025-11-02T01:00:00Z,view\n"] * (day == 10))
        (folder / f"{name}.csv").write_text(text := HEADER + "".join(rows))
        if place == "store":
            boto3.client("s3").put_object(Bucket="shop", Key=f"{tmp_path.name}/{name}.csv", Body=text.encode())
    config = _config(tmp_path, _rows(), events={"path": f"{path}/{{day}}.csv"})
    assert main(["validate", "--config", config]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "rows 481 all of them" in printed
    assert "kept 480" in printed
    assert "late: 1 (check late_days, and {day} in the path)" in printed
    assert f"[{path}/2025-11-10.csv]" in printed
    assert ("all of them; copied from the store, and removed again" in printed) == (place == "store")
