"""The further lists on real shops: `python -m tests.benchmarks.further_lists FOLDER` → results/further_lists.json.

It reads the runs `cluster/runs/retail.yaml` and `yoochoose.yaml` below FOLDER, and first makes what is missing there.
Each day judges the lists of the day before. `similar_items` comes from the run's student, which knows the days before the
validation days; so do its baselines. The methods were chosen on the validation days, and the test days judge.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from scipy.sparse import csr_array

from jobs.benchmark.provenance import hardware, package_versions
from jobs.runtime.published import parquet_files
from kdlib.config.load import load_config
from kdlib.config.operations import ListsConfig
from kdlib.config.run import RunConfig
from kdlib.lists.again import buy_again
from kdlib.lists.purchases import Purchases, baskets_of, read_purchases
from kdlib.lists.rows import Lists, best_of_each, near_the_top
from kdlib.lists.similar import similar_items
from kdlib.lists.together import bought_together
from kdlib.metrics.bootstrap import bootstrap_interval
from kdlib.models.files import load_model
from kdlib.store import partitions

RESULTS = Path(__file__).parent / "results"
STAGES = {
    "retail": ("build-features", "train-teacher", "cache-teacher", "distill"),
    "yoochoose": ("build-features",),
}
DAYS = {  # the first validation day, the first test day, the day after the last test day
    "retail": (date(2010, 10, 18), date(2010, 11, 1), date(2010, 12, 10)),
    "yoochoose": (date(2014, 8, 9), date(2014, 9, 4), date(2014, 9, 30)),
}
K, SAMPLES, SEED = 10, 1000, 1
DISCOUNTS = 1 / np.log2(np.arange(K) + 2)
IDEAL = np.concatenate([[0.0], np.cumsum(DISCOUNTS)])

Case = tuple[int, dict[str, float]]
"""A user, and the NDCG@10 of each method."""
Method = Callable[[Purchases, int], np.ndarray]
"""Purchases so far and the last day → a list of items for each item or user, [owners, 10], filled up with −1."""


def as_matrix(lists: Lists, num_owners: int) -> np.ndarray:
    """The lists of all owners, int64 [owners, 10], filled up with −1."""
    matrix = np.full((num_owners, K), -1)
    matrix[lists.owners_N, np.arange(len(lists.owners_N)) - np.searchsorted(lists.owners_N, lists.owners_N)] = (
        lists.items_N
    )
    return matrix


def between(purchases: Purchases, first: int, end: int) -> Purchases:
    """The purchases of the days from `first` to before `end`."""
    kept = (purchases.days_N >= first) & (purchases.days_N < end)
    return Purchases(purchases.user_ids, *(column[kept] for column in purchases[1:]))


def day_by_day(
    purchases: Purchases, methods: Mapping[str, Method], first: int, end: int
) -> Iterator[tuple[Purchases, Purchases, dict[str, Any]]]:
    """For each day with purchases: all purchases before it, its own, and the lists that the methods made the day before."""
    for day in range(first, end):
        before, today = between(purchases, 0, day), between(purchases, day, day + 1)
        if len(today.users_N):
            yield before, today, {name: method(before, day - 1) for name, method in methods.items()}


def companions(purchases: Purchases, methods: Mapping[str, Method], first: int, end: int) -> Iterator[Case]:
    """Each item of a basket asks the lists of the day before for the basket's other items. The basket's mean is a case."""
    for _, today, lists in day_by_day(purchases, methods, first, end):
        for user, items in baskets(today, today.sessions_N):
            if len(items) > 1:
                ideal = IDEAL[min(K, len(items) - 1)]
                yield (
                    user,
                    {name: float((np.isin(of[items], items) @ DISCOUNTS).mean() / ideal) for name, of in lists.items()},
                )


def repeats(purchases: Purchases, methods: Mapping[str, Method], first: int, end: int) -> Iterator[Case]:
    """Each user's list of the day before asks for what the user buys again on a day. A user's day is a case."""
    for before, today, lists in day_by_day(purchases, methods, first, end):
        for user, items in baskets(today, today.days_N):
            again = np.intersect1d(items, before.items_N[before.users_N == user])
            if len(again):
                ideal = IDEAL[min(K, len(again))]
                yield user, {name: float(np.isin(of[user], again) @ DISCOUNTS / ideal) for name, of in lists.items()}


def first_baskets(purchases: Purchases, methods: Mapping[str, Method], first: int, end: int) -> Iterator[Case]:
    """One list of the day before asks for the first basket of each user without a history."""
    for before, today, lists in day_by_day(purchases, methods, first, end):
        for user, items in baskets(today, today.days_N):
            if not (before.users_N == user).any():
                ideal = IDEAL[min(K, len(items))]
                yield user, {name: float(np.isin(of[0], items) @ DISCOUNTS / ideal) for name, of in lists.items()}


def baskets(purchases: Purchases, part_N: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The user and the different items of each basket."""
    keys, basket_N = np.unique(np.stack([purchases.users_N, part_N], axis=1), axis=0, return_inverse=True)
    order = np.argsort(basket_N.reshape(-1), kind="stable")
    ends = np.cumsum(np.bincount(basket_N.reshape(-1)))
    for (user, _), items in zip(keys, np.split(purchases.items_N[order], ends[:-1]), strict=True):
        yield int(user), np.unique(items)


