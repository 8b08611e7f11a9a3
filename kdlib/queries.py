"""What a user types into a search box, brought into one form: the same where tables are built and where queries are answered."""

import re
import unicodedata

MAX_QUERY_CHARACTERS = 200
"""Longer texts are not typed by people who look for a product."""

_MOST_READ = 10 * MAX_QUERY_CHARACTERS
"""Ordering combining marks takes the square of their number: a pasted megabyte of them would take hours."""
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
"""White space, control characters, and halves of surrogate pairs, which no table can hold."""


def normalise_query(text: str) -> str:
    """A query without what does not tell two wishes apart: case, width, ligatures, blanks.

    Unicode NFKC and case folding; runs of white space and control characters become one blank, and none is left at the
    ends; at most MAX_QUERY_CHARACTERS characters. May be empty. Idempotent; takes any string.

    Args:
      text: as it was typed.
    """
    text = _BLANKS.sub(" ", text).strip()[:_MOST_READ]
    text = unicodedata.normalize("NFKC", text).casefold()
    text = unicodedata.normalize("NFKC", text)  # folding takes letters apart that NFKC writes as one
    # once more, for NFKC makes blanks, too: of a lone accent, say
    return _BLANKS.sub(" ", text).strip()[:MAX_QUERY_CHARACTERS].rstrip()
