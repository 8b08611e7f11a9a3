"""Turns Spark's errors about input files into errors that a user can act on."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException

from kdlib.errors import InputError

CORRUPT = "_corrupt_record"
"""Column with the text of a line that does not parse; null in a good row."""
MOST_CHARACTERS = 1_000_000
"""The longest CSV field, in files whose fields may hold line breaks."""

_SHOWN_NAMES = 50
"""How many columns an error names."""
_UNCLOSED = f"a field has more than {MOST_CHARACTERS:,} characters, so a quote is probably not closed"


def check_columns(wanted: Sequence[str], found: Sequence[str], *, path: str, hint: str = "") -> None:
    """Check that all wanted columns are there.

    Raises:
      InputError: a column is missing; the text names the missing columns and those found.
    """
    if missing := [name for name in wanted if name not in found]:
        raise InputError(
            f"{path} lacks the mapped column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; found "
            f"{names_text(found) or 'none'}{hint or '. Correct the column names in the run config'}"
        )


def names_text(names: Sequence[str]) -> str:
    """Names of columns for an error's text: the first ones, without unprintable characters, and how many more."""
    shown = ["".join(sign if sign.isprintable() else "?" for sign in name[:60]) for name in names[:_SHOWN_NAMES]]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN_NAMES:,} more" if len(names) > _SHOWN_NAMES else "")


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn Spark's errors about the input files into InputError. Spark may raise them only when it reads the rows."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        if explained := _explained(str(error), path=path):
            raise InputError(explained) from None
        raise


def _explained(text: str, *, path: str) -> str | None:
    """The error of Spark in our words; None for an error that is not about the input files."""
    if "PATH_NOT_FOUND" in text:
        missing = re.search(r"Path does not exist: (?:file:)?(\S+?)\.?(?:\s|$)", text)
        return f"no file matches {missing[1] if missing else path}. Check the path in the run config"
    if "UNABLE_TO_INFER_SCHEMA" in text:
        return (
            f"{path} holds no data files (names that begin with . or _ do not count). Check the path in the run config"
        )
    if "CSV header does not conform" in text:
        return _header_error(text, path=path)
    if illegal := re.search(r"Illegal Parquet type: (.+?)\.? SQLSTATE", text):
        return (
            f"{path} has a column of the Parquet type {illegal[1]}, which Spark cannot read. Leave it out of the"
            " export, or write it as text"
        )
    if "MALFORMED_CSV_RECORD" in text:
        return f"{path}: {_UNCLOSED}. Close it, or double the quotes inside the field"
    if "FAILED_READ_FILE" in text:
        return _file_error(text, path=path)
    return None


def _header_error(text: str, *, path: str) -> str:
    """A CSV file's header has a name twice, lacks a name, or differs from the first file's header."""
    file = re.search(r"CSV file: (\S+)", text)
    header = re.search(r"Header: (.+)", text)
    names = header[1].split(", ") if header else []
    if twice := sorted({name for name in names if names.count(name) > 1}):
        return (
            f"the header of {file[1] if file else path} has {', '.join(twice)} twice. Rename one, or set header: false"
            " and columns in the run config"
        )
    if "but found: \n" in text:
        return (
            f"the header of {file[1] if file else path} has a field without a name. Name it in the file, or set"
            " header: false and columns in the run config"
        )
    schema = re.search(r"Schema: (.+)", text)
    found, expected = (part[1].removesuffix(f", {CORRUPT}") if part else "" for part in (header, schema))
    return (
        f"the CSV files of {path} do not all have the same header: {file[1] if file else 'one'} has {found}, the first"
        f" file has {expected}. Give all files the same columns in the same order, or take this file out of the input"
    )


def _file_error(text: str, *, path: str) -> str:
    """A file is damaged, has another type of column than other files, or has a quote that is not closed."""
    found = re.search(r"reading file (\S+)", text)
    file = found[1].rstrip(".") if found else path
    causes = re.findall(r"Caused by: (.+)", text)
    cause = causes[-1].strip() if causes else "damaged file"
    if f"out of bounds for length {MOST_CHARACTERS}" in cause:
        cause = _UNCLOSED
    if other := re.search(r"column: \[(.+?)\], physicalType: (\w+), logicalType: (\w+)", cause):
        return (
            f"{file} has the column {other[1]} as {other[2]}, other files of {path} have it as {other[3]}. Give it one"
            " type in all files, or read the files in separate runs"
        )
    return (
        f"cannot read {file}: {cause}. Check that the file is complete and in the right format, or take it out of the"
        " input"
    )
