"""A bounded sample of a source: some rows of all columns, as trimmed text."""

import csv
import io
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from kdlib.errors import InputError
from kdlib.onboarding.arrow import pc
from kdlib.onboarding.files import BUFFER_BYTES, File, open_file, open_stream, spread
from kdlib.onboarding.forms import Form

SAMPLE_BYTES = 16 * 1024 * 1024
"""Text of a sample, over all its files."""
SAMPLE_ROWS = 300_000
SAMPLE_FILES = 64
_SEPARATOR = "\x1f"


@dataclass(frozen=True)
class Source:
    """Files of one form that a run can read together, and what a sample of them holds."""

    path: str
    """What the run config may name."""
    files: tuple[File, ...]
    form: Form
    columns: Mapping[str, pa.Array]
    """Name → values as trimmed text, null where empty, all of one length."""
    types: Mapping[str, str]
    """Parquet: name → type of the column."""
    nested: Mapping[str, Collection[str]]
    """Columns with lists, maps, structs or bytes, which a run cannot read, as jq writes them: `.properties`, `.items[]?`
    → the keys of the objects inside."""
    whole: bool
    """The sample holds all rows."""
    bad_rows: int = 0
    """Rows of the sample that do not parse."""
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def num_rows(self) -> int:
        """Rows of the sample that parse."""
        return len(next(iter(self.columns.values()))) if self.columns else 0

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rstrip("/").rpartition("/")[2]


@dataclass
class _Rows:
    columns: dict[str, pa.Array]
    whole: bool
    bad: int = 0
    types: dict[str, str] = field(default_factory=dict)
    nested: dict[str, Collection[str]] = field(default_factory=dict)


def sampled(path: str, files: tuple[File, ...], form: Form, *, complete: bool = True) -> Source:
    """Read a sample of some files.

    Args:
      path: what the run config may name.
      files: all files of the source.
      form: the form that the files share.
      complete: False: the source has more files than these.

    Raises:
      InputError: a file is damaged, or the sample has no row.
    """
    chosen = spread(files, SAMPLE_FILES)
    parts = [_read(file, form, share=len(chosen)) for file in chosen]
    names = list(dict.fromkeys(name for part in parts for name in part.columns))
    lengths = [len(next(iter(part.columns.values()), ())) for part in parts]
    columns = {
        name: trimmed(
            pa.chunked_array(
                [
                    part.columns.get(name, pa.nulls(length, pa.string()))
                    for part, length in zip(parts, lengths, strict=True)
                ],
                pa.string(),
            ).combine_chunks()
        )
        for name in names
    }
    if not sum(lengths):
        what = "a header but no rows" if form.first_line_names and form.format == "csv" else "no rows"
        raise InputError(f"{path} has {what}. Check that the export has run, and give a file with rows")
    return Source(
        path,
        files,
        form,
        columns,
        {name: kind for part in parts for name, kind in part.types.items()},
        {name: keys for part in parts for name, keys in part.nested.items()},
        whole=complete and len(chosen) == len(files) and all(part.whole for part in parts),
        bad_rows=sum(part.bad for part in parts),
        notes=form.notes,
    )


def trimmed(values: pa.Array) -> pa.Array:
    """Text without blanks at its ends, null where empty."""
    plain = pc.utf8_trim_whitespace(values)
    return pc.if_else(pc.equal(plain, ""), pa.scalar(None, pa.string()), plain)


def csv_table(text: str, form: Form, *, skip_first: bool, only: Sequence[str] | None = None) -> tuple[pa.Table, int]:
    """CSV lines as a table of text columns, and the number of lines that do not parse.

    Args:
      text: whole lines.
      form: delimiter and column names.
      skip_first: the first line holds names.
      only: the columns to keep; None: all.
    """
    if len(form.delimiter) > 1:
        text = text.replace(form.delimiter, _SEPARATOR)
    bad = [0]

    def skip(_: object) -> str:
        bad[0] += 1
        return "skip"

    table = pacsv.read_csv(
        io.BytesIO(text.encode()),
        read_options=pacsv.ReadOptions(column_names=list(form.names), skip_rows=int(skip_first), block_size=4 << 20),
        parse_options=pacsv.ParseOptions(
            delimiter=form.delimiter if len(form.delimiter) == 1 else _SEPARATOR,
            invalid_row_handler=skip,
        ),
        convert_options=pacsv.ConvertOptions(
            column_types=dict.fromkeys(form.names, pa.string()), include_columns=list(only or form.names)
        ),
    )
    return table, bad[0]


