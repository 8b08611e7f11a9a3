"""Pairs of texts that the search teacher is adapted with."""

import numpy as np

from kdlib.search.adaptation import adaptation_pairs

TITLES = [f"red lamp number {number}" for number in range(30)] + ["", "boots"]
DESCRIPTIONS = [f"gives light {number}" for number in range(30)] + ["no title", ""]
TEXTS = [f"{title} {about}".strip() for title, about in zip(TITLES, DESCRIPTIONS, strict=True)]


def found(**more):
    clicked = {"shoes": {31: 3.0, 0: 1.0}}
    return adaptation_pairs(TITLES, DESCRIPTIONS, TEXTS, clicked, held_out=100, seed=1, **more)


def test_pairs_are_titles_and_descriptions_made_up_queries_and_clicks():
    """Each pair means one product; nothing empty, nothing twice, nothing that is its own partner."""
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
    """No left text is on both sides, about a tenth of them judge, and the same seed gives the same pairs."""
    _, learnt, judging = found()
    assert not set(learnt[:, 0]) & set(judging[:, 0])
    assert 0 < len(judging) < len(learnt) / 3
    assert all(np.array_equal(a, b) for a, b in zip(found()[1:], (learnt, judging), strict=True))


def test_a_catalogue_without_words_has_no_pairs():
    """Empty titles and descriptions leave nothing to learn from."""
    texts, learnt, judging = adaptation_pairs(["", ""], ["", "x"], ["", "x"], {}, held_out=5, seed=1)
    assert (texts, learnt.shape, judging.shape) == ([], (0, 2), (0, 2))
