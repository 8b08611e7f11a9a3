"""What a file holds, by its first bytes: Parquet, CSV with its delimiter, JSON lines or sequences."""

import csv
import json
import re
from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from kdlib.errors import InputError
from kdlib.onboarding.files import File, open_file, open_stream
from kdlib.onboarding.kinds import kind_of
from kdlib.onboarding.words import is_known_name

HEAD_BYTES = 256 * 1024
"""How much of a file decides its form."""
DELIMITERS = (",", ";", "\t", "|", "::")
MOST_LINES = 400
MOST_UNNAMED = 20
"""With more fields than this, positions and values do not tell what the columns of a file without a header are."""


@dataclass(frozen=True)
class Form:
    """How a file is to be read."""

    format: str
    """parquet, csv, jsonl, sequences."""
    delimiter: str = ","
    header: bool = True
    """CSV: Spark can take the names from the first line."""
    names: tuple[str, ...] = ()
    """CSV: the column names of the first line, else `column_1`, `column_2`, … Parquet: all columns. JSON lines: the keys
    that the first lines share."""
    first_line_names: bool = True
    """CSV: the first line holds names, even where `header` is False because a name is missing or stands twice."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What a person should know about the file, in sentences."""


def form_of(file: File) -> Form:
    """The form of a file.

    Raises:
      InputError: the file is empty, binary, in an encoding or a format that distilrec does not read, or cut off.
    """
    head = _head(file)
    if not head:
        raise InputError(f"{file.path} has no bytes. Check that the export has run, and give the whole file")
    if head.startswith(b"PAR1"):
        return Form("parquet", names=_parquet_names(file))
    if kind := kind_of(head):
        raise InputError(f"{file.path} is {kind[0]}, expected CSV, JSON lines or Parquet. {kind[1]}")
    text, notes = _text(file, head)
    lines = [line for line in text.splitlines()[:MOST_LINES] if line.strip()]
    if not lines:
        raise InputError(f"{file.path} holds only blank lines. Give a file with rows")
    if lines[0].lstrip()[:1] in ("{", "["):
        return _json_form(file, lines, notes)
    if (delimiter := delimiter_of(lines)) is None:
        if is_sequences(lines):
            return Form("sequences", notes=notes)
        if (delimiter := _blank_delimiter(lines)) is None:
            raise InputError(
                f"{file.path} is text without columns: its first line is {lines[0][:80]!r}. Give a file whose fields"
                " are separated by one of , ; | or a tab, with the same number in each line"
            )
    rows = _fields(lines, delimiter)
    _check_first_line(file, text, lines, rows)
    names = rows[0]  # with blanks at their ends, as a run sees them
    numbered = [f"column_{number + 1}" for number in range(len(names))]
    if not has_header(rows):
        return Form("csv", delimiter, False, tuple(numbered), False, notes)
    if not all(map(str.strip, names)) or len(set(names)) < len(names):
        notes += (
            f"the first line of {file.name} has a column without a name, or a name twice: {', '.join(rows[0])}. So the"
            " run config names the columns, and a run quarantines the first line",
        )
        repeated = {name for name, number in Counter(names).items() if number > 1 or not name.strip()}
        names = [new if name in repeated else name for name, new in zip(names, numbered, strict=True)]
        return Form("csv", delimiter, False, tuple(names), True, notes)
    return Form("csv", delimiter, True, tuple(names), True, notes)


def _check_first_line(file: File, text: str, lines: list[str], rows: list[list[str]]) -> None:
    """Raise InputError where the first line is neither a whole header nor a row like the others."""
    usual, _ = Counter(map(len, rows)).most_common(1)[0]
    start = lines[next(place for place, row in enumerate(rows) if len(row) == usual)]
    if start != lines[0]:
        number = text.splitlines().index(start) + 1
        raise InputError(
            f"{file.path} begins with {lines[0][:80]!r}, but most lines have {usual} fields. Make the header the first line,"
            f" with {usual} names; if it is line {number} now: `tail -n +{number} {file.name} > new.csv`"
        )
    named = has_header(rows)
    if named and lines[0].count('"') % 2:
        raise InputError(
            f"{file.path} has a line break inside a name of its header: the first line is {lines[0][:80]!r}. Write the"
            " header on one line"
        )
    if not named and usual > MOST_UNNAMED:
        raise InputError(
            f"{file.path} has {usual} fields in a line and no header, which is too many to guess. Put a line with the"
            f" names first: `(cat names.csv; cat {file.name}) > new.csv`"
        )


def _head(file: File) -> bytes:
    try:
        with open_stream(file) as stream:
            return stream.read(HEAD_BYTES)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read {file.path}: {error}. Is the file whole? Replace it") from None


