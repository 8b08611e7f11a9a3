"""Ragged batches hold every position once, and no padding counts as a position."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from kdlib.data.batches import batch_of, made_ahead, shuffled_batches, store_from_tables
from kdlib.data.windows import training_windows
from tests.data.test_windows import histories


def _store(seed: int = 0):
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(50):
        length = int(generator.integers(2, 20))
        rows.append(
            (
                generator.integers(0, 99, length).tolist(),
                sorted(generator.integers(0, 4, length).tolist()),
                length,
                None,
                None,
            )
        )
    return store_from_tables([training_windows(histories(rows), max_length=8)])


def test_a_batch_holds_its_windows() -> None:
    """The real positions of a batch hold the inputs, context and targets of the windows, in order."""
    store = _store()
    batch = batch_of(store, np.array([3, 0, 7]))
    spans = [slice(store.offsets[window], store.offsets[window + 1]) for window in (3, 0, 7)]
    flat = np.concatenate([store.inputs[span] for span in spans])
    assert batch.items_BL.flatten()[batch.positions_T].tolist() == flat.tolist()
    assert batch.targets_T.tolist() == np.concatenate([store.targets[span] for span in spans]).tolist()
    context = np.concatenate([store.context[span] for span in spans])
    assert len(np.unique(context, axis=0)) > 1
    assert batch.context_BLC.flatten(0, 1)[batch.positions_T].tolist() == context.tolist()
    assert batch.context_BLC.dtype == torch.int8
    assert batch.items_BL.shape[1] == max(span.stop - span.start for span in spans)
    assert batch.lengths_B.tolist() == [span.stop - span.start for span in spans]


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_an_epoch_sees_every_position_once(batch_size: int) -> None:
    """The batches of an epoch hold each input-target pair of the store exactly once."""
    store = _store()
    pairs = []
    for batch in shuffled_batches(store, batch_size=batch_size, seed=4):
        assert len(batch.items_BL) <= batch_size
        pairs += list(zip(batch.items_BL.flatten()[batch.positions_T].tolist(), batch.targets_T.tolist(), strict=True))
    assert sorted(pairs) == sorted(zip(store.inputs.tolist(), store.targets.tolist(), strict=True))


def test_the_seed_fixes_the_order() -> None:
    """Equal seeds give equal batches. Another seed gives another order."""
    store = _store()
    orders = [
        [batch.targets_T.tolist() for batch in shuffled_batches(store, batch_size=8, seed=seed)] for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_batches_made_ahead_are_the_same(device: str) -> None:
    """Whether a thread makes them or not, they come in order, and an error comes after the batches before it."""
    store = _store()

    def failing():
        yield from shuffled_batches(store, batch_size=8, seed=1)
        raise RuntimeError("the next file is gone")

    found: list[list[int]] = []
    with pytest.raises(RuntimeError, match="the next file is gone"):
        found.extend(batch.targets_T.tolist() for batch in made_ahead(failing(), torch.device(device)))
    assert found == [batch.targets_T.tolist() for batch in shuffled_batches(store, batch_size=8, seed=1)]
    whole = made_ahead(shuffled_batches(store, batch_size=8, seed=1), torch.device(device))
    assert [batch.targets_T.tolist() for batch in whole] == found


def test_teacher_states_come_from_any_number_of_chunks() -> None:
    """An Arrow array of bytes ends at 2 GiB.

    A store from several arrays, also empty and sliced ones, holds the same states.
    """
    rows = {"items": [[1, 2, 3], [4, 5], [6, 7, 8, 9]], "context": [[0] * 6, [0] * 3, [0] * 9]}
    rows |= {"target_types": [[0] * 2, [0], [0] * 3]}
    states = [bytes(range(8)), bytes(range(8, 12)), bytes(range(12, 24))]
    table = pa.table(rows | {"hidden": pa.array(states, pa.binary()), "scales": [[1.0] * 2, [1.0], [1.0] * 3]})
    whole = store_from_tables([table], teachers=1)
    parts = store_from_tables([table.slice(0, 2), table.slice(0, 0), table.slice(2)], teachers=1)
    assert whole.hidden is not None
    assert parts.hidden is not None
    assert whole.hidden.tolist() == parts.hidden.tolist() == np.arange(24).reshape(6, 4).tolist()
    empty = store_from_tables([table.slice(0, 0)], teachers=1)
    assert empty.hidden is not None
    assert len(empty.hidden) == 0
