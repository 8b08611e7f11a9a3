"""Weights of training positions: by the type of the target's event, and by whether the target opens a session.

A position's *kind* is its target's event type and whether the target opens a session. All weights are functions of the kind.

Shapes: E event types, K = 2 · E kinds.
"""

from collections.abc import Sequence

import numpy as np

from kdlib.data.batches import WindowStore
from kdlib.store.tables import CONTEXT, EVENT_TYPES

KINDS = 2 * len(EVENT_TYPES)
_NEW_SESSION = list(CONTEXT).index("new_session")


def kinds_of(store: WindowStore) -> np.ndarray:
    """The kind of each position, int8 in [0, K): twice the target's event type, plus 1 if the target opens a session."""
    assert store.target_types is not None
    return 2 * store.target_types + store.context[:, _NEW_SESSION]


def kind_weights(
    event_weights: Sequence[float] | None, session_opener_weight: float, *, counts_K: np.ndarray
) -> np.ndarray | None:
    """The weight of each kind, float32 [K], with a mean of 1 over the positions. None where all positions weigh the same.

    With a mean of 1, the learning rate and the limit of the gradient's norm keep their meaning.

    Args:
      event_weights: the weight of each of EVENT_TYPES; None: all are equal.
      session_opener_weight: factor for targets that open a session.
      counts_K: number of positions of each kind.

    Raises:
      ValueError: no position has a weight.
    """
    weights_K = np.outer(event_weights or np.ones(len(EVENT_TYPES)), (1.0, session_opener_weight)).ravel()
    if len(np.unique(weights_K[counts_K > 0])) <= 1 and weights_K[counts_K > 0].any():
        return None
    total = weights_K @ counts_K
    if total == 0:
        found = [name for name, counts in zip(EVENT_TYPES, counts_K.reshape(-1, 2), strict=True) if counts.any()]
        raise ValueError(
            f"the objective gives no training position a weight: all targets are of the types {', '.join(found)}. Give"
            " one of these types a weight above 0 in the section objective"
        )
    return (weights_K * counts_K.sum() / total).astype(np.float32)
