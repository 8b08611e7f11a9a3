"""Product search: the search log, the search student, and the results of the most frequent queries."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from markupsafe import Markup

from kdlib.report.content import Night, Search
from kdlib.report.labels import count, number
from kdlib.report.rendering import render
from kdlib.store import partitions
from kdlib.store.partitions import Manifest

SAMPLES, SHOWN = 8, 3
"""How many queries the page shows, and how many products of each."""


def read_search(root: Path, ds: str, manifests: Mapping[str, Manifest]) -> Search | None:
    """The results of product search. None: the run has no published rankings.

    Args:
      root: the folder of all outputs.
      ds: the day of the run.
      manifests: table → manifest, of this day.
    """
    needed = ("products", "search_targets", "search_index", "search_rankings")
    if not all(name in manifests for name in needed):
        return None
    products, targets, index, rankings = (manifests[name] for name in needed)
    log = manifests.get("queries")
    return Search(
        products.rows or 0,
        log.details["funnel"] if log else None,
        {name: targets.details[name] for name in ("typed", "made_up")},
        index.details,
        rankings.details["queries"],
        rankings.details["answered"],
        _samples(root, ds, with_log=log is not None),
    )


def _samples(root: Path, ds: str, *, with_log: bool) -> tuple[tuple[str, int | None, tuple[str, ...]], ...]:
    rankings = pq.read_table(partitions.current(root, "search_rankings", ds), columns=["query", "item_ids"])
    searches: dict[str, int | None] = {}
    if with_log:
        log = pq.read_table(partitions.current(root, "queries", ds), columns=["query", "num_searches"])
        searches = dict(zip(*(log[name].to_pylist() for name in ("query", "num_searches")), strict=True))
    rows = sorted(rankings.to_pylist(), key=lambda row: (-(searches.get(row["query"]) or 0), row["query"]))[:SAMPLES]
    shown = {item for row in rows for item in row["item_ids"][:SHOWN]}
    products = pq.read_table(partitions.current(root, "products", ds), columns=["item_id", "title"])
    products = products.join(pa.table({"item_id": pa.array(sorted(shown), pa.string())}), "item_id", join_type="inner")
    titles = dict(zip(products["item_id"].to_pylist(), products["title"].to_pylist(), strict=True))
    return tuple(
        (row["query"], searches.get(row["query"]), tuple(titles.get(item) or item for item in row["item_ids"][:SHOWN]))
        for row in rows
    )


def search(night: Night) -> Markup | None:
    """The section. None: the shop has no product search."""
    if (found := night.search) is None:
        return None
    student = found.student
    rows = [["products", count(found.products)]]
    if found.funnel:
        funnel = found.funnel
        rows += [
            [name.replace("_", " "), count(funnel[name])] for name in ("rows_read", "kept", "duplicate", "quarantined")
        ]
        rows += [
            ["different queries", count(funnel["queries"])],
            ["queries left out: typed by too few people", count(funnel["rare_queries"])],
        ]
    rows += [
        ["training queries: typed by people", count(found.learnt["typed"])],
        ["training queries: made from the catalogue", count(found.learnt["made_up"])],
        ["parameters of the query encoder", count(student["parameters"])],
        [f"cosine to the teacher on {count(student['held_out'])} unseen queries", number(student["cosine"])],
        ["queries with a ranking", f"{count(found.answered)} of {count(found.queries)}"],
    ]
    clicks = student.get("clicks")
    return render(
        "search",
        found=found,
        rows=rows,
        weights=student["weights"],
        clicks=clicks,
        gain=clicks["ndcg@10"] / max(clicks["ndcg@10_words_alone"], 1e-9) - 1 if clicks else None,
    )
