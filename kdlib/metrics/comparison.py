"""Compare recipes that were trained with several seeds: means, intervals, differences and the share of the gap closed.

Shapes: U test users, V items, R resamples.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdlib.metrics.bootstrap import nested_bootstrap_means, percentile_interval
from kdlib.metrics.ranking import hit_rate, ndcg

K = 10
"""List length of the metrics, as in published results."""
TEACHER = "teacher_ensemble"
_METRICS = {"ndcg10": ndcg, "hr10": hit_rate}

Values = Mapping[str, Mapping[str, np.ndarray]]
"""Metric (`ndcg10` or `hr10`) → recipe → float [seeds, users], the same users in the same order for all."""


def realised(ranks: Mapping[str, np.ndarray]) -> Values:
    """Metrics of the observed next items.

    Args:
      ranks: recipe → 0-based ranks int64 [seeds, users].
    """
    return {metric: {name: of(one, K) for name, one in ranks.items()} for metric, of in _METRICS.items()}


class Figures(NamedTuple):
    """Figures by name, and the 95% intervals of the figures that have one."""

    means: dict[str, float]
    intervals: dict[str, tuple[float, float]]


def compare(
    values: Values,
    *,
    plain: Mapping[str, str],
    gaps: Mapping[str, str],
    samples: int,
    seed: int,
) -> Figures:
    """NDCG@10 and HR@10 of every recipe, and the NDCG@10 of each recipe against its own version without a teacher.

    All intervals use the same resamples of users; see `nested_bootstrap_means`.

    Args:
      values: metrics of the observed next items, or expected metrics.
      plain: recipe → its version without a teacher. Gives the figure `<recipe>_minus_<plain>_ndcg10`.
      gaps: recipe in `plain` → name of its figure (recipe − plain) / (ensemble − plain). The figure is left out where
        the interval of ensemble − plain reaches 0: then no clear gap exists.
      samples: number of resamples.
      seed: of the bootstrap.
    """
    resampled = {metric: nested_bootstrap_means(of, samples=samples, seed=seed) for metric, of in values.items()}
    means = {f"{name}_{metric}": float(one.mean()) for metric, of in values.items() for name, one in of.items()}
    intervals = {
        f"{name}_{metric}": percentile_interval(one) for metric, of in resampled.items() for name, one in of.items()
    }
    worlds = resampled["ndcg10"]
    for name, other in plain.items():
        figure = f"{name}_minus_{other}_ndcg10"
        gained, gained_R = means[f"{name}_ndcg10"] - means[f"{other}_ndcg10"], worlds[name] - worlds[other]
        means[figure], intervals[figure] = gained, percentile_interval(gained_R)
        gap_R = worlds[TEACHER] - worlds[other] if name in gaps else np.zeros(samples)
        if percentile_interval(gap_R)[0] > 0:
            means[gaps[name]] = gained / (means[f"{TEACHER}_ndcg10"] - means[f"{other}_ndcg10"])
            intervals[gaps[name]] = percentile_interval(gained_R / gap_R)
    return Figures(means, intervals)


def history_buckets(lengths: np.ndarray) -> dict[str, np.ndarray]:
    """Thirds of the users by the length of their history: name → bool [users], without empty thirds."""
    if not len(lengths):
        return {}
    first, second = np.quantile(lengths, [1 / 3, 2 / 3], method="inverted_cdf").astype(int)
    buckets = {
        f"up to {first} items": lengths <= first,
        f"{first + 1} to {second} items": (lengths > first) & (lengths <= second),
        f"more than {second} items": lengths > second,
    }
    return {name: chosen for name, chosen in buckets.items() if chosen.any()}


def popularity_buckets(counts_V: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """Users by the popularity of their target: name → bool [users], without empty buckets.

    Items are sorted by popularity. `head`, `mid` and `tail` items each have a third of the training interactions, `new`
    items have none.

    Args:
      counts_V: training interactions of each item, int64 [items].
      targets: item indices int64 [users].
    """
    order = np.argsort(-counts_V, kind="stable")
    before = np.empty(len(counts_V))
    before[order] = np.cumsum(counts_V[order]) - counts_V[order]
    third = np.minimum((before * 3 // max(counts_V.sum(), 1)).astype(int), 2)
    third[counts_V == 0] = 3
    names = ("head", "mid", "tail", "new")
    return {name: third[targets] == number for number, name in enumerate(names) if (third[targets] == number).any()}


def new_item_recall(ranks: Mapping[str, np.ndarray], is_new_U: np.ndarray, *, samples: int, seed: int) -> Figures:
    """HR@10 on the users whose target has no training interaction, as `<recipe>_new_hr10`. Empty without such users.

    Args:
      ranks: recipe → 0-based ranks int64 [seeds, users].
      is_new_U: bool [users], true where the target has no training interaction.
      samples: number of resamples.
      seed: of the bootstrap.
    """
    if not is_new_U.any():
        return Figures({}, {})
    found = {f"{name}_new_hr10": hit_rate(of_recipe[:, is_new_U], K) for name, of_recipe in ranks.items()}
    resampled = nested_bootstrap_means(found, samples=samples, seed=seed)
    means = {name: float(values.mean()) for name, values in found.items()}
    return Figures(means, {name: percentile_interval(worlds) for name, worlds in resampled.items()})


def bucketed_ndcg(ranks: Mapping[str, np.ndarray], buckets: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Bucket → its number of `users`, and each recipe's mean NDCG@10 over seeds and these users."""
    return {
        bucket: {"users": int(chosen.sum())}
        | {name: round(float(ndcg(of_recipe[:, chosen], K).mean()), 5) for name, of_recipe in ranks.items()}
        for bucket, chosen in buckets.items()
    }


