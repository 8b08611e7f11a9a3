"""The inputs that a model reads with each item, from the histories to the loss."""

import numpy as np
import pytest
import torch

from kdlib.data.batches import batch_of, store_from_tables
from kdlib.data.windows import training_windows
from kdlib.models.sequence import SequenceModel
from kdlib.store.tables import HISTORIES
from kdlib.training.module import NextItemTraining
from tests.data.test_windows import histories

GAPS = np.array([1, 300, 90_000, 9_000_000])


@pytest.mark.parametrize("column", ["event_type", "time_gap"])
def test_what_only_an_input_tells_is_learnt_through_it(column: str) -> None:
    """Here only the type of the last event, or only the gap before it, determines the next of four items. A model that reads
    that column predicts the item for other users; a model without it cannot."""
    generator = np.random.default_rng(0)
    told = generator.integers(0, 4, (60, 7))
    items = np.concatenate([generator.integers(0, 4, (60, 1)), told[:, :-1]], axis=1)
    table = histories([(row, [0] * 7, 7, None, None) for row in items.tolist()])
    types = told if column == "event_type" else np.zeros_like(told)
    seconds = np.cumsum(GAPS[told], axis=1) if column == "time_gap" else np.zeros_like(told)
    for name, values in (("event_types", types), ("event_times", 1_000_000 * seconds)):
        table = table.set_column(table.column_names.index(name), name, [values.tolist()])
    table = table.cast(HISTORIES.schema)
    store = store_from_tables([training_windows(table, max_length=7)])
    batch, held_out = batch_of(store, np.arange(40)), batch_of(store, np.arange(40, 60))
    first = held_out.positions_T % held_out.items_BL.shape[1] == 0  # no gap before it
    correct = {}
    for inputs in ((column,), ()):
        torch.manual_seed(1)
        module = NextItemTraining(SequenceModel(num_items=4, kind="gru", dim=8, inputs=inputs, max_length=7))
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.03)
        for _ in range(60):
            optimizer.zero_grad()
            (module(batch).total / len(batch.targets_T)).backward()
            optimizer.step()
        hidden_TW = module.student(held_out.items_BL, held_out.context_BLC).flatten(0, 1)[held_out.positions_T]
        best_T = (hidden_TW @ module.student.head()[0].T).argmax(1)
        correct[inputs] = (best_T == held_out.targets_T)[~first].float().mean().item()
    assert correct[(column,)] > 0.95
    assert correct[()] < 0.5