def _text(file: File, head: bytes) -> tuple[str, tuple[str, ...]]:
    """The whole lines of the head as text, and notes about the encoding."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or _looks_like_utf16(head):
        raise InputError(
            f"{file.path} is UTF-16 text, expected UTF-8. Convert it: `iconv -f UTF-16 -t UTF-8 {file.name} > new.csv`"
        )
    if b"\0" in head:
        raise InputError(f"{file.path} is binary, expected CSV, JSON lines or Parquet. Give the data file")
    if len(head) == HEAD_BYTES:
        head = head[: head.rfind(b"\n") + 1] or head
    text = head.decode("utf-8", "replace")
    if "\ufffd" not in text:
        return text.removeprefix("\ufeff"), ()
    if text.count("\ufffd") > len(text) / 20:
        raise InputError(f"{file.path} is binary, expected CSV, JSON lines or Parquet. Give the data file")
    return text, (
        f"{file.name} has bytes that are not UTF-8, for example in {_odd(text)!r}. It is probably Latin-1: titles lose"
        f" these letters, and ids with them are quarantined. Convert it: `iconv -f LATIN1 -t UTF-8 {file.name} >"
        " new.csv`",
    )


def _odd(text: str) -> str:
    found = re.search(r"\S*\ufffd\S*", text)
    return found[0][:40] if found else ""


def _looks_like_utf16(head: bytes) -> bool:
    half = len(head[:2_000]) // 2
    return half > 10 and (head[1:2_000:2].count(0) > 0.8 * half or head[0:2_000:2].count(0) > 0.8 * half)


def _json_form(file: File, lines: list[str], notes: tuple[str, ...]) -> Form:
    try:
        if isinstance(json.loads(lines[0].rstrip(", ")), dict):
            return Form("jsonl", names=_shared_keys(lines), notes=notes)
    except ValueError:
        if re.match(r"\{\s*u?'", lines[0]):
            raise InputError(
                f"{file.path} holds Python's notation with single quotes, expected JSON. Convert each line with"
                " `json.dumps(ast.literal_eval(line))`"
            ) from None
    raise InputError(
        f"{file.path} is JSON over several lines, expected one object a line. Convert it: `jq -c '.[]' {file.name} >"
        " new.jsonl` for a list, `jq -c . …` for single objects"
    )


def _shared_keys(lines: list[str]) -> tuple[str, ...]:
    shared: set[str] | None = None
    for line in lines:
        try:
            keys = set(json.loads(line.rstrip(", ")))
        except ValueError:  # a damaged line, or the last one, cut off
            continue
        shared = keys if shared is None else shared & keys
    return tuple(sorted(shared or ()))


def _parquet_names(file: File) -> tuple[str, ...]:
    try:
        with open_file(file) as stream:
            return tuple(pq.read_schema(stream).names)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read {file.path}: {error}. Is the file whole? Replace it") from None


def delimiter_of(lines: list[str]) -> str | None:
    """The delimiter that gives nearly all lines the same number of fields, two or more; None without one."""
    best, choice = 0.0, None
    for delimiter in DELIMITERS:
        widths = Counter(len(row) for row in _fields(lines, delimiter))
        width, number = widths.most_common(1)[0]
        share = number / sum(widths.values())
        if width > 1 and share >= 0.8 and share * width > best:
            best, choice = share * width, delimiter
    return choice


def _fields(lines: list[str], delimiter: str) -> list[list[str]]:
    if len(delimiter) > 1:
        return [line.split(delimiter) for line in lines]
    return list(csv.reader(lines, delimiter=delimiter))


def _blank_delimiter(lines: list[str]) -> str | None:
    widths = {len(line.split(" ")) for line in lines}
    return " " if len(widths) == 1 and widths.pop() > 1 else None


def is_sequences(lines: list[str]) -> bool:
    """Whether each line is a user and its items, apart by blanks: users differ, and lines differ in length."""
    words = [line.split() for line in lines]
    widths = {len(row) for row in words}
    plain = sum(bool(re.fullmatch(r"[\w-]+", word)) for row in words for word in row)
    return (
        min(widths) > 1
        and (len(widths) > 1 or len(lines) == 1)
        and plain > 0.99 * sum(map(len, words))
        and len({row[0] for row in words}) == len(words)
    )


def has_header(rows: list[list[str]]) -> bool:
    """Whether the first row holds names: no number or date, and a known name, or else no value that stands below."""
    first, below = [field.strip() for field in rows[0]], rows[1:]
    if any(name and re.fullmatch(r"[-+\d.,:/ TZ]+", name) for name in first):
        return False
    if any(is_known_name(name) for name in first):
        return True
    if "" in first or len(set(first)) < len(first):
        return False
    values = [{row[place].strip() for row in below if place < len(row)} for place in range(len(first))]
    return not any(name in column for name, column in zip(first, values, strict=True))
