"""Made-up queries in languages that the catalogue is not written in."""

import pytest
import torch

from kdlib.errors import ConfigError
from kdlib.search import other_languages
from kdlib.search.other_languages import check_languages, frequent_words, translated_queries, translations


def _two_languages() -> tuple[list[str], torch.Tensor, list[str], torch.Tensor]:
    """40 words and 40 words of another language. The first 30 pairs mean the same, and each language has a vector of its own."""
    generator = torch.Generator().manual_seed(1)
    words, others = torch.randn(40, 256, generator=generator), torch.randn(40, 256, generator=generator)
    others[:30] = words[:30] + 0.3 * others[:30]
    own = 20 * torch.randn(2, 256, generator=generator)
    return [f"w{one}" for one in range(40)], words + own[0], [f"o{one}" for one in range(40)], others + own[1]


def test_a_words_translation_is_the_nearest_word_of_the_other_language() -> None:
    """What all words of a language share does not matter. A word that is near to nothing has no translation, as brands."""
    words, vectors, others, of_others = _two_languages()
    found = translations(words, vectors, others, of_others)
    assert {word: meanings[0] for word, meanings in found.items()} == {f"w{one}": f"o{one}" for one in range(30)}
    assert translations([], vectors[:0], others, of_others) == {}
    assert translations(words, vectors, [], of_others[:0]) == {}


def test_blocks_of_words_give_the_same_translations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words are compared in blocks, and the blocks change nothing."""
    words, vectors, others, of_others = _two_languages()
    whole = translations(words, vectors, others, of_others)
    monkeypatch.setattr(other_languages, "WORDS_AT_A_TIME", 7)
    assert len(whole) == 30
    assert whole == translations(words, vectors, others, of_others)


def test_a_query_is_translated_word_by_word() -> None:
    """Words without a translation stay, and queries in which nothing changes are left out."""
    queries = ["acme printer x200", "red mouse", "acme", "mouse red"]
    meanings = {"printer": ["drucker"], "mouse": ["maus", "mäuschen"], "red": ["rot"]}
    found = translated_queries(queries, meanings, language="de", limit=10, seed=1)
    assert "acme drucker x200" in found
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


def test_frequent_words_are_words() -> None:
    """Numbers and single ASCII letters are left out; single Chinese characters are words."""
    pytest.importorskip("wordfreq")
    chinese, german = frequent_words("zh", limit=3_000), frequent_words("de", limit=3_000)
    assert len(chinese) == len(set(chinese)) == len(german) == 3_000
    assert {"电脑", "手机", "去"} <= set(chinese)
    assert {"computer", "kamera", "über"} <= set(german)
    assert not any(word.isdigit() or (word.isascii() and len(word) == 1) for word in chinese + german)


def test_unknown_languages_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the language and the known ones, or the package to install. No language needs no package."""
    pytest.importorskip("wordfreq")
    check_languages(["zh", "de", "ko"])
    with pytest.raises(
        ConfigError, match=r"search\.languages: there is no list of words for xx, tlh\. Use some of ar, bg"
    ):
        check_languages(["zh", "xx", "tlh"])
    monkeypatch.setattr(other_languages, "find_spec", lambda name: None)
    check_languages([])
    with pytest.raises(ConfigError, match="search-multilingual"):
        check_languages(["zh"])
