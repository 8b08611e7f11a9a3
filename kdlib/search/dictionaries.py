"""Bilingual dictionaries in the format of dictd, as FreeDict has them for 140 pairs of languages.

A dictionary is two files. `NAME.index` has a line for each word, with the place and the length of its entry in base 64.
`NAME.dict.dz` (gzip) or `NAME.dict` has the entries. The first line of an entry is the word, and the other lines say what it
means (dictd's manual, "Database format").
"""

import gzip
import hashlib
import re
import string
import zlib
from collections.abc import Iterator
from pathlib import Path

from kdlib.data.queries import normalise_query
from kdlib.errors import ConfigError

MOST_WORDS = 4
"""Most words of a meaning. Longer ones explain, and nobody types them."""
_DIGITS = {sign: number for number, sign in enumerate(string.ascii_uppercase + string.ascii_lowercase + "0123456789+/")}
_ASIDE = re.compile(r"\([^)]*\)|\[[^\]]*\]|<[^>]*>|\{[^}]*\}|(?:^|\s)/[^/]*/|(?:^|\s)\d+\.(?=\s|$)")
"""What stands beside a meaning: grammar, pronunciation, fields of use, numbers of meanings."""
_NO_MEANING = re.compile(
    r"""
    \s{3}                                                       # a line below a meaning
    | \s*["-]                                                   # an example
    | \s*(?:cl|note|see|see\ also|synonyms?|antonyms?):         # labels
    | \s*(?:abbr\.|(?:variant\ of|abbreviation\ of|see\ also)\b)
    | .*(?<!\d)\.\s*$                                           # a sentence
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""A line that is no meaning."""
_END_OF_WORD = re.compile(r"\s+[/<\[(]|\s{2}")


def check_dictionary(path: Path) -> Path:
    """The file of the dictionary's entries. Raises ConfigError where there is no dictionary."""
    found = next((one for one in (path.with_suffix(".dict.dz"), path.with_suffix(".dict")) if one.is_file()), None)
    if not path.is_file() or found is None:
        raise ConfigError(
            f"there is no dictionary at {path}. Expected NAME.index of a dictionary in dictd's format, with NAME.dict.dz or"
            " NAME.dict beside it. Debian has many: `apt install dict-cc-cedict` gives /usr/share/dictd/cc-cedict.index"
        )
    return found


def dictionary_version(path: Path) -> str:
    """A hash of both files. Raises: as `check_dictionary`."""
    found = hashlib.sha256()
    for one in (path, check_dictionary(path)):
        with one.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:12]


def read_dictionary(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Word → what it means, both as `normalise_query` gives them, in the order of the file. Forms of a word are words of their own.

    Args:
      path: the file `NAME.index`.

    Raises:
      ConfigError: the files are not a dictionary.
    """
    found = check_dictionary(path)
    try:
        places = {
            tuple(line.split("\t")[1:3]) for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        }
        data = gzip.decompress(found.read_bytes()) if found.suffix == ".dz" else found.read_bytes()
        for start, length in sorted((_number(place), _number(length)) for place, length in places):
            word, *lines = data[start : start + length].decode("utf-8", errors="replace").splitlines() or [""]
            meanings = list(
                dict.fromkeys(one for line in lines if not _NO_MEANING.match(line) for one in _meanings(line))
            )
            for form in re.split(r"[|]|,\s", _END_OF_WORD.split(word)[0]):
                if meanings and (said := normalise_query(form)) and not said.startswith("00"):
                    yield said, meanings
    except (OSError, EOFError, ValueError, KeyError, zlib.error) as error:
        raise ConfigError(f"{path} is no dictionary in dictd's format: {type(error).__name__}: {error}") from None


def _number(digits: str) -> int:
    number = 0
    for digit in digits:
        number = number * 64 + _DIGITS[digit]
    return number


def _meanings(line: str) -> Iterator[str]:
    for part in re.split(r"[,;]", _ASIDE.sub(" ", line)):
        meaning = normalise_query(part)
        if 0 < len(meaning.split()) <= MOST_WORDS:
            yield meaning
