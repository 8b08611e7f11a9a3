"""Kinds of files that hold no rows for distilrec, by their first bytes. `init` and the stages share the list."""

_WORKBOOK = "Unpack it, or save the sheet as CSV in UTF-8"
_COMPRESSED = "Unpack it, or compress it with gzip"
KINDS = {
    b"PAR1": ("a Parquet file", "Set format: parquet"),
    b"PARE": ("an encrypted Parquet file", "Decrypt it first"),
    b"\x1f\x8b": ("a gzip file without the ending .gz", "Rename it"),
    b"PK\x03\x04": ("a ZIP archive or an Excel workbook", _WORKBOOK),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", _WORKBOOK),
    b"7z\xbc\xaf": ("a 7z archive", "Unpack it"),
    b"\xfd7zXZ": ("a file compressed with xz", _COMPRESSED),
    b"\x28\xb5\x2f\xfd": ("a file compressed with Zstandard", _COMPRESSED),
    b"%PDF": ("a PDF document", "Give the data file"),
    b"ORC": ("an ORC file", "Convert it to Parquet"),
    b"Obj\x01": ("an Avro file", "Convert it to Parquet"),
    b"SQLite format 3": ("an SQLite database", "Export the table as CSV or Parquet"),
    b"\x89PNG": ("a PNG image", "Give the data file"),
    b"\xff\xd8\xff": ("a JPEG image", "Give the data file"),
}
"""First bytes of a file → what it is, and what to do."""


def kind_of(head: bytes) -> tuple[str, str] | None:
    """What a file that begins with these bytes is, and what to do. None: none of `KINDS`."""
    return next((kind for start, kind in KINDS.items() if head.startswith(start)), None)
