"""A bounded excerpt of input files under another folder, with the same names: real steps can judge it quickly."""

import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kdlib.config.data import DAY
from kdlib.errors import InputError
from kdlib.onboarding.files import BUFFER_BYTES, File, full_path, listing, open_file, open_stream, spread
from kdlib.store.remote_files import fixed_part

MOST_FILES = 400
"""An excerpt takes rows of at most this many files, evenly spaced."""
STRETCHES = 8
"""From a long text file, an excerpt takes so many stretches of lines, evenly spaced."""
_BLOCK = 1 << 20
_WORDS_A_LINE = 10


@dataclass(frozen=True)
class Excerpt:
    """Where an excerpt lies."""

    path: str
    """The path of the input with another begin."""
    whole: bool
    """The excerpt has all rows."""
    num_files: int
    days: tuple[date, ...] = ()
    """The days in the files' names, where the path has `{day}`."""
    begins: tuple[str, str] = ("", "")
    """The begin of a file's path in the excerpt, and in the input."""


def excerpt(path: str, *, format_: str, folder: Path, rows: int, last_day: date | None = None) -> Excerpt:
    """Put rows of an input into a folder. Files that fit are linked, of others a part is copied.

    Args:
      path: of the input: a file, a folder, a glob or a URL; may hold `{day}`.
      format_: parquet, csv, jsonl or sequences.
      folder: an empty folder.
      rows: about the largest number of rows.
      last_day: with `{day}` in the path, files of later days are left out.

    Raises:
      InputError: the path names no file, or a file cannot be read.
    """
    files, complete, days = files_to_read(path, last_day=last_day)
    full = full_path(path)
    begin = _begin(full, files)
    chosen = spread(files, MOST_FILES)
    whole = complete and len(chosen) == len(files)
    for file in chosen:
        place = folder / file.path.removeprefix(begin)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            whole = _put(file, place, format_, rows=max(1, rows // len(chosen))) and whole
        except (OSError, EOFError, pa.ArrowException) as error:
            raise InputError(
                f"cannot read {file.path}: {str(error).splitlines()[0]}. Is the file whole? Replace it, or leave it out"
            ) from None
    ending = full.removeprefix(begin) if full.startswith(begin) else ""
    return Excerpt(f"{folder}/{ending}" if ending else str(folder), whole, len(chosen), days, (f"{folder}/", begin))


def files_to_read(path: str, *, last_day: date | None = None) -> tuple[tuple[File, ...], bool, tuple[date, ...]]:
    """The files of an input's path, whether these are all, and the days in their names, where the path has `{day}`.

    Raises:
      InputError: the path names no file, or none of `last_day` or earlier.
    """
    listed = listing(re.sub(r"\{[^{}]*\}", "*", path.replace(DAY, "????-??-??")))
    if DAY not in path:
        return listed.files, listed.complete, ()
    assert last_day
    days = {file: day for file in listed.files if (day := _day_of(file)) and day <= last_day}
    if not days:
        raise InputError(f"no file of {last_day} or earlier matches {path}. Check the path and --ds")
    chosen = {*spread(tuple(days), MOST_FILES)}
    return tuple(days), listed.complete, tuple(sorted({day for file, day in days.items() if file in chosen}))


def _begin(path: str, files: tuple[File, ...]) -> str:
    """The part of the path that the excerpt replaces: folders without a pattern, with a `/` at the end."""
    if len(files) == 1 and files[0].path == path:
        return path.rpartition("/")[0] + "/"
    return fixed_part(path) + "/"


def _day_of(file: File) -> date | None:
    found = re.findall(r"\d{4}-\d{2}-\d{2}", file.path)
    try:
        return date.fromisoformat(found[-1]) if found else None
    except ValueError:
        return None


def _put(file: File, place: Path, format_: str, *, rows: int) -> bool:
    """Link the file, or copy a part of it; returns whether it is the whole file."""
    if format_ == "parquet":
        return _put_parquet(file, place, rows=rows)
    lines = rows // _WORDS_A_LINE if format_ == "sequences" else rows
    most = lines + lines // 10
    if not file.is_remote and _is_short(file, most):
        place.symlink_to(file.path)
        return True
    with pa.output_stream(str(place), compression=file.compression) as out:
        if file.compression or (file.is_remote and _seems_short(file, most)):
            return _copy_begin(file, out, lines=most)
        _copy_stretches(file, out, lines=lines)
    return False


def _is_short(file: File, lines: int) -> bool:
    """Whether the file has at most this many lines."""
    left = lines
    with open_stream(file) as stream:
        while block := stream.read(_BLOCK):
            left -= block.count(b"\n")
            if left < 0:
                return False
    return True


def _seems_short(file: File, lines: int) -> bool:
    """Whether the file has at most this many lines, if all lines are as long as the first ones."""
    with open_file(file) as stream:
        block = stream.read(_BLOCK)
    return len(block) == file.size or file.size / len(block) * block.count(b"\n") <= lines


def _copy_begin(file: File, out: pa.NativeFile, *, lines: int) -> bool:
    """Copy at most about so many whole lines from the start of a file; returns whether these are all."""
    with open_stream(file) as stream:
        while block := stream.read(_BLOCK):
            lines -= block.count(b"\n")
            if lines < 0:
                out.write(block[: block.rfind(b"\n") + 1])
                return False
            out.write(block)
    return True


def _copy_stretches(file: File, out: pa.NativeFile, *, lines: int) -> None:
    """Copy whole lines from several places of a file. A line belongs to the stretch in which it begins."""
    length = -(-file.size // STRETCHES)
    with open_file(file) as stream:
        for start in range(0, file.size, length):
            if start:
                stream.seek(start - 1)
                _rest_of_line(stream)
            left, end = lines // STRETCHES, min(start + length, file.size)
            while left > 0 and (size := min(_BLOCK, end - stream.tell())) > 0:
                block = stream.read(size)
                if not block.endswith(b"\n"):
                    block += _rest_of_line(stream)
                left -= block.count(b"\n")
                out.write(block)


def _rest_of_line(stream: pa.NativeFile) -> bytes:
    """Read to the end of the line."""
    start, line = stream.tell(), b""
    while b"\n" not in line and (block := stream.read(_BLOCK)):
        line += block
    line = line[: line.find(b"\n") + 1] or line
    stream.seek(start + len(line))
    return line


def _put_parquet(file: File, place: Path, *, rows: int) -> bool:
    with open_file(file) as stream:
        found = pq.ParquetFile(stream, buffer_size=BUFFER_BYTES)
        whole = found.metadata.num_rows <= rows
        if whole and not file.is_remote:
            place.symlink_to(file.path)
            return True
        groups = found.metadata.num_row_groups
        wanted = sorted({round(n * (groups - 1) / (STRETCHES - 1)) for n in range(STRETCHES)}) if groups > 1 else [0]
        wanted = list(range(groups)) if whole else wanted
        with pq.ParquetWriter(place, found.schema_arrow) as out:
            for group in wanted:
                left = found.metadata.num_rows if whole else rows // len(wanted)
                size = min(65_536, max(1, left))
                for batch in found.iter_batches(size, row_groups=[group], use_threads=not file.is_remote):
                    out.write_batch(batch.slice(0, left))
                    left -= batch.num_rows
                    if left <= 0:
                        break
    return whole
