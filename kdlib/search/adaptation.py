"""Pairs of texts that mean the same product. A pretrained encoder learns a shop's language from them before it teaches.

Three kinds of pairs:
- The title and the description of a product.
- A made-up query, which is a few neighbouring words of a title, and the product's text.
- A logged query, and the text of a product that was clicked after it.

The encoder learns to tell a pair from the other pairs of the batch (`kdlib.teachers.contrastive`).

Shapes: P pairs.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from kdlib.data.queries import normalise_query
from kdlib.search.words import some_words

LONGEST = 3
"""Most words of a made-up query."""


def adaptation_pairs(
    titles: Sequence[str],
    descriptions: Sequence[str],
    texts: Sequence[str],
    clicked: Mapping[str, Mapping[int, float]],
    *,
    held_out: int,
    seed: int,
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Distinct texts, training pairs and held-out pairs. A pair is two text numbers.

    About a tenth of the pairs is held out. They are chosen by their left text, so no text is on the left of both a
    training pair and a held-out pair.

    Args:
      titles, descriptions: of each product; empty if the product has none.
      texts: the text of each product that is encoded.
      clicked: query → product number → weight of its clicks.
      held_out: most held-out pairs.
      seed: fixes the made-up queries and the choice of held-out pairs.

    Returns:
      The texts, training pairs int32 [pairs, 2], held-out pairs int32 [held-out pairs, 2].
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
