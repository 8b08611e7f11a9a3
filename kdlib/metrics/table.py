"""Make the table of metrics from the ranks of all models, and print this table as text."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from kdlib.metrics.bootstrap import (
    bootstrap_interval,
    mixed_bootstrap_interval,
    nested_bootstrap_means,
    percentile_interval,
)
from kdlib.metrics.calibration import calibration_error, tenths
from kdlib.metrics.expected import PREFIX
from kdlib.metrics.ranking import all_metrics, hit_rate
from kdlib.store import tables
from kdlib.store.tables import EVENT_TYPES

WITH_RULES, WITHOUT = "with_rules", "without_"
"""The student under the rules for lists, and the prefix of the student without one rule (`without_at_most`), or without
all (`without_rules`)."""

LABELS = {
    "control": "student without teacher",
    "markov": "first-order Markov",
    "last_night": "student in use so far",
    "ensemble": "teachers together",
    "best_reachable": "best reachable (true model)",
    WITH_RULES: "student under the rules",
}


def label(model: str) -> str:
    """The name of a model for people."""
    return f"student {model.replace('_', ' ', 1)}" if model.startswith(WITHOUT) else LABELS.get(model, model)


OTTO = {"view": 0.1, "cart": 0.3, "purchase": 0.6}
"""Share of each event type in the score of the OTTO challenge (RecSys data set of 2022), whose clicks are views."""


class Mix(NamedTuple):
    """A weighted sum of a metric's means over groups of users."""

    metric: str
    """A metric of `all_metrics`."""
    groups: Mapping[str, np.ndarray]
    """Name → bool [users]."""
    shares: Mapping[str, float]
    """Name → factor of the group's mean. Each name is in `groups`."""


def event_mixes(
    target_types: np.ndarray, event_weights: Sequence[float] | None, *, ndcg_k: int, recall_k: int
) -> dict[str, Mix]:
    """The metrics that weigh the users by the type of their next event, by name.

    `otto@<recall_k>` is OTTO's weighted sum of recalls. It is left out where a test lacks one of its types.
    `objective_ndcg@<ndcg_k>` is the NDCG of the objective, with its weights. It is there only with weights.

    Args:
      target_types: int8 [users], indices into EVENT_TYPES.
      event_weights: the objective; None: all are equal.
      ndcg_k: list length of the NDCG.
      recall_k: list length of the recall.
    """
    groups = by_event_type(target_types)
    mixes = {}
    if OTTO.keys() <= groups.keys():
        mixes[f"otto@{recall_k}"] = Mix(f"recall@{recall_k}", groups, OTTO)
    if event_weights is not None:
        worth = {
            name: weight * groups[name].sum()
            for name, weight in zip(EVENT_TYPES, event_weights, strict=True)
            if weight and name in groups
        }
        shares = {name: one / sum(worth.values()) for name, one in worth.items()}
        mixes[objective_metric(ndcg_k)] = Mix(f"ndcg@{ndcg_k}", groups, shares)
    return mixes


def objective_metric(k: int) -> str:
    """The name of the NDCG that weighs the users by the objective."""
    return f"objective_ndcg@{k}"


def by_event_type(target_types: np.ndarray) -> dict[str, np.ndarray]:
    """Users by the type of their next event: name → bool [users], without empty groups."""
    groups = {name: target_types == number for number, name in enumerate(EVENT_TYPES)}
    return {name: chosen for name, chosen in groups.items() if chosen.any()}


