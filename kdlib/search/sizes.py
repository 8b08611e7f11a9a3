"""Sizes and model numbers in one spelling: `15,6"` is `15.6inch`, `16 GB` is `16gb`, `TN-2110` is also `tn2110`."""

import re

from kdlib.data.queries import folded

_SAME = {
    "inch": ('"', "''", "′′", "”", "inches", "zoll", "英寸", "吋", "インチ", "인치"),
    "w": ("watt", "watts"),
    "v": ("volt", "volts"),
    "mp": ("megapixel", "megapixels"),
}
_NAMES = (
    "kb",
    "mb",
    "gb",
    "tb",
    "hz",
    "khz",
    "mhz",
    "ghz",
    "w",
    "kw",
    "wh",
    "v",
    "mah",
    "mp",
    "mm",
    "cm",
    "kg",
    "ml",
    "inch",
)
UNITS = {unit: unit for unit in _NAMES}
"""Units that say nothing else, and their other names. For example m, g and l are missing: they are parts of model names."""
UNITS |= {other: unit for unit, others in _SAME.items() for other in others}
_UNIT = "|".join(map(re.escape, sorted(UNITS, key=len, reverse=True)))
_SIZE = re.compile(rf"(?<![a-z\d_.,])(\d+)(?:[.,](\d+))?[ -]?({_UNIT})(?![a-z\d])")
_MODEL = re.compile(r"(?<![\w-])([a-z]+)-(\d{3,})(?![\w-])")
_MIXED = re.compile(r"(?<!\w)(?:([a-z]+)(\d{3,})|(\d{3,})([a-z]+))(?!\w)")


def split_sizes(text: str) -> tuple[str, list[str]]:
    """A text without its sizes, and further words for the lexical index.

    - A number with a unit gives its whole number, and the number with the unit as one word: `15,6"` gives `15` and
      `15.6inch`. The index gets about as many words as without this spelling, so products with many sizes do not lose.
    - Letters and a number of at least three digits, with or without a hyphen between them, give both the joined word and
      its parts: `305xl` gives `305` and `xl`.

    Args:
      text: any.

    Returns:
      The text in one case (`kdlib.data.queries.folded`), and the words that it does not hold itself.
    """
    text, found = folded(text), []

    def taken(size: re.Match[str]) -> str:
        whole, decimals, unit = size.groups()
        decimals = (decimals or "").rstrip("0")
        found.extend((whole, whole + (f".{decimals}" if decimals else "") + UNITS[unit]))
        return " "

    text = _SIZE.sub(taken, text)
    for pattern in (_MODEL, _MIXED):
        for model in pattern.finditer(text):
            parts = [part for part in model.groups() if part]
            found += ["".join(parts)] if pattern is _MODEL else parts
    return text, found
