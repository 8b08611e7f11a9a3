"""How often the 95% intervals of `distilrec abtest` hold the truth, on simulated exposure logs whose truth is known.

    python -m tests.benchmarks.abtest_coverage

Users are heavy-tailed: a few have most of the exposures, the clicks and the revenue. The logs go the way of the command, from
exposures in a table to intervals. Also measured: how often the check of the users' shares is wrong, and what it finds. One
thread. The result is written to results/abtest_coverage.json.
"""

import json
import math
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import stats

from jobs.benchmark.provenance import package_versions, processor
from jobs.runtime.console import say
from kdlib.experiments.analysis import compare, groups_of
from kdlib.experiments.exposures import Columns, Log, Metric, add_up
from kdlib.experiments.lift import ALARM, MOST_SKEWNESS, Estimate, lift_of, sample_ratio
from kdlib.experiments.off_policy import judged, overlap, warnings_of

RESULT = Path(__file__).parent / "results" / "abtest_coverage.json"
SIZES, REPETITIONS, CHECKS = (1_000, 3_000, 10_000), 1_000, 20_000
SEED = 29
SHARES = {"control": 0.45, "holdout": 0.10, "treatment": 0.45}
EFFECTS = {"control": 1.0, "holdout": 0.95, "treatment": 1.05}
"""Variant → factor of its users' clicks."""
METRICS = (Metric("revenue"), Metric("clicks", "exposures"))
COLUMNS = Columns("user_id", "variant", before="before", propensity="propensity", target="target near")

ACTIVITY, EXPOSURES = 0.5, 4.0
"""Shape of the users' activity, a gamma distribution of mean 1; exposures beside the first, for a user of activity 1."""
CLICKS, ORDERS, PRICE, SPREAD = 0.1, 0.3, math.exp(3.5), 1.0
"""Mean click rate; orders of a click; mean price of an order, and the spread of its logarithm."""
TYPES, LISTS = 3, 10
STEPS = {"near": 0.5, "far": 2.0, "very far": 8.0}
"""How much a policy to judge prefers other lists than the logged policy."""


class Policies(NamedTuple):
    """Of each type of users (rows) and each list (columns)."""

    logged: NDArray
    """Probabilities."""
    targets: dict[str, NDArray]
    """The same of the policies to judge."""
    worth: NDArray
    """Factor of the clicks; 1 in the mean over what is logged."""


def policies() -> Policies:
    """The same in each repetition."""
    rng = np.random.default_rng(SEED)
    likes, wanted = 1.5 * rng.normal(0, 1, (TYPES, LISTS)), rng.normal(0, 1, (TYPES, LISTS))
    logged = _softmax(likes)
    worth = rng.uniform(0.75, 1.25, (TYPES, LISTS))
    worth /= (logged * worth).sum(1, keepdims=True)
    return Policies(logged, {name: _softmax(likes + step * wanted) for name, step in STEPS.items()}, worth)


def _softmax(scores: NDArray) -> NDArray:
    found = np.exp(scores)
    return found / found.sum(1, keepdims=True)


def truth() -> dict[str, dict[str, float]]:
    """Expected metrics: metric → variant or policy → value."""
    active, their_activity = (float(stats.gamma.sf(1, shape, scale=1 / ACTIVITY)) for shape in (ACTIVITY, ACTIVITY + 1))
    exposures, of_active = 1 + EXPOSURES, active + EXPOSURES * their_activity
    clicks = CLICKS * (exposures + of_active) / 2
    by_variant = {name: clicks * effect for name, effect in EFFECTS.items()}
    made = policies()
    logged = sum(SHARES[name] * by_variant[name] for name in SHARES) / exposures
    values = {name: float((of_lists * made.worth).sum(1).mean()) for name, of_lists in made.targets.items()}
    return {
        "revenue / user": {name: one * ORDERS * PRICE for name, one in by_variant.items()},
        "clicks / exposures": {name: one / exposures for name, one in by_variant.items()},
        "clicks / exposure": {"logged": logged} | {name: logged * one for name, one in values.items()},
    }


def exposures(users: int, rng: np.random.Generator, made: Policies) -> pa.Table:
    """A made-up log, one row for each exposure."""
    activity = rng.gamma(ACTIVITY, 1 / ACTIVITY, users)
    variant = rng.choice(len(SHARES), users, p=list(SHARES.values()))
    effect = np.array([EFFECTS[name] for name in SHARES])[variant]
    rate = rng.beta(1, 9, users) * 10 * CLICKS * (1 + (activity > 1)) / 2 * effect
    taste, kind = rng.lognormal(-0.125, 0.5, users), rng.integers(0, TYPES, users)
    owner = np.repeat(np.arange(users), 1 + rng.poisson(EXPOSURES * activity))
    type_ = kind[owner]
    shown = (rng.random(len(owner))[:, None] > made.logged.cumsum(1)[type_][:, :-1]).sum(1)
    clicks = rng.random(len(owner)) < rate[owner] * made.worth[type_, shown]
    price = taste[owner] * rng.lognormal(np.log(PRICE) - SPREAD**2 / 2, SPREAD, len(owner))
    ids = pa.array([f"u{number}" for number in range(users)])
    columns: dict[str, Any] = {
        "user_id": ids.take(pa.array(owner)),
        "variant": pa.array(list(SHARES)).take(pa.array(variant[owner])),
        "clicks": clicks.astype(np.float64),
        "revenue": price * (clicks & (rng.random(len(owner)) < ORDERS)),
        "before": rng.poisson(EXPOSURES * activity)[owner].astype(np.float64),
        "propensity": made.logged[type_, shown],
    }
    return pa.table(columns | {f"target {name}": one[type_, shown] for name, one in made.targets.items()})


