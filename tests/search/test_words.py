"""Words of texts and queries, and the mending of misspelt ones."""

import pytest

from kdlib.errors import ConfigError
from kdlib.search.catalogue_queries import catalogue_queries, misspelt
from kdlib.search.words import in_first_half, mend, stems, words

FREQUENCIES = {"laptop": 40, "laptops": 5, "headphones": 30, "lamp": 9, "4gb": 7}


def test_words_are_runs_of_letters_and_digits_in_one_case() -> None:
    """Case, width and punctuation make no difference; a number stays one word."""
    assert words('HP  Pavilion-dv7, 17" ＬＥＤ!') == ["hp", "pavilion", "dv7", "17", "led"]
    assert words("") == words("—!?") == []


def test_scripts_without_spaces_give_characters_and_pairs() -> None:
    """Chinese is searched by character and pair of neighbours, beside words of other scripts."""
    assert words("笔记本 usb") == ["笔", "记", "本", "笔记", "记本", "usb"]


def test_stems_join_the_forms_of_a_word() -> None:
    """Singular and plural have one stem; an unknown language names those there are."""
    assert stems(["printers", "printer"], language="english") == ["printer", "printer"]
    with pytest.raises(ConfigError, match=r"no stemmer of 'klingon'; there are .*english"):
        stems(["a"], language="klingon")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("labtop", "laptop"),  # one wrong
        ("latpop", "laptop"),  # swapped
        ("laptopp", "laptop"),  # of two at the same distance the more frequent
        ("headphnoess", "headphones"),  # two errors in a long word
        ("haedphnoess", "haedphnoess"),  # three
        ("maptop", "maptop"),  # the first letter is taken for right
        ("lam", "lam"),  # too short to tell
        ("5gb", "5gb"),  # a number is no misspelling of another
        ("laptop", "laptop"),
    ],
)
def test_a_misspelt_word_becomes_the_nearest_known_one(typed: str, meant: str) -> None:
    """One error, two in long words; what may be right stays as it is."""
    assert mend(typed, FREQUENCIES) == meant


def test_halves_are_fixed() -> None:
    """A query is in the same half for ever, and both halves have about as many."""
    assert [in_first_half(query) for query in ("laptop", "red", "camera")] == [True, True, True]
    assert 400 < sum(in_first_half(f"query {number}") for number in range(1_000)) < 600


def test_catalogue_queries_come_from_the_products_words() -> None:
    """Categories, brand and category, and runs of neighbouring words; distinct, the same for one seed, within the limit."""
    titles, descriptions = ["Acme red trekking boots 42", "Norvik red boots"], ["Sturdy leather boots", ""]
    made = catalogue_queries(titles, descriptions, ["Boots", ""], limit=40, seed=1)
    assert made == catalogue_queries(titles, descriptions, ["Boots", ""], limit=40, seed=1)
    assert len(set(made)) == len(made) <= 40
    assert {"boots", "acme boots", "red", "norvik red boots"} <= set(made)
    assert "boots norvik" not in made
    assert len(catalogue_queries(titles, descriptions, ["Boots", ""], limit=3, seed=1)) == 3
    assert catalogue_queries([], [], [], limit=5, seed=1) == []


def test_a_misspelt_query_differs_by_one_error() -> None:
    """The first letter stays, length changes by one at most, and short queries are left alone."""
    import numpy as np

    generator = np.random.default_rng(1)
    spoilt = {misspelt("headphones", generator) for _ in range(200)}
    assert len(spoilt) > 40
    assert all(one.startswith("h") and abs(len(one) - 10) <= 1 for one in spoilt)
    assert misspelt("usb", generator) == "usb"
    assert misspelt("电脑", generator) == "电脑"
