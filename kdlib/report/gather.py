"""Reads the published partitions of a run → the content of its page. What is not published is left out."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kdlib.release import freezing, promotions
from kdlib.report.content import Drift, Gate, Lists, Measure, Mover, Night, Use
from kdlib.report.drift import movers, popularity_drift
from kdlib.report.search import read_search
from kdlib.report.users import read_user, sample_users
from kdlib.store import partitions
from kdlib.store.partitions import Manifest

NUM_NIGHTS = 14
"""How many runs a trend shows, this run included."""
OWN = "reports"
"""The page's own table."""
_GATES = ("gates", "search_gates")
_COMPARED = ("histories", "item_vocabulary", "item_statistics", "recommendations")
"""Tables of the previous run that the page reads."""

Found = dict[tuple[str, str], Manifest]
"""(table or model, day of the run) → manifest."""


def find_partitions(root: Path, ds: str) -> Found:
    """What is published for a date, beside the tables of earlier runs that the page compares with.

    Args:
      root: the folder of all outputs.
      ds: the day of the run.
    """
    wanted = [(name, ds) for name in partitions.published_on(root, ds) if name != OWN]
    if previous := partitions.latest(root, "histories", before=ds):
        wanted += [(name, previous) for name in _COMPARED]
    for name in ("metrics", *_GATES):
        wanted += [(name, night) for night in _nights_before(root, name, ds)]
    found = {key: partitions.read_manifest(root, *key) for key in wanted}
    return {key: manifest for key, manifest in found.items() if manifest is not None}


def _nights_before(root: Path, name: str, ds: str) -> list[str]:
    """The last runs before a day that have this table, oldest first."""
    nights: list[str] = []
    while len(nights) < NUM_NIGHTS - 1 and (night := partitions.latest(root, name, before=nights[0] if nights else ds)):
        nights.insert(0, night)
    return nights


def use_of(root: Path, ds: str, found: Found) -> Use:
    """Whether the run's table of recommendations is in use, or was in use."""
    now, lists = promotions.current(root), found.get(("recommendations", ds))
    in_use = now.ds if now else None
    if lists is None:
        return Use(in_use)
    versions = {"recommendations": lists.version}
    used, withdrawn = promotions.last_use(root, ds, versions)
    replaced = now is not None and now.ds == ds and not versions.items() <= now.versions.items()
    promoted = used is not None and not replaced
    if withdrawn:
        return Use(in_use, promoted, withdrawn.ds, withdrawn.reason)
    freeze = None if promoted or (in_use or "") > ds else freezing.frozen(root)
    return Use(in_use, promoted, frozen=freeze.reason if freeze else "")


def gather(
    root: Path,
    ds: str,
    *,
    name: str,
    k: int,
    models: Sequence[str],
    found: Found,
    notes: Sequence[str] = (),
) -> Night:
    """The content of the page.

    Args:
      root: the folder of all outputs.
      ds: the day of the run.
      name: the name of the run config.
      k: length of the lists that the page's metrics are about.
      models: `models/<name>`, teachers first.
      found: from `find_partitions`.
      notes: sentences for the top of the page.
    """
    previous = partitions.latest(root, "histories", before=ds)

    def manifest(table: str, night: str | None = ds) -> Manifest | None:
        return found.get((table, night or ""))

    own = {table: one for (table, night), one in found.items() if night == ds}
    measured = manifest("metrics")
    return Night(
        name=name,
        ds=ds,
        k=k,
        previous=previous,
        funnel=_funnel(manifest("histories")),
        previous_funnel=_funnel(manifest("histories", previous)),
        gates=tuple(_gates(root, ds, found)),
        metrics=_measures(root, ds) if measured else {},
        left_out=measured.details.get("repeats_left_out", 0) if measured else 0,
        new_item_days=measured.details.get("new_item_days") if measured else None,
        trend=_trend(root, sorted(night for table, night in found if table == "metrics"), k),
        models={
            model.removeprefix("models/"): json.loads((partitions.current(root, model, ds) / "model.json").read_text())
            for model in models
            if manifest(model)
        },
        seconds=_seconds(own.values()),
        lists=_lists(manifest("recommendations")),
        use=use_of(root, ds, found),
        previous_lists=_lists(manifest("recommendations", previous)),
        drift=_drift(root, ds, previous if manifest("item_statistics", previous) else None)
        if manifest("item_statistics") and manifest("item_vocabulary")
        else None,
        users=tuple(read_user(root, ds, user) for user in sample_users(root, ds))
        if all(manifest(table) for table in ("histories", "item_vocabulary", "recommendations"))
        else (),
        search=read_search(root, ds, own),
        notes=tuple(notes),
    )


