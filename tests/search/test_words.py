"""Words of texts and queries, and the correction of misspelt words."""

import numpy as np
import pytest

from kdlib.errors import ConfigError
from kdlib.search.words import in_first_half, mend, replace_words, some_words, stems, typed_words, words

FREQUENCIES = {"laptop": 40, "laptops": 5, "headphones": 30, "lamp": 9, "4gb": 7}


def test_words_are_runs_of_letters_and_digits_in_one_case() -> None:
    """Case, width and punctuation make no difference; a number stays one word."""
    assert words('HP  Pavilion-dv7, 17" ＬＥＤ!') == ["hp", "pavilion", "dv7", "17", "led"]
    assert words("") == words("—!?") == []


def test_a_word_goes_on_with_its_marks_and_has_no_hidden_signs() -> None:
    """Vowel signs of Hindi and Thai stay in their word, İ becomes i, and a soft hyphen is removed."""
    assert words("हिन्दी किताब") == typed_words("हिन्दी किताब") == ["हिन्दी", "किताब"]
    assert words("เสื้อยืด") == ["เสื้อยืด"]
    assert words("DİZÜSTÜ") == words("dizüstü")
    assert words("Wasch\u00admaschine™\ufe0f") == ["waschmaschinetm"]
    assert words("\u0301") == words("\u0301\u0e49") == []
    assert replace_words("हिन्दी, x", lambda word: f"[{word}]") == "[हिन्दी], [x]"
    some = some_words("हिन्दी किताब", np.random.default_rng(1), least=2, most=2)
    assert some == "हिन्दी किताब"


def test_scripts_without_spaces_give_characters_and_pairs() -> None:
    """Chinese gives characters and pairs of neighbours, and words of other scripts stay whole."""
    assert words("笔记本 usb") == ["笔", "记", "本", "笔记", "记本", "usb"]


def test_stems_join_the_forms_of_a_word() -> None:
    """Singular and plural have the same stem, and the error for an unknown language names the known ones."""
    assert stems(["printers", "printer"], language="english") == ["printer", "printer"]
    with pytest.raises(ConfigError, match=r"search.language: no stemmer for 'klingon'.*english"):
        stems(["a"], language="klingon")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("labtop", "laptop"),  # one wrong letter
        ("latpop", "laptop"),  # swapped letters
        ("laptopp", "laptop"),  # the more frequent of two at the same distance
        ("headphnoess", "headphones"),  # two errors in a long word
        ("haedphnoess", "haedphnoess"),  # three errors
        ("maptop", "maptop"),  # the first letter counts as right
        ("lam", "lam"),  # too short
        ("5gb", "5gb"),  # words with digits stay
        ("laptop", "laptop"),
    ],
)
def test_a_misspelt_word_becomes_the_nearest_known_one(typed: str, meant: str) -> None:
    """A word with one error, or a long word with two, is corrected, and other words stay."""
    assert mend(typed, FREQUENCIES) == meant


def test_halves_are_fixed() -> None:
    """A query never changes its half, and both halves have about the same size."""
    assert [in_first_half(query) for query in ("laptop", "red", "camera")] == [True, True, True]
    assert 400 < sum(in_first_half(f"query {number}") for number in range(1_000)) < 600
