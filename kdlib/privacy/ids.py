"""Find users' ids in texts, as words by themselves, many ids at once."""

import json
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from html import unescape

from kdlib.privacy.pseudonyms import BLANKS

_ALONE = r"(?<!\w)(?<!\w[.@-])"
_AFTER_USER = r"""\b(?:[Uu]ser |user_id[^\w\r\n]{1,6})['"]?"""
"""The text before an id in messages and printed rows."""
FEW = 20
"""So many ids are looked for one by one in large files, such as models: that is faster than cutting the file into runs."""


def is_unmistakable(user_id: str) -> bool:
    """Whether no item, number or word can have this spelling.

    True for a mail address, and for at least 16 characters with a digit and a letter, as pseudonyms and UUIDs have.
    """
    if re.fullmatch(r"\S+@\S+\.\S{2,}", user_id):
        return True
    return len(user_id) >= 16 and any(map(str.isdigit, user_id)) and any(map(str.isalpha, user_id))


class Ids:
    """Ids of users to look for. A thousand take hardly longer than one.

    The key of an id is its longest run of ASCII letters, digits and underscores. Where the id is a word by itself, its
    key is such a run of the text, too. So only ids whose key is a run of the text are looked for with a pattern.
    """

    def __init__(self, user_ids: Iterable[str]) -> None:
        self.ids = frozenset(user_ids)
        self._by_key: dict[bytes, set[str]] = {}
        for user_id in self.ids:
            for form in _forms(user_id):
                runs = re.findall(rb"[A-Za-z0-9_]+", form.encode())
                self._by_key.setdefault(max(runs, key=len, default=b"").lower(), set()).add(user_id)
        shortest = min((len(key) for key in self._by_key if key), default=1)
        self._runs = re.compile(rb"[A-Za-z0-9_]{%d,}" % shortest)

    def unmistakable(self) -> "Ids":
        """Those ids that cannot be anything else."""
        return Ids(filter(is_unmistakable, self.ids))

    def may_stand_in(self, text: bytes) -> list[str]:
        """The ids that a text can hold. It may be large, and may be no UTF-8."""
        keys = {run[0].lower() for run in self._runs.finditer(text)} & self._by_key.keys()
        keys |= {b""} & self._by_key.keys()  # without any such character
        return [user_id for key in keys for user_id in self._by_key[key]]

    def are_among(self, values: Iterable[object]) -> bool:
        """Whether one of the values is an id, without blanks around it."""
        return any(isinstance(value, str) and value.strip(BLANKS) in self.ids for value in values)

    def stand_in(self, text: bytes) -> bool:
        """Whether a text has one of the ids as a word by itself."""
        found = self.may_stand_in(text)
        return bool(found) and _any_word(found, text.decode(errors="replace"))

    def are_in_file(self, data: bytes) -> bool:
        """Whether a file that may be no text has one of the ids, plain or as JSON writes it, as a word by itself."""
        found = self.ids if len(self.ids) <= FEW else self.may_stand_in(data)
        found = [one for one in found if any(form.encode() in data for form in {one, _in_json(one)})]
        return bool(found) and _any_word(found, data.decode(errors="replace"))

    def are_named_in(self, line: bytes) -> bool:
        """Whether a line of a log names one of the ids."""
        found = self.may_stand_in(line)
        if not found:
            return False
        text = line.decode(errors="replace")
        return any(_word(one, _ALONE if is_unmistakable(one) else _AFTER_USER).search(text) for one in found)

    def are_shown_in(self, page: bytes) -> bool:
        """Whether a report shows one of the ids, under the heading that `kdlib.report.people` writes."""
        names = re.findall(r"<h3>User ([^<]*)</h3>", page.decode(errors="replace"))
        return any(unescape(name) in self.ids for name in names)


def _any_word(user_ids: Iterable[str], text: str) -> bool:
    return any(_word(user_id).search(text) for user_id in user_ids)


def _in_json(user_id: str) -> str:
    return json.dumps(user_id)[1:-1]


def _forms(user_id: str) -> Iterator[str]:
    """An id, plain and as CSV and JSON write it."""
    yield from (user_id, user_id.replace('"', '""'), _in_json(user_id))


@lru_cache(maxsize=10_000)
def _word(user_id: str, before: str = _ALONE) -> re.Pattern[str]:
    """A pattern for the id as a word by itself, in any of its forms.

    `12` is no word by itself in `2012`, `12.5` or `a-12`.
    """
    plain, in_csv, in_json = map(re.escape, _forms(user_id))
    in_json = re.sub(r"(?<=\\u)[0-9a-f]{4}", r"(?i:\g<0>)", in_json)
    return re.compile(rf"{before}(?:{plain}|{in_csv}|{in_json})(?![.@-]?\w)")