def repetition(
    users: int, rng: np.random.Generator, made: Policies, known: dict[str, dict[str, float]]
) -> dict[str, float]:
    """What one log shows: name → 1 or 0, whether the interval holds the truth; or another figure."""
    table = exposures(users, rng, made)
    log = add_up(table, COLUMNS, METRICS)
    groups = groups_of(log)
    found = {"alarm": float(sample_ratio(list(groups.counts.values()), list(SHARES.values())) < ALARM)}
    for label, columns in (("", replace(COLUMNS, before=None)), (", adjusted", COLUMNS)):
        for one in compare(log, columns, METRICS, groups, control="control"):
            values = known[one.metric.name]
            name = f"{one.metric.name}, {one.variant}{label}"
            difference = values[one.variant] - values["control"]
            found[f"difference: {name}"] = holds(one.lift.difference, difference)
            found[f"relative lift: {name}"] = holds(one.lift.relative, difference / values["control"])
            found[f"width: {name}"] = one.lift.difference.high - one.lift.difference.low
            found[f"warned: {name}"] = float(abs(one.lift.skewness) > MOST_SKEWNESS)
    found |= dict(_policies_of(table, log, known["clicks / exposure"]))
    clicks, variant = table["clicks"].to_numpy(), table["variant"].to_numpy()
    naive = lift_of(clicks[variant == "treatment"], clicks[variant == "control"])
    values = known["clicks / exposures"]
    found["difference: clicks / exposures, treatment, exposures as if independent"] = holds(
        naive.difference, values["treatment"] - values["control"]
    )
    return found


def _policies_of(table: pa.Table, log: Log, known: dict[str, float]) -> Iterator[tuple[str, float]]:
    """The policy `near` is judged by the log that was added up, the others by their weights here."""
    users = table["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    clicks, propensity = table["clicks"].to_numpy(), table["propensity"].to_numpy()
    for name in STEPS:
        weights = table[f"target {name}"].to_numpy() / propensity
        sums = {"clicks": clicks, "weighted clicks": weights * clicks, "weight": weights, "rows": np.ones(len(users))}
        sums = log.sums if name == "near" else {key: np.bincount(users, one) for key, one in sums.items()}
        one = judged(sums["clicks"], sums["weighted clicks"], sums["weight"], sums["rows"])
        spread = overlap(sums["weight"], sums["rows"])
        yield f"IPS: {name}", holds(one.ips, known[name])
        yield f"SNIPS: {name}", holds(one.snips, known[name])
        yield f"SNIPS − logged: {name}", holds(one.gain, known[name] - known["logged"])
        yield f"effective users: {name}", spread.effective_users
        yield f"warned: {name}", float(bool(warnings_of(spread)))


def holds(found: Estimate | None, value: float) -> float:
    """1.0 if the interval holds the value. No interval holds any value."""
    return float(found is None or found.low <= value <= found.high)


def means(users: int, repetitions: int, seed: int) -> dict[str, float]:
    """The mean of each figure over the repetitions: of intervals their coverage."""
    rng, made, known = np.random.default_rng(seed), policies(), truth()
    found = defaultdict[str, float](float)
    for _ in range(repetitions):
        for name, value in repetition(users, rng, made, known).items():
            found[name] += value / repetitions
    return dict(found)


def alarms(users: int, *, kept: float, checks: int, seed: int) -> float:
    """Share of alarms of the check of shares, if the log has this part of one variant's users."""
    rng, shares = np.random.default_rng(seed), list(SHARES.values())
    drawn = rng.multinomial(users, shares, checks)
    drawn[:, -1] = rng.binomial(drawn[:, -1], kept)
    return float(np.mean([sample_ratio(counts, shares) < ALARM for counts in drawn]))


def run() -> None:
    """Measure, and write the result."""
    pa.set_cpu_count(1)
    started = time.process_time()
    coverage = {str(users): means(users, REPETITIONS, SEED + users) for users in SIZES}
    found = {
        f"no loss, {users} users": alarms(users, kept=1, checks=CHECKS, seed=SEED) for users in (*SIZES, 1_000_000)
    }
    found |= {
        f"1% of treatment lost, {users} users": alarms(users, kept=0.99, checks=1_000, seed=SEED)
        for users in (100_000, 1_000_000, 3_000_000)
    }
    result = {
        "command": "python -m tests.benchmarks.abtest_coverage",
        "seeds": {"policies": SEED, "checks": SEED} | {f"{users} users": SEED + users for users in SIZES},
        "hardware": f"{processor()}, {os.cpu_count()} cores, one thread",
        "versions": package_versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "repetitions": REPETITIONS,
        "checks_without_loss": CHECKS,
        "processor_seconds": round(time.process_time() - started),
        "truth": truth(),
        "coverage_by_users": {
            users: {name: round(one, 4) for name, one in each.items()} for users, each in coverage.items()
        },
        "alarms": {name: round(share, 5) for name, share in found.items()},
    }
    RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    say(f"wrote {RESULT}")


if __name__ == "__main__":
    sys.exit(run())