def co_count(before: Purchases, num_items: int) -> np.ndarray:
    """Each item's companions by the number of common baskets."""
    held = baskets_of(before, by_session=True, num_items=num_items).items_BV
    pairs = csr_array(held.T @ held)
    pairs.setdiag(0)
    near = near_the_top(pairs.data, pairs.indptr, k=K) & (pairs.data > 0)
    owners = np.repeat(np.arange(num_items), np.diff(pairs.indptr))
    return as_matrix(best_of_each(owners[near], pairs.indices[near], pairs.data[near], k=K), num_items)


def most_bought(before: Purchases, num_items: int, owners: int, weights: np.ndarray | None = None) -> np.ndarray:
    """The items with the most purchases, the same list for all owners but without the owner itself if it is an item."""
    counts = np.bincount(before.items_N, weights, minlength=num_items)
    best = np.argsort(-counts, kind="stable")[: K + 1]
    if owners != num_items:
        return np.tile(best[:K], (owners, 1))
    return np.stack([best[best != item][:K] for item in range(owners)])


def own(before: Purchases, num_users: int, *, by: str) -> np.ndarray:
    """Each user's items by the number of days on which the user bought them, or by the last of these days."""
    rows = np.unique(np.stack([before.users_N, before.items_N, before.days_N], axis=1), axis=0)
    pairs, pair_N, counts = np.unique(rows[:, :2], axis=0, return_inverse=True, return_counts=True)
    last = np.zeros(len(pairs), np.int64)
    np.maximum.at(last, pair_N.reshape(-1), rows[:, 2])
    ranks = np.lexsort((last, counts) if by == "count" else (counts, last)).argsort()
    return as_matrix(best_of_each(pairs[:, 0], pairs[:, 1], ranks, k=K), num_users)


def always(lists: np.ndarray) -> Method:
    """The same lists each day."""
    return lambda before, today: lists


def similar(config: RunConfig, before: Purchases, num_items: int) -> Method:
    """The student's similar items, among the items that were bought before."""
    with torch.no_grad():
        vectors_VW = load_model(partitions.current(config.root, "models/student", config.day))[0].head()[0]
    known_V = torch.from_numpy(np.bincount(before.items_N, minlength=num_items)[: len(vectors_VW)] > 0)
    return always(as_matrix(similar_items(vectors_VW, known_V=known_V, allowed_V=known_V, k=K), num_items))


