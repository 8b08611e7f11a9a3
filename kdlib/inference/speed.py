"""How many users a second a model serves: encoding and exact top-k on one CPU thread, models side by side."""

import time
from pathlib import Path

import numpy as np
import torch

from kdlib.data.windows import EvaluationRows, take_slices
from kdlib.inference.topk import exact_topk
from kdlib.models.encode import last_hidden
from kdlib.models.files import load_model

ROUNDS = 3


def users_per_second(folders: dict[str, str], rows: EvaluationRows, *, users: int, k: int) -> dict[str, float]:
    """Median over three rounds; each round times every model once, so that the machine's moods hit all alike.

    Timed is what the nightly table needs: the hidden state after each history, then the k best items that are not in
    it. Reading files, building the item table from codes and writing the lists are not.

    Args:
      folders: name → model folder.
      rows: histories to serve.
      users: how many of them, at most.
      k: length of the lists.
    """
    count = min(users, len(rows))
    items, context = rows.items[: rows.offsets[count]], rows.context[: rows.offsets[count]]
    offsets = rows.offsets[: count + 1]
    lengths = np.diff(offsets)
    seen = (torch.from_numpy(items), torch.from_numpy(offsets))
    loaded = {name: load_model(Path(folder))[0] for name, folder in folders.items()}
    heads = {name: model.head() for name, model in loaded.items()}
    few = take_slices(offsets[:-1][:64], lengths[:64])
    threads, cpu = torch.get_num_threads(), torch.device("cpu")
    seconds: dict[str, list[float]] = {name: [] for name in loaded}
    torch.set_num_threads(1)
    try:
        for model in loaded.values():  # the first call pays for memory and code
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