def format_comparison(results: Mapping[str, Any], plain: Mapping[str, str | None]) -> str:
    """The results as a table, one line per recipe, baselines and teachers first.

    Args:
      results: `figures`, `intervals` and `models` of a results file.
      plain: recipe → the recipe without a teacher that it is compared with.
    """
    figures, intervals, models = results["figures"], results["intervals"], results["models"]
    lines = [
        f"  {'':22} {'NDCG@10':>8} {'95% interval':>16} {'HR@10':>7} {'seeds':>5} {'minus plain':>12} {'95% interval':>18}"
        f" {'gap':>5} {'parameters':>11} {'in layers':>10} {'kB':>8} {'users/s':>8}"
    ]
    names = [name.removesuffix("_ndcg10") for name in figures if name.endswith("_ndcg10") and "_minus_" not in name]
    names = [name for name in names if not name.endswith("_realised")]
    for name in sorted(names, key=lambda one: one in models):
        line = f"  {name:22} {figures[f'{name}_ndcg10']:>8.4f} {_interval(intervals.get(f'{name}_ndcg10'), '.4f'):>16}"
        line += f" {figures[f'{name}_hr10']:>7.4f}" if f"{name}_hr10" in figures else f" {'':7}"
        if name in models:
            facts, difference = models[name], f"{name}_minus_{plain.get(name)}_ndcg10"
            line += f" {facts['seeds']:>5}"
            line += f" {figures[difference]:>+12.4f} " if difference in figures else f" {'':12} "
            line += f"{_interval(intervals.get(difference), '+.4f'):>18}"
            gap = figures.get(f"{name}_gap_closed", figures.get("gap_closed") if facts["main"] else None)
            line += f" {'' if gap is None else format(gap, '.0%'):>5}"
            line += f" {facts['parameters']:>11,} {facts['parameters_without_item_tables']:>10,}"
            line += f" {facts['bytes'] / 1000:>8,.0f} {facts['users_per_second']:>8,.0f}"
        lines.append(line)
    return "\n".join(lines)


def _interval(bounds: Sequence[float] | None, form: str) -> str:
    return "" if bounds is None else f"[{bounds[0]:{form}}, {bounds[1]:{form}}]"