def judge(cases: Iterator[Case], ours: str) -> dict[str, Any]:
    """Mean NDCG@10 over users, of each method and of the differences to ours, with intervals over users."""
    of_user: dict[int, list[list[float]]] = {}
    names: list[str] = []
    for user, values in cases:
        names = list(values)
        of_user.setdefault(user, []).append(list(values.values()))
    means = np.array([np.mean(rows, axis=0) for rows in of_user.values()])
    columns = {name: means[:, number] for number, name in enumerate(names)}
    columns |= {f"{ours} - {name}": columns[ours] - columns[name] for name in names if name != ours}
    intervals = {name: bootstrap_interval(one, samples=SAMPLES, seed=SEED) for name, one in columns.items()}
    return {
        "users": len(means),
        "cases": sum(map(len, of_user.values())),
        "figures": {name: round(float(one.mean()), 5) for name, one in columns.items()},
        "intervals": {name: [round(float(bound), 5) for bound in bounds] for name, bounds in intervals.items()},
    }


def measure(name: str, folder: Path) -> dict[str, Any]:
    """All lists of a shop on its validation days and on its test days."""
    overrides = (f"output_dir={folder / name}", "evaluation.control=false")
    config = load_config(f"cluster/runs/{name}.yaml", overrides=overrides)
    for stage in STAGES[name]:
        command = [sys.executable, "-m", "jobs", stage, "--config", f"cluster/runs/{name}.yaml"]
        subprocess.run([*command, *(word for one in overrides for word in ("--set", one))], check=True)
    purchases = read_purchases(parquet_files(partitions.current(config.root, "histories", config.day)))
    num_users = len(purchases.user_ids)
    num_items = pq.read_metadata(
        parquet_files(partitions.current(config.root, "item_vocabulary", config.day))[0]
    ).num_rows
    everything = np.ones(num_items, bool)

    def ours_together(before: Purchases, today: int) -> np.ndarray:
        of = baskets_of(before, by_session=True, num_items=num_items)
        return as_matrix(bought_together(of, today=today, allowed_V=everything, k=K), num_items)

    def ours_again(before: Purchases, today: int) -> np.ndarray:
        return as_matrix(buy_again(before, today=today, allowed_V=everything, k=K), num_users)

    def ours_popular(before: Purchases, today: int) -> np.ndarray:
        ages = today + 1 - before.days_N
        return most_bought(before, num_items, 1, 0.5 ** (ages / ListsConfig().popular_half_life_days))

    counts: dict[str, Method] = {
        "co_count": lambda before, today: co_count(before, num_items),
        "popularity": lambda before, today: most_bought(before, num_items, num_items),
    }
    popular: dict[str, Method] = {
        "popular_items": ours_popular,
        "all_time": lambda before, today: most_bought(before, num_items, 1),
    }
    first, middle, end = ((day - date(1970, 1, 1)).days for day in DAYS[name])
    found: dict[str, Any] = {}
    for period, (start, stop) in {"validation": (first, middle), "test": (middle, end)}.items():
        methods = {"bought_together": ours_together} | counts
        found[period] = {
            "bought_together": judge(companions(purchases, methods, start, stop), "bought_together"),
            "popular_items": judge(first_baskets(purchases, popular, start, stop), "popular_items"),
        }
        if name == "retail":
            mine: dict[str, Method] = {
                "buy_again": ours_again,
                "most_frequent": lambda before, today: own(before, num_users, by="count"),
                "most_recent": lambda before, today: own(before, num_users, by="last"),
            }
            found[period]["buy_again"] = judge(repeats(purchases, mine, start, stop), "buy_again")
            methods = {"similar_items": similar(config, between(purchases, 0, first), num_items)}
            methods |= {
                name: always(method(between(purchases, 0, first), first - 1)) for name, method in counts.items()
            }
            found[period]["similar_items"] = judge(companions(purchases, methods, start, stop), "similar_items")
    return found


def main() -> None:
    """Measure both shops and write the results."""
    folder = Path(sys.argv[1]).absolute()
    results = {
        "command": "python -m tests.benchmarks.further_lists FOLDER",
        "metric": "ndcg@10",
        "seed": SEED,
        "hardware": hardware(load_config("cluster/runs/retail.yaml")),
        "versions": package_versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    results |= {name: measure(name, folder) for name in STAGES}
    (RESULTS / "further_lists.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
