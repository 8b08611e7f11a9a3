"""Queries made from the catalogue, for a student that has to learn before anyone has searched."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from kdlib.data.queries import normalise_query
from kdlib.search.words import some_words, typed_words

LONGEST = 4
"""Words of a made-up query, at most."""
_LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz"))


def catalogue_queries(
    titles: Sequence[str], descriptions: Sequence[str], categories: Sequence[str], *, limit: int, seed: int
) -> list[str]:
    """Distinct queries that a shopper of these products may type, in a random order.

    All categories, alone and after the title's first word (mostly the brand); all words of two texts or more; and runs of
    two to four neighbouring words of titles and descriptions, up to the limit. Of Chinese, which has no spaces, pairs of
    characters stand for the words, and a run is cut out of the text (`kdlib.search.words.some_words`).

    Args:
      titles, descriptions, categories: of each product; empty where there is none.
      limit: how many, at most.
      seed: fixes which.
    """
    generator = np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    texts: list[str] = []
    fixed: list[str] = []
    for title, description, category in zip(titles, descriptions, categories, strict=True):
        in_title, in_description = typed_words(title), typed_words(description)
        counts.update(list(dict.fromkeys([*in_title, *in_description])))  # in an order that every run has
        texts += [text for text, found in ((title, in_title), (description, in_description)) if len(found) > 1]
        if category:
            fixed += [normalise_query(category), *(f"{in_title[0]} {normalise_query(category)}" for _ in in_title[:1])]
    fixed += [word for word, count in counts.most_common() if count > 1]
    found = dict.fromkeys(query for query in fixed if query)
    for _ in range(4 * limit if texts else 0):
        if len(found) >= limit:
            break
        text = texts[generator.integers(len(texts))]
        found[some_words(text, generator, least=2, most=LONGEST)] = None
    queries = list(found)[:limit]
    return [queries[place] for place in generator.permutation(len(queries))]


def misspelt(query: str, generator: np.random.Generator) -> str:
    """The query with one letter left out, doubled, wrong, or swapped with the next; short queries come back as they are."""
    places = [place for place, sign in enumerate(query) if sign.isascii() and sign.isalpha()]
    if len(places) < 4:
        return query
    place = places[int(generator.integers(1, len(places)))]
    kind = int(generator.integers(4))
    before, sign, after = query[:place], query[place], query[place + 1 :]
    if kind == 0:
        return before + after
    if kind == 1:
        return before + sign + sign + after
    if kind == 2:
        return before + str(generator.choice(_LETTERS)) + after
    return before + after[:1] + sign + after[1:]
