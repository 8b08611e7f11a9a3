"""Queries made from the catalogue. A student learns from them when no searches have been logged."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from kdlib.data.queries import normalise_query
from kdlib.search.words import some_words, typed_words

LONGEST = 4
"""Most words of a made-up query."""
_LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz"))


def catalogue_queries(
    titles: Sequence[str], descriptions: Sequence[str], categories: Sequence[str], *, limit: int, seed: int
) -> list[str]:
    """Distinct queries that a shopper of these products may type, in random order.

    Three kinds of queries, in this order, up to the limit:
    - All categories, alone and after the title's first word (mostly the brand).
    - All words that occur in at least two texts.
    - Two to four neighbouring words of a title or description.

    In scripts without spaces, pairs of characters take the place of words, and neighbouring words are cut out of the text
    (`kdlib.search.words.some_words`).

    Args:
      titles, descriptions, categories: of each product; empty if the product has none.
      limit: most queries.
      seed: fixes the neighbouring words and the order.
    """
    generator = np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    texts: list[str] = []
    fixed: list[str] = []
    for title, description, category in zip(titles, descriptions, categories, strict=True):
        in_title, in_description = typed_words(title), typed_words(description)
        counts.update(list(dict.fromkeys([*in_title, *in_description])))  # a set would have another order in each run
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
    """The query with one typing error: a letter is missing, doubled, wrong, or swapped with the next letter.

    A query with fewer than four letters a–z comes back unchanged.
    """
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
