"""What a user types into a search box, brought into one form: the same where tables are built and where queries are answered."""

import re
import unicodedata

MAX_QUERY_CHARACTERS = 200
"""Longer texts are not typed by people who look for a product."""

_MOST_READ = 10 * MAX_QUERY_CHARACTERS
"""Ordering combining marks takes the square of their number: a pasted megabyte of them would take hours."""
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
"""White space, control characters, and halves of surrogate pairs, which no table can hold."""
_SELECTORS = frozenset(map(chr, [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]))
"""Variation selectors: they say how the sign before them is drawn."""
_DOTTED = re.compile("i\u0307+")
"""What case folding makes of İ."""


def normalise_query(text: str) -> str:
    """A query without what does not tell two wishes apart: case, width, ligatures, blanks, signs that nobody sees.

    `folded`; runs of white space and control characters become one blank, and none is left at the ends; at most
    MAX_QUERY_CHARACTERS characters. May be empty. Idempotent; takes any string.

    Args:
      text: as it was typed.
    """
    text = folded(_BLANKS.sub(" ", _visible(text)).strip()[:_MOST_READ])
    # once more, for NFKC makes blanks, too: of a lone accent, say
    return _BLANKS.sub(" ", text).strip()[:MAX_QUERY_CHARACTERS].rstrip()


def folded(text: str) -> str:
    """A text in one case and form: Unicode NFKC and case folding, İ as i, without soft hyphens, zero-width signs, byte order
    marks, variation selectors and the like."""
    text = unicodedata.normalize("NFKC", _visible(text)).casefold()
    # folding takes letters apart that NFKC writes as one
    return unicodedata.normalize("NFKC", _DOTTED.sub("i", text))


def _visible(text: str) -> str:
    unseen = [ord(sign) for sign in set(text) if unicodedata.category(sign) == "Cf" or sign in _SELECTORS]
    return text.translate(dict.fromkeys(unseen)) if unseen else text
