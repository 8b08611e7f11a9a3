"""Check the first bytes of the input's files, so that an error names a wrong file before Spark reads it.

Spark would read a picture as a line of text, and a Parquet file as a CSV with an odd header.
"""

from pathlib import Path

from kdlib.errors import InputError
from kdlib.onboarding.kinds import kind_of
from kdlib.store.remote_files import is_object, open_remote

File = tuple[str, int, int | str]
"""Path or URL, bytes, time of the last change in nanoseconds; of a file in an object store its tag."""

_HEAD_BYTES = 4096
_MOST_HEADS = 10_000
"""How many files are opened on this machine."""
_MOST_REMOTE_HEADS = 20
"""How many files are opened in an object store, where each takes a request."""
_GZIP = b"\x1f\x8b"
_OTHER_COMPRESSION = (".bz2", ".zst", ".lz4", ".snappy", ".deflate", ".xz")
_EXPECTED = {"csv": "CSV text", "jsonl": "a JSON object on each line", "sequences": "lines of ids"}


def check_files(files: list[File], format_: str, *, path: str) -> None:
    """Check sizes, and the first bytes of local files and of some files in an object store.

    Args:
      files: the files to read.
      format_: parquet, csv, jsonl or sequences.
      path: path of the input, for the error's text.

    Raises:
      InputError: all files are empty. A Parquet or gzip file is empty: Spark would skip this broken export. A file cannot
        be read, or is of another kind than the format says.
    """
    empty = [name for name, size, _ in files if not size and (format_ == "parquet" or name.endswith(".gz"))]
    if empty:
        raise InputError(f"{empty[0]} has no bytes: is the export whole? Replace it or take it out of the input")
    if not any(size for _, size, _ in files):
        raise InputError(
            f"{path} is empty: no file has any bytes. Check that it is the right file and that the export has run"
        )
    plain = [(name, size) for name, size, _ in files if size and not name.endswith(_OTHER_COMPRESSION)]
    local = [one for one in plain if Path(one[0]).is_absolute()]
    remote = [one for one in plain if is_object(one[0])]
    step = -(-len(remote) // _MOST_REMOTE_HEADS) or 1
    for name, size in local[:_MOST_HEADS] + remote[::-1][::step]:
        _check_content(name, size, format_)


def _check_content(name: str, size: int, format_: str) -> None:
    try:
        with open_remote(name, size) if is_object(name) else open(name, "rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        raise unreadable(name, error) from None
    if format_ == "parquet":
        if not head.startswith((b"PAR1", b"PARE")):
            what, hint = _kind(head) or ("text", "Set format: csv or jsonl")
            raise InputError(f"{name} is not a Parquet file but {what}. {hint}, or take it out of the input")
        return
    if name.endswith(".gz"):
        if not head.startswith(_GZIP):
            raise InputError(
                f"{name} is not compressed, though its name ends in .gz. Rename it, or take it out of the input"
            )
        return
    if kind := _kind(head):
        raise InputError(
            f"{name} is {kind[0]}: format {format_} expects {_EXPECTED[format_]}. {kind[1]}, or take it out of the input"
        )
    if format_ == "jsonl" and head.lstrip().startswith(b"["):
        raise InputError(
            f"{name} is one JSON list: format jsonl expects {_EXPECTED[format_]}. Write it without the list, for example"
            f" with `jq -c '.[]' {name}`"
        )


def _kind(head: bytes) -> tuple[str, str] | None:
    """What a file that begins with these bytes is, and what to do; None for text."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "text in UTF-16", "Save it as UTF-8"
    return kind_of(head) or (("a binary file", "Check the path") if b"\0" in head else None)


def check_no_table(path: str, files: list[File]) -> None:
    """Raise InputError for the folder of a Delta Lake or Iceberg table, which may hold rows that the table has deleted."""
    names = [name for name, _, _ in files]
    metadata = any(name.endswith(".metadata.json") and "/metadata/" in name for name in names)
    delta = any("/_delta_log/" in name for name in names) or Path(path, "_delta_log").is_dir()
    if delta or metadata:
        table, format_ = ("a Delta Lake", "delta") if delta else ("an Iceberg", "iceberg")
        raise InputError(
            f"{path} is {table} table, and its folder may hold rows that the table no longer has. Set format: {format_}"
        )


def unreadable(name: str, error: OSError) -> InputError:
    """The error for a file that this machine cannot read."""
    return InputError(
        f"cannot read {name}: {error.strerror or error}. Check its permissions, or take it out of the input"
    )