def metrics_table(
    ranks: dict[str, np.ndarray],
    ks: tuple[int, ...],
    *,
    pairs: Sequence[tuple[str, str]],
    samples: int,
    seed: int,
    slices: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    mixes: Mapping[str, Mix] | None = None,
    confidence: Mapping[str, np.ndarray] | None = None,
    confidence_k: int = 10,
    expected: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> pa.Table:
    """`tables.METRICS`: rows of every model, then rows of the paired differences.

    Args:
      ranks: model → 0-based ranks int64 [users], the same users in the same order for all.
      ks: list lengths.
      pairs: (a, b) gives the row "a - b", the difference user by user. Pairs of unknown models are left out.
      samples: number of bootstrap resamples.
      seed: of the bootstrap.
      slices: metric → name → bool [users]. Gives `<metric>/<name>` over these users, for every model and pair.
      mixes: name → weighted sum, for every model and pair. `num_users` counts the users of its groups.
      confidence: model → float [users], the model's probability that the next item is among its first `confidence_k`.
        Gives the rows of `kdlib.metrics.calibration`; `hr@k` of each tenth of the users has an interval.
      confidence_k: list length of `confidence`.
      expected: model → metric of `kdlib.metrics.expected` → float [users]. These users may differ from those of
        `ranks`, but are the same for all models.
    """
    values = _with_pairs({name: all_metrics(of_model, ks) for name, of_model in ranks.items()}, pairs)
    rows: list[tuple] = []
    for name, metrics in values.items():
        sliced = {
            f"{metric}/{part}": metrics[metric][chosen]
            for metric, parts in (slices or {}).items()
            for part, chosen in parts.items()
        }
        for metric, per_user in (*metrics.items(), *sliced.items()):
            low, high = bootstrap_interval(per_user, samples=samples, seed=seed)
            rows.append((name, metric, _mean(per_user), low, high, len(per_user)))
        for metric, mix in (mixes or {}).items():
            rows.append((name, metric, *_mixed(metrics[mix.metric], mix, samples=samples, seed=seed)))
    rows += _expected_rows(_with_pairs(dict(expected or {}), pairs), samples=samples, seed=seed)
    for name, predicted in (confidence or {}).items():
        hits, metric = hit_rate(ranks[name], confidence_k), f"confidence@{confidence_k}"
        rows.append((name, metric, _mean(predicted), None, None, len(hits)))
        error = calibration_error(predicted, hits)
        rows.append((name, f"calibration_error@{confidence_k}", error, None, None, len(hits)))
        for number, chosen in enumerate(tenths(predicted), 1):
            low, high = bootstrap_interval(hits[chosen], samples=samples, seed=seed)
            rows.append((name, f"{metric}/tenth {number}", float(predicted[chosen].mean()), None, None, len(chosen)))
            found = float(hits[chosen].mean())
            rows.append((name, f"hr@{confidence_k}/tenth {number}", found, low, high, len(chosen)))
    columns = zip(*rows, strict=True)
    schema = tables.METRICS.schema
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )


Values = dict[str, Mapping[str, np.ndarray]]
"""Model or pair (`a - b`) → metric → float [users]."""


def _mixed(per_user: np.ndarray, mix: Mix, *, samples: int, seed: int) -> tuple[float, float, float, int]:
    """Value, both ends of the interval, and number of users of a weighted sum. NaN without users."""
    groups, shares = [per_user[mix.groups[name]] for name in mix.shares], list(mix.shares.values())
    value = sum(share * group.mean() for group, share in zip(groups, shares, strict=True)) if groups else math.nan
    low, high = mixed_bootstrap_interval(groups, shares, samples=samples, seed=seed)
    return float(value), low, high, sum(len(group) for group in groups)


def _with_pairs(values: Values, pairs: Sequence[tuple[str, str]]) -> Values:
    """The values, and the differences of all pairs whose models are among them."""
    differences = {
        f"{left} - {right}": {metric: mine - values[right][metric] for metric, mine in values[left].items()}
        for left, right in pairs
        if left in values and right in values
    }
    return values | differences


def _expected_rows(values: Values, *, samples: int, seed: int) -> list[tuple]:
    """Rows of the expected metrics. All use the same resamples, which a few matrix products compute together."""
    flat = {f"{name}\n{metric}": one[None] for name, of_model in values.items() for metric, one in of_model.items()}
    if not flat:
        return []
    resampled = nested_bootstrap_means(flat, samples=samples, seed=seed)
    return [
        (*key.split("\n"), _mean(one[0]), *percentile_interval(resampled[key]), one.shape[1])
        for key, one in flat.items()
    ]


