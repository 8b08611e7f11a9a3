"""Pairs of texts for the adaptation of the search teacher."""

import numpy as np

from kdlib.data.queries import normalise_query
from kdlib.search.adaptation import adaptation_pairs

TITLES = [f"red lamp number {number}" for number in range(30)] + ["", "boots"]
DESCRIPTIONS = [f"gives light {number}" for number in range(30)] + ["no title", ""]
TEXTS = [f"{title} {about}".strip() for title, about in zip(TITLES, DESCRIPTIONS, strict=True)]


def found(**more):
    clicked = {"shoes": {31: 3.0, 0: 1.0}}
    return adaptation_pairs(TITLES, DESCRIPTIONS, TEXTS, clicked, held_out=100, seed=1, **more)


def test_pairs_are_titles_and_descriptions_made_up_queries_and_clicks():
    """Each pair means one product, and no pair is empty, repeated or twice the same text."""
    texts, learnt, judging = found()
    assert len(set(texts)) == len(texts)
    pairs = {(texts[a], texts[b]) for a, b in np.concatenate([learnt, judging])}
    assert len(pairs) == len(learnt) + len(judging)
    assert all(a and b and a != b for a, b in pairs)
    assert {("red lamp number 3", "gives light 3"), ("shoes", "boots"), ("shoes", TEXTS[0])} <= pairs
    made_up = [(a, b) for a, b in pairs if b in TEXTS and a != "shoes"]
    assert made_up
    for query, text in made_up:
        assert f" {query} " in f" {text} "
        assert len(query.split()) <= 3


def test_what_judges_is_not_learnt_from():
    """No left text is in both training and held-out pairs, and the same seed gives the same pairs."""
    _, learnt, judging = found()
    assert not set(learnt[:, 0]) & set(judging[:, 0])
    assert 0 < len(judging) < len(learnt) / 3
    assert all(np.array_equal(a, b) for a, b in zip(found()[1:], (learnt, judging), strict=True))


def test_a_catalogue_without_words_has_no_pairs():
    """Empty titles and descriptions give no pairs."""
    texts, learnt, judging = adaptation_pairs(["", ""], ["", "x"], ["", "x"], {}, held_out=5, seed=1)
    assert (texts, learnt.shape, judging.shape) == ([], (0, 2), (0, 2))


def test_pairs_of_a_catalogue_with_spaces_between_words_are_fixed():
    """The pairs do not change, so a benchmark's training data can be made again."""
    titles = [
        "Acme red trekking boots, size 42",
        "Norvik Café-table (oak) 1.5 m",
        "Acme lamp",
        "",
        "USB-C cable 2m",
        "red boots",
        "Boots",
    ]
    descriptions = ["Sturdy boots for long walks & snow.", "", "Gives light; red, dimmable", "no title", "", "", ""]
    products = [f"{title} {about}".strip() for title, about in zip(titles, descriptions, strict=True)]
    texts, learnt, _ = adaptation_pairs(titles, descriptions, products, {"shoes": {0: 2.0}}, held_out=5, seed=3)
    assert [(texts[a], texts[b]) for a, b in learnt] == [
        ("Acme red trekking boots, size 42", "Sturdy boots for long walks & snow."),
        ("acme red trekking", "Acme red trekking boots, size 42 Sturdy boots for long walks & snow."),
        ("café", "Norvik Café-table (oak) 1.5 m"),
        ("Acme lamp", "Gives light; red, dimmable"),
        ("lamp", "Acme lamp Gives light; red, dimmable"),
        ("c cable 2m", "USB-C cable 2m"),
        ("red", "red boots"),
        ("boots", "Boots"),
        ("shoes", "Acme red trekking boots, size 42 Sturdy boots for long walks & snow."),
    ]


def test_a_made_up_query_of_a_script_without_spaces_is_cut_out_of_the_title():
    """A query is two to six neighbouring characters of the title."""
    titles = [f"华为笔记本电脑第{sign}款 轻薄" for sign in "一二三四五六七八九十"]
    texts, learnt, judging = adaptation_pairs(
        titles, [""] * 10, [f"电脑 {one}" for one in titles], {}, held_out=0, seed=1
    )
    assert len(learnt) == 10
    assert not len(judging)
    for query, product in learnt:
        assert texts[query] in normalise_query(texts[product]).removeprefix("电脑 ")
        assert 2 <= len(texts[query].replace(" ", "")) <= 6
