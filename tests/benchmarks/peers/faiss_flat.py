"""FAISS' exact search over item vectors, one query at a time on one thread; runs in an environment with `faiss-cpu` alone.

    python faiss_flat.py FOLDER

Reads `vectors.npy` and `queries.npy` (float32) from FOLDER. Prints JSON: `milliseconds` (median) and `items`, the ten items with
the highest inner product of each query.
"""

# pyright: reportMissingImports=false
# the peer's package is not in this project's environment

import json
import sys
import time
from pathlib import Path

import faiss
import numpy as np

K = 10


def main() -> None:
    """Index, search and print."""
    folder = Path(sys.argv[1])
    vectors, queries = np.load(folder / "vectors.npy", mmap_mode="r"), np.load(folder / "queries.npy")
    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(vectors.shape[1])
    for part in np.array_split(vectors, 10):
        index.add(part)
    index.search(queries[:1], K)
    seconds, items = [], []
    for query in queries:
        started = time.perf_counter()
        _, found = index.search(query[None], K)
        seconds.append(time.perf_counter() - started)
        items.append(found[0].tolist())
    print(json.dumps({"milliseconds": 1e3 * float(np.median(seconds)), "items": items}))


if __name__ == "__main__":
    main()
