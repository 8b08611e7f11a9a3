"""Thousands of generated lines of every text format: each is kept, a duplicate or quarantined, and none is lost."""

import json
import random
from datetime import date

import pytest

from kdlib.config.data import EventsConfig
from kdlib.errors import DistilrecError
from kdlib.features import clean
from kdlib.features.events import read_events
from kdlib.features.funnel import count_outcomes
from kdlib.features.read_errors import reading

LAST_DAY = date(2024, 5, 3)
LINES = 2_500
VALUES = (
    "",
    " ",
    "\t",
    "null",
    "NULL",
    "NaN",
    "0",
    "-1",
    "1e400",
    "9" * 40,
    "a",
    "é",
    "笔记本电脑",
    "🛒",
    "\u202eabc",
    "\ufeff1",
    '"',
    '""',
    '"a',
    'a"b',
    "a,b",
    "a;b",
    "\\",
    "\\n",
    "'",
    "; DROP TABLE users",
    "<script>",
    "\x00",
    "\x1b[0m",
    "\u2028",
    "2024-05-02",
    "2024-05-02T10:00:00Z",
    "2024-05-02 10:00:00+09:00",
    "2024-13-45",
    "1714600000",
    "171460000000000000000",
    "12:30",
    "2024",
    "view",
    "cart",
    "VIEW",
    "x" * 3_000,
    "[1]",
    "{}",
    "true",
)


BLANK = "".join(map(chr, range(33)))
"""A line of only blanks and control characters is not a row."""


def noise(generator: random.Random) -> str:
    """A short text of random characters that do not end a line."""
    length = generator.randrange(12)
    return "".join(
        chr(generator.choice([generator.randrange(32, 127), generator.randrange(0x20, 0xD7FF)])) for _ in range(length)
    )


def value(generator: random.Random) -> str:
    return generator.choice(VALUES) if generator.random() < 0.7 else noise(generator)


def csv_line(generator: random.Random) -> bytes:
    fields = [value(generator) for _ in range(generator.choice([0, 1, 3, 4, 4, 4, 4, 5, 9]))]
    return ",".join(fields).encode()


def json_line(generator: random.Random) -> bytes:
    wild = [None, True, 1.5, 10**30, [], {}, [1, {"a": 2}]]
    record = {
        key: generator.choice([value(generator), generator.choice(wild)]) for key in "uitb" if generator.random() < 0.9
    }
    text = json.dumps(record, ensure_ascii=generator.random() < 0.5)
    if generator.random() < 0.2:  # cut, doubled, or not a record
        text = generator.choice(
            [text[: len(text) // 2], text * 2, noise(generator), json.dumps(generator.choice(wild))]
        )
    return text.encode()


def sequence_line(generator: random.Random) -> bytes:
    return " ".join(value(generator) for _ in range(generator.randrange(6))).encode()


def broken(line: bytes, generator: random.Random) -> bytes:
    """The line, sometimes with bytes that are not UTF-8, and never with the end of a line."""
    if generator.random() < 0.05:
        place = generator.randrange(len(line) + 1)
        line = line[:place] + bytes([generator.randrange(128, 256)]) + line[place:]
    return line.replace(b"\n", b" ").replace(b"\r", b" ")


def judge(spark, config: EventsConfig):
    """The judged rows of an input, their counts, and the number of rows read."""
    with reading(config.path):
        events = read_events(spark, config, last_day=LAST_DAY)
        judged = clean.with_outcome(
            events, period_start=None, last_day=LAST_DAY, max_events_per_user_day=100, num_partitions=2
        )
        return judged, count_outcomes(judged, path=config.path, last_day=LAST_DAY), events.count()


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("form", "line_of"), [("csv", csv_line), ("jsonl", json_line), ("sequences", sequence_line)])
def test_generated_lines_add_up(spark, tmp_path, form, line_of, seed):
    """Rows read = lines that are not blank = kept + duplicate + quarantined. Sequences have a row an item."""
    generator = random.Random(f"{form} {seed}")
    lines = [broken(line_of(generator), generator) for _ in range(LINES)]
    header = (
        [b"u,i,t,b"]
        if form == "csv"
        else [b'{"u": "u", "i": "i", "t": "2024-05-02", "b": "view"}']
        if form == "jsonl"
        else []
    )
    path = tmp_path / "events.txt"
    path.write_bytes(b"\n".join([*header, *lines]) + b"\n")
    columns = (
        {}
        if form == "sequences"
        else {
            "user": "u",
            "item": "i",
            "event_type": "b",
            "time": {"format": "iso", "column": "t"},
        }
    )
    config = EventsConfig.model_validate({"path": str(path), "format": form, **columns})
    judged, found, read = judge(spark, config)
    assert found["rows_read"] == read
    texts = [line.decode(errors="replace") for line in lines]
    if form == "sequences":
        words = [len(text.split()) for text in texts]
        assert found["rows_read"] >= sum(max(count - 1, 1) for count in words if count)
    else:
        blank = sum(not text.strip(BLANK) for text in texts)
        assert found["rows_read"] == len(lines) - blank + (form == "jsonl")
    assert found["quarantined"] == clean.quarantine(judged).count()


@pytest.mark.parametrize("seed", range(8))
def test_generated_files_are_read_or_refused_with_a_reason(spark, tmp_path, seed):
    """A file of random bytes gives, in every format, rows that add up or an error of ours that names the file."""
    generator = random.Random(seed)
    path = tmp_path / f"events.{generator.choice(['txt', 'csv.gz', 'parquet'])}"
    path.write_bytes(generator.randbytes(generator.choice([0, 1, 7, 4096, 200_000])))
    for form in ("csv", "jsonl", "sequences", "parquet"):
        columns = {} if form == "sequences" else {"user": "u", "item": "i", "time": {"format": "iso", "column": "t"}}
        config = EventsConfig.model_validate({"path": str(path), "format": form, **columns})
        refused, found, read = "", {}, 0
        try:
            _, found, read = judge(spark, config)
        except DistilrecError as error:
            refused = str(error)
        if refused:
            assert path.name in refused
        else:
            assert found["rows_read"] == read > 0
