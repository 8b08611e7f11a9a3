"""Made-up queries in languages that the catalogue is not written in."""

from pathlib import Path

import pytest

from kdlib.errors import ConfigError
from kdlib.search import other_languages
from kdlib.search.other_languages import Meanings, check_languages, products_of_words, translated_queries
from tests.search.dictd import write_dictionary

TEXTS = ["Acme laser printer black", "Norvik mouse black", "Acme mouse pad", "Laptop bag 15 black"]
GERMAN = {
    "Drucker": "printer",
    "Buchdrucker": "a printer",
    "Maus": "mouse, clicker",
    "Mauspad": "mouse pad",
    "schwarz": "black",
    "Vogel": "bird",
    "Laptop": "laptop",
}
ENGLISH = {
    "printer": "Drucker, Buchdrucker",
    "mouse": "Maus",
    "mouse pad": "Mauspad",
    "black": "schwarz",
    "bird": "Vogel",
    "laptop": "Laptop, laptop bag",
}


@pytest.mark.parametrize("entries", [GERMAN, ENGLISH], ids=["into English", "from English"])
def test_a_dictionary_counts_in_either_direction(tmp_path: Path, entries: dict[str, str]) -> None:
    """Words mean what the catalogue's words say, the words of most products first. Other words and the same word are left out."""
    pytest.importorskip("wordfreq")
    meanings = Meanings("de", str(write_dictionary(tmp_path, "words", entries)), products_of_words(TEXTS))
    words = meanings.words(limit=10)
    assert words == {
        "schwarz": {"black": 3},
        "maus": {"mouse": 2},
        "drucker": {"printer": 1},
        "mauspad": {"mouse pad": 1},
        "buchdrucker": {"printer": 1},
    }
    assert next(iter(words)) == "schwarz"
    assert list(meanings.words(limit=1)) == ["schwarz"]
    assert meanings.translations() == {"printer": ["drucker", "buchdrucker"], "mouse": ["maus"], "black": ["schwarz"]}


def test_a_language_without_a_list_of_words_keeps_the_dictionarys_order(tmp_path: Path) -> None:
    """wordfreq knows about 40 languages."""
    pytest.importorskip("wordfreq")
    path = write_dictionary(tmp_path, "words", {"printer": "zzyzx, abba, third, fourth"})
    assert Meanings("xx", str(path), products_of_words(["printer"])).translations() == {
        "printer": ["zzyzx", "abba", "third"]
    }


def test_a_query_is_translated_word_by_word() -> None:
    """Words without a translation stay, and queries in which nothing changes are left out."""
    queries = ["acme printer x200", "red mouse", "acme", "mouse red"]
    meanings = {"printer": ["drucker"], "mouse": ["maus", "mäuschen"], "red": ["rot"]}
    found = translated_queries(queries, meanings, language="de", limit=10, seed=1)
    assert found["acme drucker x200"] == "acme printer x200"
    assert {tuple(query.split()) for query in found} <= {
        ("acme", "drucker", "x200"),
        *((color, animal) for color in ("rot",) for animal in ("maus", "mäuschen")),
        *((animal, color) for color in ("rot",) for animal in ("maus", "mäuschen")),
    }
    assert len(found) == 3
    assert found == translated_queries(queries, meanings, language="de", limit=10, seed=1)
    assert len(translated_queries(queries, meanings, language="de", limit=2, seed=1)) == 2


def test_half_of_the_chinese_queries_have_no_blanks() -> None:
    """Shoppers type 无线鼠标, not 无线 鼠标."""
    queries = [f"acme{number} wireless mouse" for number in range(200)]
    meanings = {"wireless": ["无线"], "mouse": ["鼠标"]}
    found = translated_queries(queries, meanings, language="zh", limit=200, seed=1)
    joined = sum(" " not in query for query in found)
    assert 70 < joined < 130
    assert all("无线" in query and "鼠标" in query for query in found)


def test_a_missing_dictionary_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So is a missing package. Without other languages nothing is needed."""
    pytest.importorskip("wordfreq")
    path = str(write_dictionary(tmp_path, "words", GERMAN))
    check_languages({"de": path})
    with pytest.raises(ConfigError, match=r"search\.languages has 'deu': expected a code of two letters"):
        check_languages({"deu": path})
    with pytest.raises(ConfigError, match=r"search\.languages\.de: the dictionary .* has no word for what"):
        Meanings("de", path, products_of_words(["imprimante laser"]))
    with pytest.raises(ConfigError, match="there is no dictionary at /none"):
        check_languages({"de": path, "zh": "/none"})
    monkeypatch.setattr(other_languages, "find_spec", lambda name: None)
    check_languages({})
    with pytest.raises(ConfigError, match="search-multilingual"):
        check_languages({"de": path})
