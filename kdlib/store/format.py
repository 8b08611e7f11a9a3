"""The version of the state on disk: what an output folder is laid out like, so that no program misreads another one's."""

import json
from contextlib import suppress
from pathlib import Path

from kdlib.errors import ConfigError
from kdlib.store.mirror import write_file

FORMAT = 2
"""1: manifests without `made_by`, no file `_format.json`. This program reads both, and makes tables of format 1 again."""
FILE = "_format.json"


def check_format(root: Path) -> None:
    """ConfigError where a newer program has written the output folder. Nothing is changed."""
    found = format_of(root)
    if found is not None and found > FORMAT:
        raise ConfigError(
            f"the outputs in {root} have format {found}, and this version of distilrec knows formats up to {FORMAT}. Use the"
            " version that wrote them, or give another output_dir; nothing was changed"
        )


def format_of(root: Path) -> int | None:
    """The format of an output folder; None for a folder without outputs.

    Raises:
      ConfigError: the file that says so cannot be read.
    """
    try:
        return int(json.loads((root / FILE).read_text())["format"])
    except (FileNotFoundError, NotADirectoryError):
        return 1 if (root / "_versions").is_dir() else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f'{root / FILE} cannot be read ({error}). Expected {{"format": {FORMAT}}}: put the file back from a copy, or write it anew'
        ) from None


def write_format(root: Path) -> None:
    """Note the format of what is written from now on."""
    if format_of(root) != FORMAT:
        with suppress(OSError):  # whatever is wrong with the disk is said where a table is written
            write_file(root / FILE, (json.dumps({"format": FORMAT}) + "\n").encode())
