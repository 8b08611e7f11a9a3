"""The one form of queries: by examples, and by laws for every string."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kdlib.data.queries import MAX_QUERY_CHARACTERS, normalise_query


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("Trekking  Backpack", "trekking backpack"),
        ("\t rain\u00a0JACKET \r\n", "rain jacket"),
        ("ＮＯＲＶＩＫ　boots", "norvik boots"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("ﬁsh kettle", "fish kettle"),
        ("cafe\u0301", "café"),
        ("℡ stand", "tel stand"),
        ("lamp\x00\x07desk\x9f", "lamp desk"),
        ("\u2028pan\u3000\u2003knife", "pan knife"),
        ("İstanbul", "istanbul"),
        ("DİZÜSTÜ", "dizüstü"),
        ("\ufefflap\u00ad\u200btop\u200e", "laptop"),
        ("lamp \u200b desk", "lamp desk"),
        ("\u0646\u0645\u06cc\u200c\u062e", "\u0646\u0645\u06cc\u062e"),
        ("™\ufe0f", "tm"),
        ("boots\ud83d", "boots"),
        ("🥾 boots", "🥾 boots"),
        ("´tent", "\u0301tent"),
        ("", ""),
        (" \x00\t", ""),
    ],
)
def test_what_tells_no_two_wishes_apart_is_gone(typed, wanted):
    """Case, width, ligatures, composition, invisible characters, runs of blanks and control characters make no
    difference. Half a surrogate pair is a blank."""
    assert normalise_query(typed) == wanted


def test_a_long_text_is_cut_at_a_character():
    """200 characters stay, without a blank at the cut. A character beyond the first plane is never cut in two."""
    assert normalise_query("🥾" * 300) == "🥾" * MAX_QUERY_CHARACTERS
    assert normalise_query("a" * 199 + " b") == "a" * 199
    assert normalise_query(" " * 10_000 + "Tent") == "tent"


def test_a_megabyte_of_combining_marks_is_read_at_once():
    """Ordering them takes quadratic time, so most are cut off before."""
    assert len(normalise_query("a" + "\u0301\u0316" * 500_000)) == MAX_QUERY_CHARACTERS


@given(st.text(alphabet=st.characters(), max_size=400))
@example("\u0345\u0301")
@example("´" * 200)
@example("\u01f0")
@example("\ufdfa" * 30)
@example("\ud800\udc00")
@example("I\u0334\u0307\u0307\u0301")
@example("i\u00ad\u0307 \u200b´")
def test_every_string_has_one_form(typed):
    """Normalising again changes nothing.

    The form is short, in NFKC, and can be stored. It has no blank at its ends, no two blanks together and no invisible
    characters.
    """
    query = normalise_query(typed)
    assert normalise_query(query) == query
    assert len(query) <= MAX_QUERY_CHARACTERS
    assert query == " ".join(query.split())
    assert unicodedata.is_normalized("NFKC", query)
    assert "Cf" not in map(unicodedata.category, query)
    query.encode()
