"""The last hidden state of a history does not depend on the rest of the batch."""

import numpy as np
import torch

from kdlib.models import encode
from kdlib.models.encode import last_hidden
from kdlib.models.sequence import SequenceModel
from kdlib.store.tables import CONTEXT


def test_rows_get_what_each_gets_alone_in_their_own_order(monkeypatch):
    """Sorting by length, padding and the model's longest window do not change the result."""
    monkeypatch.setattr(encode, "ENCODE_ROWS", 2)
    torch.manual_seed(0)
    lists = [[1, 2, 3], [4], [5, 6], [7, 8, 9, 10, 11, 12, 13, 14], [15]]
    generator = np.random.default_rng(0)
    contexts = [generator.integers(0, list(CONTEXT.values()), (len(row), 3)).astype(np.int8) for row in lists]
    lengths = np.array([len(items) for items in lists])
    for kind in ("gru", "transformer"):
        model = SequenceModel(
            num_items=20, kind=kind, dim=8, session_flag=True, inputs=["event_type", "time_gap"], max_length=6
        ).eval()
        found = last_hidden(model, np.concatenate(lists), np.concatenate(contexts), lengths, device=torch.device("cpu"))
        for items, context, hidden in zip(lists, contexts, found, strict=True):
            alone = model(torch.tensor([items[-6:]]), torch.from_numpy(context[-6:])[None])[0, -1]
            torch.testing.assert_close(hidden, alone)
