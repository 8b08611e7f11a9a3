"""What a pretrained encoder can learn of a shop's language before it teaches: pairs of texts that mean the same product.

Title and description of a product; a run of a product's own words, as someone would type it, and the product; and where
searches are logged, a query and the product that was clicked after it. The encoder learns to tell each pair from the
batch's others (`kdlib.teachers.contrastive`).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from kdlib.data.queries import normalise_query
from kdlib.search.words import some_words

LONGEST = 3
"""Words of a made-up query, at most."""


def adaptation_pairs(
    titles: Sequence[str],
    descriptions: Sequence[str],
    texts: Sequence[str],
    clicked: Mapping[str, Mapping[int, float]],
    *,
    held_out: int,
    seed: int,
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Distinct texts, the pairs to learn from and those to judge by, as numbers of texts.

    A tenth of the pairs, at most `held_out` of them, judge; they are drawn by their left text, so that no text on
    the left of a judging pair stands on the left of one that is learnt from.

    Args:
      titles, descriptions: of each product; empty where there is none.
      texts: what is encoded of each product.
      clicked: query → product number → weight of its clicks.
      held_out: most judging pairs.
      seed: fixes the made-up queries and which pairs judge.

    Returns:
      the texts; int32 [pairs, 2]; int32 [judging pairs, 2].
    """
    generator = np.random.default_rng(seed)
    pairs: list[tuple[str, str]] = []
    for title, description, text in zip(titles, descriptions, texts, strict=True):
        if title and description:
            pairs.append((title, description))
        if query := some_words(title, generator, least=1, most=LONGEST):
            pairs.append((normalise_query(query), text))
    pairs += [(query, texts[product]) for query, products in clicked.items() for product in products]
    pairs = [pair for pair in dict.fromkeys(pairs) if pair[0] and pair[1] and pair[0] != pair[1]]
    numbers: dict[str, int] = {}
    numbered = [[numbers.setdefault(text, len(numbers)) for text in pair] for pair in pairs]
    numbered_P2 = np.array(numbered, np.int32).reshape(-1, 2)
    left = generator.permutation(np.unique(numbered_P2[:, 0]))
    judges_P = np.isin(numbered_P2[:, 0], left[: min(held_out, len(left) // 10)])
    return list(numbers), numbered_P2[~judges_P], numbered_P2[judges_P][:held_out]