def text_of_column(values: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column of a Parquet file as the text that a run sees."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.timestamp("us", values.type.tz), safe=False)
    if pa.types.is_floating(values.type):
        whole = pc.and_(pc.equal(values, pc.floor(values)), pc.less(pc.abs(values), 2.0**53))
        numbers = pc.if_else(whole, values, pa.scalar(None, values.type)).cast(pa.int64()).cast(pa.string())
        return pc.if_else(
            pc.is_nan(values), pa.scalar(None, pa.string()), pc.coalesce(numbers, values.cast(pa.string()))
        )
    return values.cast(pa.string())


def is_plain(kind: pa.DataType) -> bool:
    """Whether a Parquet column holds one plain value a row."""
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def kind_of(kind: pa.DataType) -> str:
    """The type of a Parquet column in a word: text, time, day, whole number, number or other."""
    for name, check in (
        ("text", lambda one: pa.types.is_string(one) or pa.types.is_large_string(one) or pa.types.is_dictionary(one)),
        ("time", pa.types.is_timestamp),
        ("day", pa.types.is_date),
        ("whole number", pa.types.is_integer),
        ("number", lambda one: pa.types.is_floating(one) or pa.types.is_decimal(one)),
    ):
        if check(kind):
            return name
    return "other"


def _read(file: File, form: Form, *, share: int) -> _Rows:
    try:
        if form.format == "parquet":
            return _parquet(file, most=SAMPLE_ROWS // share)
        text, whole = _text(file, most=SAMPLE_BYTES // share)
        if form.format == "csv":
            return _csv(text, form, whole=whole)
        return _sequences(text, whole=whole) if form.format == "sequences" else _jsonl(text, whole=whole)
    except (OSError, pa.ArrowException, EOFError) as error:
        raise InputError(
            f"cannot read {file.path}: {str(error).splitlines()[0]}. Is the file whole? Replace it, or leave it out"
        ) from None


def _text(file: File, *, most: int) -> tuple[str, bool]:
    """The file's first whole lines, and whether that is all of it."""
    with open_stream(file) as stream:
        head = stream.read(most)
        whole = not stream.read(1)
    if not whole:
        head = head[: head.rfind(b"\n") + 1]
    return head.decode("utf-8", "replace").removeprefix("\ufeff"), whole


def _csv(text: str, form: Form, *, whole: bool) -> _Rows:
    table, bad = csv_table(text, form, skip_first=form.first_line_names)
    if bad > max(1, table.num_rows // 50) and '"' in text:  # perhaps quoted fields with line breaks
        rows = list(csv.reader(io.StringIO(text), delimiter=form.delimiter)) if len(form.delimiter) == 1 else []
        good = [row for row in rows[int(form.first_line_names) :] if len(row) == len(form.names)]
        if len(good) > table.num_rows:
            bad = len(rows) - int(form.first_line_names) - len(good)
            columns = zip(*good, strict=True)
            return _Rows({n: pa.array(c, pa.string()) for n, c in zip(form.names, columns, strict=True)}, whole, bad)
    return _Rows({name: table[name].combine_chunks() for name in table.column_names}, whole, bad)


def _jsonl(text: str, *, whole: bool) -> _Rows:
    rows, bad, nested = [], 0, dict[str, object]()
    for line in text.splitlines()[:SAMPLE_ROWS]:
        if not line.strip():
            continue
        try:
            row = json.loads(line.rstrip(", "), parse_int=str, parse_float=str)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            bad += 1
            continue
        nested |= {name: value or nested.get(name) for name, value in row.items() if isinstance(value, dict | list)}
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row if name not in nested)
    columns = {name: pa.array([_plain(row.get(name)) for row in rows], pa.string()) for name in names}
    texts = {name: value for name in names if (value := str(rows[0].get(name))).startswith('{"')}
    inside = dict(_inside(name, value) for name, value in (nested | texts).items())
    return _Rows(columns, whole and len(rows) < SAMPLE_ROWS, bad, nested=inside)


def _plain(value: object) -> str | None:
    return None if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _inside(name: str, value: object) -> tuple[str, Collection[str]]:
    """The path of a field with objects, as jq writes it, and the keys of the objects."""
    path = f".{name}" if name.isidentifier() else f'."{name}"'
    if isinstance(value, str):
        return f"({path} | fromjson)", re.findall(r'"(\w+)"\s*:', value)
    if isinstance(value, list):
        return f"{path}[]?", value[0] if isinstance(value[0], dict) else ()
    return path, value if isinstance(value, dict) else ()


def _sequences(text: str, *, whole: bool) -> _Rows:
    pairs = [(words[0], item) for line in text.splitlines() if len(words := line.split()) > 1 for item in words[1:]]
    users, items = zip(*pairs, strict=True) if pairs else ((), ())
    return _Rows({"user": pa.array(users, pa.string()), "item": pa.array(items, pa.string())}, whole)


def _parquet(file: File, *, most: int) -> _Rows:
    with open_file(file) as stream:
        found = pq.ParquetFile(stream, buffer_size=BUFFER_BYTES)
        schema = found.schema_arrow
        plain = [name for name in schema.names if is_plain(schema.field(name).type)]
        # evenly over the file, so that a file sorted by time is seen from its begin to its end
        groups = found.metadata.num_row_groups
        wanted = sorted({round(place * (groups - 1) / 7) for place in range(8)}) if groups > 8 else list(range(groups))
        batches, rows = [], 0
        for group in wanted:
            taken = 0
            for batch in found.iter_batches(50_000, row_groups=[group], columns=plain, use_threads=not file.is_remote):
                batches.append(batch)
                taken += batch.num_rows
                if taken >= most // max(1, len(wanted)):
                    break
            rows += taken
        table = pa.Table.from_batches(batches, pa.schema([schema.field(name) for name in plain]))
        whole = table.num_rows == found.metadata.num_rows
    return _Rows(
        {name: text_of_column(table[name]) for name in plain},
        whole,
        types={name: kind_of(schema.field(name).type) for name in plain},
        nested={name: () for name in schema.names if name not in plain},
    )
