"""Brings what a user types into a search box into one form, the same for building tables and for answering queries."""

import re
import unicodedata

MAX_QUERY_CHARACTERS = 200
"""A query is cut at this length: nobody types more to find a product."""

_MOST_READ = 10 * MAX_QUERY_CHARACTERS
"""How much of a text is read. Ordering combining marks takes quadratic time: a pasted megabyte would take hours."""
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
"""White space, control characters, and halves of surrogate pairs, which no table can store."""
_SELECTORS = frozenset(map(chr, [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]))
"""Variation selectors, which say how to draw the character before them."""
_DOTTED = re.compile("i\u0307+")
"""The result of case folding İ."""


def normalise_query(text: str) -> str:
    """A query without differences that have no meaning: case, width, ligatures, blanks, invisible characters.

    The text is `folded`. Runs of white space and control characters become one blank, and none is left at the ends. The
    result has at most MAX_QUERY_CHARACTERS characters and may be empty. The function takes any string and is
    idempotent.

    Args:
      text: as it was typed.
    """
    text = folded(_BLANKS.sub(" ", _visible(text)).strip()[:_MOST_READ])
    # again, because NFKC also makes blanks, for example from a lone accent
    return _BLANKS.sub(" ", text).strip()[:MAX_QUERY_CHARACTERS].rstrip()


def folded(text: str) -> str:
    """A text in one case and form: Unicode NFKC and case folding, with İ as i.

    Invisible characters are removed: soft hyphens, zero-width characters, byte order marks, variation selectors.
    """
    text = unicodedata.normalize("NFKC", _visible(text)).casefold()
    # case folding splits letters that NFKC writes as one
    return unicodedata.normalize("NFKC", _DOTTED.sub("i", text))


def _visible(text: str) -> str:
    unseen = [ord(sign) for sign in set(text) if unicodedata.category(sign) == "Cf" or sign in _SELECTORS]
    return text.translate(dict.fromkeys(unseen)) if unseen else text