def _funnel(manifest: Manifest | None) -> dict[str, Any] | None:
    return manifest.details.get("funnel") if manifest else None


def _lists(manifest: Manifest | None) -> Lists | None:
    if manifest is None:
        return None
    found = manifest.details
    return Lists(manifest.version, found["model_version"], found["users"], found["popular"], found["k"])


def _measures(root: Path, ds: str) -> dict[tuple[str, str], Measure]:
    """(model, metric) → measure. A mean over no users is NaN, and is left out."""
    rows = pq.read_table(partitions.current(root, "metrics", ds)).to_pylist()
    return {
        (row["model"], row["metric"]): Measure(row["value"], row["low"], row["high"], row["num_users"])
        for row in rows
        if not math.isnan(row["value"])
    }


def _trend(root: Path, nights: Sequence[str], k: int) -> dict[str, tuple[tuple[str, Measure], ...]]:
    measured = {night: _measures(root, night) for night in nights}
    lines = {}
    for model in ("student", "popularity"):
        of_model = [(night, found.get((model, f"ndcg@{k}"))) for night, found in measured.items()]
        lines[model] = tuple((night, measure) for night, measure in of_model if measure is not None)
    return lines


def _gates(root: Path, ds: str, found: Found) -> Iterator[Gate]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for table, night in sorted(found):
        if table in _GATES:
            rows.setdefault(night, []).extend(pq.read_table(partitions.current(root, table, night)).to_pylist())
    for row in rows.get(ds, []):
        trend = [
            (night, other["value"])
            for night, others in sorted(rows.items())
            for other in others
            if other["gate"] == row["gate"] and other["value"] is not None
        ]
        cells = (row[key] for key in ("gate", "part", "value", "low", "high", "status", "text"))
        yield Gate(*cells, trend=tuple(trend))


def _seconds(manifests: Iterable[Manifest]) -> dict[str, float]:
    """Stage → seconds, in the order in which the stages ran. What was made together has the same seconds, which count once."""
    spent: dict[str, set[float]] = {}
    for manifest in sorted(manifests, key=lambda one: one.published_unix_seconds):
        if "stage" in manifest.made_by and "seconds" in manifest.details:
            spent.setdefault(manifest.made_by["stage"], set()).add(manifest.details["seconds"])
    return {stage: sum(taken) for stage, taken in spent.items()}


def _drift(root: Path, ds: str, previous: str | None) -> Drift:
    items = _items(root, ds)
    new = items.filter(pc.field("first_seen") == ds).num_rows
    if previous is None:
        return Drift(len(items), new, None)
    earlier = _items(root, previous).select(["item_id", "num_interactions"]).rename_columns(["item_id", "before"])
    items = items.join(earlier, "item_id").sort_by("item_index")
    before = np.nan_to_num(items["before"].to_numpy())  # NaN: a new item
    distance, now_V, before_V = popularity_drift(items["num_interactions"].to_numpy(), before)

    def described(indices: np.ndarray) -> tuple[Mover, ...]:
        rows = items.take(pa.array(indices)).to_pylist()
        return tuple(
            Mover(row["title"] or row["item_id"], float(before_V[index]), float(now_V[index]))
            for row, index in zip(rows, indices, strict=True)
        )

    rising, falling = movers(now_V, before_V)
    return Drift(len(items), new, previous, distance, described(rising), described(falling))


def _items(root: Path, ds: str) -> pa.Table:
    """Id, title, first day and interactions of every item, by index."""
    columns = ["item_index", "item_id", "title", "first_seen"]
    vocabulary = pq.read_table(partitions.current(root, "item_vocabulary", ds), columns=columns).sort_by("item_index")
    folder = partitions.current(root, "item_statistics", ds)
    statistics = pq.read_table(folder, columns=["item_index", "num_interactions"]).sort_by("item_index")
    return vocabulary.append_column("num_interactions", statistics["num_interactions"])
