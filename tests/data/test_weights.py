"""Weights of training positions by the target's event type and by whether it opens a session."""

import numpy as np
import pytest

from kdlib.data.batches import batch_of, store_from_tables
from kdlib.data.weights import KINDS, kind_weights, kinds_of
from kdlib.data.windows import training_windows
from tests.data.test_windows import timed


def _counts(**counts: int) -> np.ndarray:
    """Positions of each kind; `view_opens=3` are three views that open a session."""
    types = ("view", "favourite", "cart", "purchase")
    names = [f"{name}{suffix}" for name in types for suffix in ("", "_opens")]
    return np.array([counts.get(name, 0) for name in names])


def test_the_kind_is_the_targets() -> None:
    """A position's kind has the event type of its target, also at the end of a window, and whether the target opens a session."""
    table = timed(([0, 0, 1, 1, 2], [0, 3, 2, 1, 0], [0, 1, 2, 3, 4]), ([4, 5, 5], [1, 2, 3], [0, 1, 2]))
    windows = training_windows(table, max_length=2)
    assert windows["target_types"].to_pylist() == [[3], [2, 1], [2]]
    store = store_from_tables([windows])
    assert kinds_of(store).tolist() == [2 * 3, 2 * 2 + 1, 2 * 1, 2 * 2 + 1]


def test_the_mean_weight_is_one() -> None:
    """Weights keep their ratios, and their mean over the positions is 1."""
    counts = _counts(view=5, view_opens=2, cart=2, purchase=1)
    weights = kind_weights((1.0, 1.0, 3.0, 10.0), 2.0, counts_K=counts)
    assert weights is not None
    assert weights.dtype == np.float32
    assert (weights @ counts) / counts.sum() == pytest.approx(1.0)
    assert (weights / weights[0])[[0, 1, 4, 6, 7]].tolist() == pytest.approx([1, 2, 3, 10, 20])


@pytest.mark.parametrize("event_weights", [None, (2.0,) * 4, (1.0, 1.0, 3.0, 10.0)])
def test_equal_weights_are_none(event_weights: tuple[float, ...] | None) -> None:
    """Where all positions weigh the same, nothing is multiplied. Types that the data lacks do not count."""
    assert kind_weights(event_weights, 1.0, counts_K=_counts(view=5, view_opens=2)) is None


def test_no_weight_at_all_is_an_error() -> None:
    """An objective without a weight for any type of the data is an error that names the types."""
    with pytest.raises(
        ValueError, match=r"no training position a weight: all targets are of the types view, cart\. Give"
    ):
        kind_weights((0.0, 0.0, 0.0, 1.0), 1.0, counts_K=_counts(view=5, cart=1))


def test_a_batch_holds_the_weights_of_its_positions() -> None:
    """The weights of a batch stand beside its targets; without weights there are none."""
    table = timed(([0, 0, 1, 1, 2], [0, 3, 2, 1, 0], [0, 1, 2, 3, 4]), ([4, 5, 5], [1, 2, 3], [0, 1, 2]))
    store = store_from_tables([training_windows(table, max_length=2)])
    assert batch_of(store, np.array([1, 0])).weights_T is None
    weighted = store.__class__(**vars(store) | {"weights": np.arange(KINDS, dtype=np.float32)[kinds_of(store)]})
    weights_T = batch_of(weighted, np.array([1, 0])).weights_T
    assert weights_T is not None
    assert weights_T.tolist() == [5, 2, 6]
