"""Lists of a student with codes over ten million items, beside its item table and FAISS: a part of `tests.benchmarks.speed`.

One thread, one user at a time, the ten best items, width 64. The item vectors are made up: `CENTRES` random directions of unequal
variance, and around each of them many items. Their codes are product codes, 8 bytes an item. A user's hidden state is another
such vector. All sides search the same vectors, those that the codes stand for.

- `coded_topk_10m_ms`, `coded_topk_10m_dense_ms`, `coded_topk_10m_faiss_ms`: median milliseconds by look-ups, by `exact_topk` with
  the item table, and by FAISS' flat index.
- `coded_topk_10m_vs_dense`, `coded_topk_10m_vs_faiss`: the others' time divided by that of look-ups.
- `coded_topk_10m_gigabytes`, `coded_topk_10m_dense_gigabytes`: what the look-ups keep, and the item table.
- `coded_topk_10m_worst_ms`: look-ups with random codes, where nothing can be left out early.
"""

import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdlib.inference.coded_items import CodedItems
from kdlib.inference.topk import exact_topk
from kdlib.models.codes import compose, encode, product_codes
from tests.benchmarks.peers.run_peers import HERE, prepare_environment

ITEMS, WIDTH, CODES, K = 10_000_000, 64, 8, 10
CENTRES, USERS, PART = 20_000, 30, 500_000
SPREAD = torch.linspace(1.6, 0.4, WIDTH)
"""Standard deviation of the directions: a few count more than others, as in a trained table."""


def coded_lists(envs: Path) -> dict[str, float]:
    """The figures. It needs 14 GB of memory.

    Args:
      envs: folder for the peers' environments.
    """
    torch.manual_seed(1)
    centres = torch.randn(CENTRES, WIDTH) * SPREAD
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0]  # then all parts have about the same variance

    def vectors(number: int) -> Tensor:
        around = centres[torch.randint(0, CENTRES, (number,))]
        return (0.8 * around + 0.6 * torch.randn(number, WIDTH) * SPREAD) @ turn

    _, tables = product_codes(vectors(1 << 16), count=CODES, size=256, seed=1)
    codes = torch.cat([encode(vectors(PART), tables) for _ in range(ITEMS // PART)])
    hidden = vectors(USERS)
    sides = {"": CodedItems(codes, tables, width=WIDTH), "_dense": compose(tables, codes, width=WIDTH)}
    seconds: dict[str, list[float]] = {name: [] for name in (*sides, "_worst")}
    items: list[list[int]] = []
    for user in range(USERS):
        found = {}
        for name, matrix in sides.items():
            started = time.perf_counter()
            found[name] = exact_topk(hidden[user : user + 1], matrix, k=K)
            seconds[name].append(time.perf_counter() - started)
        # the two sum in another order, so equal items are no law; equal scores are
        torch.testing.assert_close(found[""][0], found["_dense"][0], rtol=1e-5, atol=1e-5)
        items.append(found[""][1][0].tolist())
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "vectors.npy"), sides.pop("_dense").numpy())
        np.save(Path(folder, "queries.npy"), hidden.numpy())
        python = prepare_environment("faiss", envs)
        printed = subprocess.run([python, HERE / "faiss_flat.py", folder], check=True, capture_output=True, text=True)
        faiss = json.loads(printed.stdout)
    same = np.mean([len(set(ours).intersection(theirs)) for ours, theirs in zip(items, faiss["items"], strict=True)])
    assert same > 0.99 * K, f"FAISS finds other items: {same} of {K} are the same"
    worst = CodedItems(torch.randint(0, 256, codes.shape, dtype=torch.uint8), tables, width=WIDTH)
    for user in range(USERS):
        started = time.perf_counter()
        exact_topk(hidden[user : user + 1], worst, k=K)
        seconds["_worst"].append(time.perf_counter() - started)
    figures = {f"coded_topk_10m{name}_ms": 1e3 * float(np.median(taken)) for name, taken in seconds.items()}
    ours, dense = figures["coded_topk_10m_ms"], figures["coded_topk_10m_dense_ms"]
    return figures | {
        "coded_topk_10m_faiss_ms": faiss["milliseconds"],
        "coded_topk_10m_vs_dense": dense / ours,
        "coded_topk_10m_vs_faiss": faiss["milliseconds"] / ours,
        "coded_topk_10m_gigabytes": worst.nbytes / 1e9,
        "coded_topk_10m_dense_gigabytes": 4e-9 * ITEMS * WIDTH,
    }
