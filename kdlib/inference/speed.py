"""Users per second of several models: encoding and exact top-k on one CPU thread.

Shapes: B users, W width of the hidden state, V items.
"""

import time
from pathlib import Path

import numpy as np
import torch

from kdlib.data.windows import EvaluationRows, take_slices
from kdlib.inference.coded_items import head_of
from kdlib.inference.topk import exact_topk
from kdlib.models.encode import last_hidden
from kdlib.models.files import load_model

ROUNDS = 3


def users_per_second(folders: dict[str, str], rows: EvaluationRows, *, users: int, k: int) -> dict[str, float]:
    """Users per second by model name, the median of three rounds.

    Each round times every model once, so that other load on the machine affects all models alike. The time covers the
    hidden state after each history and the k best items outside the history. It does not cover reading files, building
    the head and writing the lists.

    Args:
      folders: name → model folder.
      rows: histories of the users.
      users: most users to time.
      k: length of the lists.
    """
    count = min(users, len(rows))
    items, context = rows.items[: rows.offsets[count]], rows.context[: rows.offsets[count]]
    offsets = rows.offsets[: count + 1]
    lengths = np.diff(offsets)
    seen = (torch.from_numpy(items), torch.from_numpy(offsets))
    loaded = {name: load_model(Path(folder))[0] for name, folder in folders.items()}
    heads = {name: head_of(model) for name, model in loaded.items()}
    few = take_slices(offsets[:-1][:64], lengths[:64])
    threads, cpu = torch.get_num_threads(), torch.device("cpu")
    seconds: dict[str, list[float]] = {name: [] for name in loaded}
    torch.set_num_threads(1)
    try:
        for model in loaded.values():  # the first call also allocates memory and loads code
            last_hidden(model, items[few], context[few], lengths[:64], device=cpu)
        for _ in range(ROUNDS):
            for name, model in loaded.items():
                started = time.perf_counter()
                hidden_BW = last_hidden(model, items, context, lengths, device=cpu)
                matrix_VW, bias_V = heads[name]
                exact_topk(hidden_BW, matrix_VW, bias_V, k=k, excluded=seen)
                seconds[name].append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return {name: round(count / float(np.median(taken)), 1) for name, taken in seconds.items()}
