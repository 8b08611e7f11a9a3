"""Bilingual dictionaries in dictd's format."""

from pathlib import Path

import pytest

from kdlib.errors import ConfigError
from kdlib.search.dictionaries import dictionary_version, read_dictionary
from tests.search.dictd import write_dictionary

CHINESE = {"打印機|打印机": "[dǎ yìn jī]\nprinter", "包": "[bāo]\nto wrap\nbag; (bound form) package\nCL:個|个[gè]"}
GERMAN = {
    "Drucker /dɾˈʊkɜ/ <masc, n, sg>": 'print worker <n> [Austr.] , printer <n>\n   Synonyms: {Druckerin}\n "der Drucker" - the printer',
    "Maus /maʊs/": "1. mouse\n 2. a small rodent with a long tail\nnote: {Mäuse}\nsee: {Ratte}",
}
ENGLISH = {
    "laptop //ˈlæp.tɑp// //ˈlæp.tɒp// <n>": "1. ordenador portátil, portátil\n(computing) A laptop computer.",
    "black": "negro, negra 2.\nAbsorbing all light.",
    "24/7, A/C": "synthetic\ndetails: many\nabbr. for something\nnegro a rayas",
}


@pytest.mark.parametrize("compressed", [True, False])
def test_words_and_their_meanings_are_read(tmp_path: Path, compressed: bool) -> None:
    """Both forms of a Chinese word, meanings without articles and grammar. Pronunciation, examples, references and sentences are none."""
    read = {
        name: dict(read_dictionary(write_dictionary(tmp_path, name, entries, compressed=compressed)))
        for name, entries in (("zh", CHINESE), ("de", GERMAN), ("en", ENGLISH))
    }
    assert read["zh"] == {"打印機": ["printer"], "打印机": ["printer"], "包": ["to wrap", "bag", "package"]}
    assert read["de"] == {"drucker": ["print worker", "printer"], "maus": ["mouse"]}
    assert read["en"] == {
        "laptop": ["ordenador portátil", "portátil"],
        "black": ["negro", "negra"],
        "24/7": (more := ["synthetic", "details: many", "negro a rayas"]),
        "a/c": more,
    }


def test_the_version_is_that_of_the_entries(tmp_path: Path) -> None:
    """It changes with the entries only."""
    one, same, other = (
        dictionary_version(write_dictionary(tmp_path, name, entries, compressed=False))
        for name, entries in (("a", CHINESE), ("b", CHINESE), ("c", GERMAN))
    )
    assert one == same != other


def test_what_is_no_dictionary_is_named(tmp_path: Path) -> None:
    """The error names the file, and says what a dictionary is or what is wrong."""
    path = write_dictionary(tmp_path, "zh", CHINESE)
    with pytest.raises(ConfigError, match=r"there is no dictionary at .*none\.index.*apt install dict-cc-cedict"):
        list(read_dictionary(tmp_path / "none.index"))
    for wrong in ("打印机\t??\tA\n", "打印机\n"):
        path.write_text(wrong)
        with pytest.raises(ConfigError, match=r"zh\.index is no dictionary in dictd's format"):
            list(read_dictionary(path))
    write_dictionary(tmp_path, "zh", CHINESE)
    whole = path.with_suffix(".dict.dz").read_bytes()
    path.with_suffix(".dict.dz").write_bytes(whole[:30] + b"\xff\xff\xff" + whole[33:])
    with pytest.raises(ConfigError, match=r"zh\.index is no dictionary in dictd's format"):
        list(read_dictionary(path))
    path.with_suffix(".dict.dz").write_bytes(b"not gzip")
    with pytest.raises(ConfigError, match=r"zh\.index is no dictionary in dictd's format: BadGzipFile"):
        list(read_dictionary(path))
    path.with_suffix(".dict.dz").unlink()
    with pytest.raises(ConfigError, match="there is no dictionary at"):
        dictionary_version(path)
