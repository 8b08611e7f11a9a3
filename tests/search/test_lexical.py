"""BM25 over the products' texts, and the correction of a whole query."""

import json
import tracemalloc
from pathlib import Path

import bm25s
import numpy as np
import pytest

from kdlib.search.lexical import K1, B, build_lexical, load_lexical
from kdlib.search.words import stems, words

TEXTS = [
    *(f"Zentava boots {number}" for number in range(3)),
    "Zentavo waterproof lamp",
    "laptop 15",
    "Laptops 16, laptop bag",
    "laptop 17 laptop",
    "",
    "笔记本电脑 laptop",
    "—",
]


def no_word(word: str) -> bool:
    return False


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("zentavo lamp", "zentavo lamp"),  # one product has this word, three have a similar word
        ("zentavi lamp", "zentava lamp"),  # the rare word is as near, but no word is corrected to it
        ("waterprof", "waterprof"),
        ("labtop 笔记本电脑", "laptop 笔记本电脑"),
        ("labtop笔记本", "laptop笔记本"),
        ("c++ labtop", "c++ laptop"),
        ("3.5 mm labtop stand", "3.5 mm laptop stand"),
        ("labtop-sleeve, lapptop_bag", "laptop-sleeve, laptop_bag"),
        ("laptop", "laptop"),
        ("", ""),
    ],
)
def test_a_misspelt_word_is_mended_in_its_place_and_nothing_else_changes(typed: str, meant: str) -> None:
    """A word of any product is right, words are corrected only to words of several products, and other text stays."""
    assert build_lexical(TEXTS, language="english").mended(typed, no_word) == meant


def test_a_word_that_the_teacher_knows_is_left_alone() -> None:
    """A word that the teacher knows is right although no product has it."""
    assert build_lexical(TEXTS, language="english").mended("labtop", lambda word: word == "labtop") == "labtop"


def test_a_form_of_a_word_that_products_have_is_left_alone() -> None:
    """'leashes' is the plural of a word of the catalogue, not a misspelling of 'lashes'."""
    texts = ["Dog leash nylon", *["Silk false lashes"] * 3]
    assert build_lexical(texts, language="english").mended("dog leashes lahses", no_word) == "dog leashes lashes"


def test_scores_are_measured_by_the_best_allowed_product() -> None:
    """The best allowed product has score 1, and other products have score 0."""
    index = build_lexical(TEXTS, language="english")
    everything = index.scores("laptop bag")
    allowed = np.arange(len(TEXTS)) != everything.argmax()
    found = index.scores("laptop bag", allowed)
    assert found.max() == 1 > found[everything.argmax()] == 0
    np.testing.assert_allclose(found[allowed], everything[allowed] / everything[allowed].max(), rtol=1e-6)
    assert not index.scores("bag", allowed).any()


def test_a_kept_index_answers_as_before(tmp_path: Path) -> None:
    """A saved and loaded index gives the same scores and corrections."""
    made = build_lexical(TEXTS, language="english")
    made.save(tmp_path)
    kept = load_lexical(tmp_path)
    assert np.array_equal(kept.scores("laptop bag"), made.scores("laptop bag"))
    assert kept.mended("zentavo labtop", no_word) == "zentavo laptop"


def test_an_index_that_lists_frequent_words_alone_is_read(tmp_path: Path) -> None:
    """Older indexes list only frequent words. They still answer, and know a rare word by its stem."""
    build_lexical(TEXTS, language="english").save(tmp_path)
    facts = json.loads((tmp_path / "words.json").read_text())
    facts["frequencies"] = {word: count for word, count in facts["frequencies"].items() if count >= 3}
    (tmp_path / "words.json").write_text(json.dumps(facts))
    old = load_lexical(tmp_path)
    assert old.mended("c++ labtop", no_word) == "c++ laptop"
    assert old.mended("zentavo", no_word) == "zentavo"
    assert old.mended("zentavi", no_word) == "zentava"
    assert old.scores("zentavo").argmax() == 3


