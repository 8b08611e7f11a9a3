"""A small dictionary in dictd's format, for tests."""

import gzip
import string
from collections.abc import Mapping
from pathlib import Path

DIGITS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
HEADER = "00-database-short\n     A made-up dictionary"


def write_dictionary(folder: Path, name: str, entries: Mapping[str, str], *, compressed: bool = True) -> Path:
    """Write `NAME.index` and the entries; returns the path of the index.

    Args:
      folder: where to.
      name: of the dictionary.
      entries: first line of an entry → its other lines.
    """
    data, lines = b"", []
    for word, meaning in {HEADER.splitlines()[0]: HEADER.splitlines()[1], **entries}.items():
        entry = f"{word}\n{meaning}\n".encode()
        lines.append(f"{word.split(' /')[0]}\t{_base64(len(data))}\t{_base64(len(entry))}")
        data += entry
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.index").write_text("\n".join(sorted(lines)) + "\n", encoding="utf-8")
    if compressed:
        (folder / f"{name}.dict.dz").write_bytes(gzip.compress(data))
    else:
        (folder / f"{name}.dict").write_bytes(data)
    return folder / f"{name}.index"


def _base64(number: int) -> str:
    digits = DIGITS[number % 64]
    while number := number // 64:
        digits = DIGITS[number % 64] + digits
    return digits
