"""Ranking metrics in expectation, where the true probability of each next item is known: on simulated data.

One realised item a user is a weak judge. The expectation over all items that the user might have turned to takes that
noise away; what is left is the difference between users.
"""

import numpy as np

PREFIX = "expected_"
"""Of the names under which the metrics are reported."""


def expected_metrics(probabilities_UK: np.ndarray, ks: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Each metric's expectation by the name it is reported under (`expected_ndcg@10`), float64 [users].

    The sum, over the list's items, of the item's probability times its gain at that rank. A list holds no item that the
    user has seen, so a user who returns to such an item counts as a miss.

    Args:
      probabilities_UK: the true probability of the item at each place of each user's list; 0 where the list has ended.
      ks: list lengths, at most K.
    """
    upto_UK = probabilities_UK.cumsum(axis=1)
    ranks_K = np.arange(probabilities_UK.shape[1])
    gained_UK = (probabilities_UK / np.log2(ranks_K + 2)).cumsum(axis=1)
    reciprocal_UK = (probabilities_UK / (ranks_K + 1)).cumsum(axis=1)
    values = {f"{PREFIX}accuracy@1": upto_UK[:, 0]}
    for k in ks:
        values |= {
            f"{PREFIX}hr@{k}": upto_UK[:, k - 1],
            f"{PREFIX}ndcg@{k}": gained_UK[:, k - 1],
            f"{PREFIX}mrr@{k}": reciprocal_UK[:, k - 1],
        }
    return values