def test_scores_are_those_of_the_stems_as_text() -> None:
    """Numbers in place of words do not change any score, and a text without words has score 0."""
    plain = bm25s.BM25(k1=K1, b=B, method="lucene")
    plain.index([stems(words(text), language="english") or ["\0"] for text in TEXTS], show_progress=False)
    index = build_lexical(TEXTS, language="english")
    for query in ("laptop", "zentava boots", "laptops bag 16 lamp", "笔记本", "zentavo 电脑 laptop laptop"):
        known = stems(words(query), language="english")
        expected = np.asarray(plain.get_scores(known), np.float32)
        found = index.scores(query)
        assert found.dtype == np.float32
        assert np.array_equal(found, expected / max(float(expected.max()), 1e-9))
        assert found[7] == found[9] == 0
    assert not index.scores("sofa").any()


def test_memory_is_that_of_numbers() -> None:
    """Each distinct word is kept once and texts hold only numbers, so memory is small."""
    generator = np.random.default_rng(1)
    names = ["".join(chr(ord("a") + int(digit)) for digit in f"{number:04}") for number in range(2_000)]
    texts = [" ".join(names[number] for number in row) for row in generator.integers(2_000, size=(400, 250))]
    tracemalloc.start()
    build_lexical(texts, language="english")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak / (400 * 250) < 60  # bytes per word, mostly of bm25s itself; with words as text it was 126


@pytest.mark.parametrize(
    ("query", "best"),
    [("laptop 15.6 inch", 0), ('laptop 17"', 1), ("16gb memory", 2), ("1 tb disk", 3), ("tn2110", 4), ("hp 305 xl", 5)],
)
def test_a_size_is_found_in_any_spelling(query: str, best: int) -> None:
    """The product with the same size or model number comes first, however both are written."""
    texts = [
        'Laptop 39.6 cm (15,6")',
        "Laptop, 17.0 inches, 1.5 kg",
        "Memory 16 GB, pack of 4",
        "Disk 1TB",
        "Toner TN-2110",
        "HP 305XL ink",
        "Laptop 15 bag",
        "Memory 4 GB, pack of 16",
        "Disk 100 GB",
        "Toner TN-2120",
        "HP 305 ink",
    ]
    assert build_lexical(texts, language="english").scores(query).argmax() == best


NEGATED = [
    "Laptop with camera",
    "Laptop without camera",
    "Laptop",
    "Fridge, no frost",
    "Fridge with frost",
    "Camera bag",
]


@pytest.mark.parametrize(
    ("query", "wanted", "negated"),
    [
        ("laptop without camera", "laptop", ["camera"]),
        ("laptop without dvd drive no camera", "laptop", ["dvd drive", "camera"]),
        ("no frost fridge", "fridge", ["frost"]),
        ("no frost", "no frost", []),
        ("no - frost fridge", "no - frost fridge", []),
        ("laptop without", "laptop without", []),
        ("nokia", "nokia", []),
        ("", "", []),
    ],
)
def test_a_negation_splits_a_query(query: str, wanted: str, negated: list[str]) -> None:
    """Words after a negation are negated; a query of negated words alone is searched as it is."""
    assert build_lexical(NEGATED, language="english").wanted(query) == (wanted, negated)


def test_a_product_with_a_negated_word_comes_after_the_others() -> None:
    """A product with the word loses 1, unless its text negates the word too; another language has other negations."""
    index = build_lexical(NEGATED, language="english")
    found = index.scores("laptop without camera")
    assert found.argmax() == 1
    assert 0 < found[2] < 1
    assert found[0] == pytest.approx(index.scores("laptop")[0] * found[2] / index.scores("laptop")[2] - 1)
    assert found[5] == -1
    assert index.scores("no frost fridge")[3:5].tolist() == pytest.approx([1.0, index.scores("no frost fridge")[4]])
    assert index.scores("no frost fridge")[4] < 0
    assert build_lexical(NEGATED, language="german").wanted("laptop ohne kamera") == ("laptop", ["kamera"])
    assert build_lexical(NEGATED, language="german").wanted("laptop no camera") == ("laptop no camera", [])
