"""Expected ranking metrics on simulated data, where the true probability of each next item is known.

One observed next item per user is a noisy judge. The expectation over all possible next items removes this noise. The
variation between users remains.

Shapes: U users, K list length.
"""

import numpy as np

PREFIX = "expected_"
"""Prefix of the metrics' names."""


def expected_metrics(probabilities_UK: np.ndarray, ks: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Each metric's expectation by its name (`expected_ndcg@10`): float64 [users].

    It is the sum of probability times gain over the items of the list. A list holds no item that the user has seen, so
    a user who returns to a seen item counts as a miss.

    Args:
      probabilities_UK: true probability of the item at each place of each user's list; 0 after the list's end.
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
