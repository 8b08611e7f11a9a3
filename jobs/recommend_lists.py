"""Write the further lists that `recommend.lists` names, one table each.

Of `recommend.policy`, `include` and `exclude` hold for these lists too. The other rules are about users or places.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.runtime.console import say, warn
from jobs.runtime.names import served_student
from jobs.runtime.published import parquet_files
from jobs.runtime.stage import Details, Job
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError
from kdlib.inference.list_rules import rules_of_policy
from kdlib.inference.recommender import check_vocabulary, read_vocabulary
from kdlib.lists.long_form import write_long_form
from kdlib.lists.rows import Lists, check_lists, rows_of
from kdlib.store import tables
from kdlib.store.days import day_end, day_number
from kdlib.store.partitions import Manifest

EMPTY = {
    "bought_together": "no two available items were bought in one basket",
    "buy_again": "no user has bought an available item twice",
}
"""Table → why it has no rows."""


def build(job: Job) -> Details:
    """Write one table, and check what was written.

    Raises:
      ConfigError: fewer items are available than the list is long.
      ModelError: the student was trained on another vocabulary, or its vectors are not finite.
      ContractError: the written rows break the table's contract. Nothing is published then.
    """
    [name] = job.part.makes
    if name == "recommendations_long":
        write_long_form(parquet_files(job.input("recommendations")), job.output / "part-00000.parquet")
        return {}
    k, table = getattr(job.config.recommend.lists, name), tables.ALL[name]
    end_of_day = day_end(job.config.last_day, job.config.features.time_zone)
    item_ids = read_vocabulary(job.input("item_vocabulary"))[0]
    available = rules_of_policy(
        job.config.recommend.policy,
        vocabulary=job.input("item_vocabulary"),
        item_features=job.input("item_features") if "item_features" in job.inputs else None,
        num_items=len(item_ids),
        day=job.config.last_day + timedelta(days=1),
        k=k,
    )[None].allowed_V.numpy()
    if k > available.sum():
        raise ConfigError(
            f"recommend.lists.{name} is {k}, but only {available.sum()} items are available: lower"
            f" recommend.lists.{name}"
        )
    lists, owners, more = MAKERS[name](job, item_ids, available, k)
    rows = rows_of(lists, table, owners, item_ids=item_ids, generated_at=end_of_day, **more)
    pq.write_table(rows, job.output / "part-00000.parquet")
    check_lists(table, job.output, k=k, unavailable=frozenset(item_ids.filter(pa.array(~available)).to_pylist()))
    return {name: {"k": k, "items": len(np.unique(lists.items_N))}}


Made = tuple[Lists, dict[str, pa.Array | pa.ChunkedArray], dict[str, Any]]
"""Lists, the key's columns of all owners, and further columns with the same value in each row."""


def _similar_items(job: Job, item_ids: pa.Array, available: np.ndarray, k: int) -> Made:
    import torch

    from jobs.runtime.item_facts import trained_items
    from kdlib.lists.similar import similar_items
    from kdlib.models.files import load_model

    model, facts = load_model(job.input(served_student(job.config)))
    check_vocabulary(facts, item_ids)
    known = np.ones(facts["num_items"], bool)
    student = job.config.student
    if not (student.text or student.features):  # else new items have vectors made of titles and features
        known = trained_items(job.config, job.inputs, num_items=len(item_ids))[: len(known)]
    with torch.no_grad():
        vectors_VW = model.head()[0]
    allowed_V = torch.from_numpy(available[: len(known)])
    lists = similar_items(vectors_VW, known_V=torch.from_numpy(known), allowed_V=allowed_V, k=k)
    return lists, {"item_id": item_ids}, {"model_version": facts["version"]}


def _bought_together(job: Job, item_ids: pa.Array, available: np.ndarray, k: int) -> Made:
    from kdlib.lists.purchases import baskets_of, read_purchases
    from kdlib.lists.together import bought_together

    events = job.config.input.events
    by_session = events is not None and events.session is not None
    purchases = read_purchases(parquet_files(job.input("histories")), time_zone=job.config.features.time_zone)
    baskets = baskets_of(purchases, by_session=by_session, num_items=len(item_ids))
    lists = bought_together(baskets, today=day_number(job.config.last_day), allowed_V=available, k=k)
    return lists, {"item_id": item_ids}, {}


def _buy_again(job: Job, item_ids: pa.Array, available: np.ndarray, k: int) -> Made:
    from kdlib.lists.again import buy_again
    from kdlib.lists.purchases import read_purchases

    purchases = read_purchases(parquet_files(job.input("histories")), time_zone=job.config.features.time_zone)
    lists = buy_again(purchases, today=day_number(job.config.last_day), allowed_V=available, k=k)
    return lists, {"user_id": purchases.user_ids}, {}


def _popular_items(job: Job, item_ids: pa.Array, available: np.ndarray, k: int) -> Made:
    from kdlib.lists.popular import groups_of, owners_of, popular_items, recent_events

    groups = [
        groups_of(pq.read_table(job.input(name), columns=[key, "feature", "values"]), key=key)
        if name in job.inputs
        else None
        for name, key in (("item_features", "item_index"), ("user_features", "user_id"))
    ]
    categories, segments = groups
    counts = recent_events(
        parquet_files(job.input("histories")),
        until=int(day_end(job.config.last_day, job.config.features.time_zone).timestamp()) * 1_000_000,
        half_life_days=job.config.recommend.lists.popular_half_life_days,
        num_items=len(item_ids),
        segments=segments,
    )
    return popular_items(*counts, categories, allowed_V=available, k=k), owners_of(categories, segments), {}


MAKERS: dict[str, Callable[[Job, pa.Array, np.ndarray, int], Made]] = {
    "similar_items": _similar_items,
    "bought_together": _bought_together,
    "popular_items": _popular_items,
    "buy_again": _buy_again,
}


def tell(config: RunConfig, manifests: Mapping[str, Manifest]) -> None:
    """Say how many rows each list has; warn of a list without rows."""
    for name, manifest in manifests.items():
        say(f"recommend_lists: {name}: {manifest.rows:,} rows → {config.place(name)}")
        if not manifest.rows and name in EMPTY:
            warn(f"recommend_lists: warning: {name} has no rows, because {EMPTY[name]}")