def format_distillation(metrics: pa.Table, parameters: Mapping[str, int], *, teacher: str, k: int) -> str | None:
    """The gain by distillation as text: student, control (the student without teacher) and teacher.

    Args:
      metrics: `tables.METRICS`.
      parameters: model → its number of parameters; the teacher may be missing.
      teacher: model that the student is compared with.
      k: list length.

    Returns:
      The text; None if one of the three models has no metrics.
    """
    found = {(row["model"], row["metric"]): row for row in metrics.to_pylist()}
    metric = f"{PREFIX}ndcg@{k}"
    if ("student", metric) not in found:
        metric = f"ndcg@{k}"
    names = ("student", "control", teacher)
    if any((name, metric) not in found for name in names):
        return None
    student, control, other = (found[name, metric] for name in names)
    gained, gap = (found[f"{name} - control", metric] for name in ("student", teacher))
    what = "expected over the true model's next items" if metric.startswith(PREFIX) else "of the next item"
    lines = [f"distillation  {student['num_users']:,} users, NDCG@{k} {what}"]
    for name, row in zip(names, (student, control, other), strict=True):
        size = f"{parameters[name]:>12,} parameters" if name in parameters else ""
        interval = f"[{row['low']:.4f}, {row['high']:.4f}]"
        lines.append(f"  {label(name):28} {row['value']:.4f} {interval}{size}")
    for name, row in (("student", gained), (teacher, gap)):
        interval = f"[{row['low']:+.4f}, {row['high']:+.4f}]"
        relative = f" {row['value'] / control['value']:+.0%}" if control["value"] > 0 else ""
        pair = f"{label(name)} - {LABELS['control']}"
        lines.append(f"  {pair:44} {row['value']:+.4f} {interval}{relative}: {_verdict(row)}")
    if gap["low"] > 0:
        size = ""
        if "student" in parameters and teacher in parameters:
            size = f", with {parameters['student'] / parameters[teacher]:.0%} of its parameters"
        lines.append(
            f"  the student closes {gained['value'] / gap['value']:.0%} of the gap to its {'teachers' if teacher == 'ensemble' else 'teacher'}{size}"
        )
    return "\n".join(lines)


def _verdict(row: Mapping[str, Any]) -> str:
    return "higher" if row["low"] > 0 else "lower" if row["high"] < 0 else "no clear difference"


def format_metrics(metrics: pa.Table, *, k: int) -> str:
    """The table as text: accuracy, hit rate, NDCG with its interval, MRR and coverage of every model; then differences."""
    rows = metrics.to_pylist()
    found = {(row["model"], row["metric"]): row for row in rows}
    coverage = {
        row["model"]: row["value"] for row in rows if row["metric"].startswith("coverage@") and "/" not in row["metric"]
    }
    names = list(dict.fromkeys(str(row["model"]) for row in rows))
    lines = [
        f"  {'':28} {'accuracy@1':>10} {f'HR@{k}':>8} {f'NDCG@{k}':>8} {'95% interval':>16} {f'MRR@{k}':>8} {'coverage':>8}"
    ]
    for name in (name for name in names if " - " not in name and not name.startswith(WITHOUT)):
        ndcg = found[name, f"ndcg@{k}"]
        lines.append(
            f"  {label(name):28} {found[name, 'accuracy@1']['value']:>10.4f} {found[name, f'hr@{k}']['value']:>8.4f}"
            f" {ndcg['value']:>8.4f} [{ndcg['low']:.4f}, {ndcg['high']:.4f}] {found[name, f'mrr@{k}']['value']:>8.4f}"
            f" {format(coverage[name], '.1%') if name in coverage else '':>8}"
        )
    for name in (name for name in names if " - " in name):
        ndcg = found[name, f"ndcg@{k}"]
        pair = " - ".join(map(label, name.split(" - ")))
        lines.append(
            f"  {pair:44} NDCG@{k} {ndcg['value']:+.4f} [{ndcg['low']:+.4f}, {ndcg['high']:+.4f}] {_verdict(ndcg)}"
        )
    if "best_reachable" in names and found["best_reachable", f"ndcg@{k}"]["value"] > 0:
        share = found["student", f"ndcg@{k}"]["value"] / found["best_reachable", f"ndcg@{k}"]["value"]
        lines.append(f"  the student reaches {share:.0%} of the best reachable NDCG@{k}")
    return "\n".join(lines)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan
