"""The checks that a run must pass before it is published: plain functions from counts and metrics to gates.

A gate compares one number with bounds. Most bounds come from the trailing median: the median over the last promoted
runs. A gate that has nothing to compare with, as in the first run, is skipped and says so.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import pyarrow as pa

from kdlib.store.tables import GATES

Funnel = Mapping[str, Any]
"""Counts of a run's input: `details.funnel` in the manifest of `histories`."""

FEW_NEW_ITEMS = 1_000
FEW_NEW_ITEMS_SHARE = 0.05
"""New items up to this number, or up to this share of the items, pass the gate on their number."""

_TESTED = "users who come back in the test days, and first to an item that is new to them"
TRAILING = "trailing nights' median"
_QUARANTINED = "share of the rows read that is quarantined"
_MISSING = ("missing_user", "missing_item", "missing_time", "bad_time", "corrupt_row")


@dataclass(frozen=True)
class Gate:
    """One row of `tables.GATES`, where the fields are explained."""

    gate: str
    part: str
    value: float | None
    low: float | None
    high: float | None
    status: str
    text: str


def input_gates(
    tonight: Funnel,
    earlier: Sequence[Funnel],
    *,
    same_weekday: Sequence[Funnel] = (),
    min_volume_ratio: float,
    max_volume_ratio: float,
    max_share_rise: float,
    max_quarantined_share: float,
    max_new_item_share: float,
    max_history_length_change: float,
) -> list[Gate]:
    """Judge a run's input by fixed bounds and by the trailing median.

    Args:
      tonight: the run's funnel.
      earlier: the funnels of the last promoted runs, the newest last.
      same_weekday: the funnels of the promoted runs of the same day of the week. With any, they are the measure of the
        events and users of the day in place of `earlier`: half a Saturday may be a whole Monday.
      min_volume_ratio: least ratio to the median, for events of the day, users of the day, and all users.
      max_volume_ratio: greatest ratio to the median, for events, users and new items of the day.
      max_share_rise: how far a share may lie above the trailing median.
      max_quarantined_share: greatest share of quarantined rows, whatever earlier runs had.
      max_new_item_share: greatest share of new items among all items.
      max_history_length_change: greatest change of the mean history length, relative to the trailing median.
    """

    def before(what: str, nights: Sequence[Funnel] = earlier) -> float | None:
        found = [night[what] for night in nights if what in night]
        return float(median(found)) if found else None

    gates = [
        judged("quarantined_share", _quarantined(tonight), high=max_quarantined_share, text=_QUARANTINED),
        judged("events_of_the_day", tonight["day_events"], low=1, text="kept events of the run's own day"),
    ]
    for what, text in (("day_events", "events of the day"), ("day_users", "users of the day")):
        usual = before(what, same_weekday or earlier)
        bounds = {} if usual is None else {"low": min_volume_ratio * usual, "high": max_volume_ratio * usual}
        measure = "median of the same weekday" if same_weekday else TRAILING
        gates.append(against_median(f"{what}_volume", tonight[what], usual, bounds, text, measure=measure))
    usual = before("users")
    bounds = {} if usual is None else {"low": min_volume_ratio * usual}
    gates.append(against_median("users_volume", tonight["users"], usual, bounds, "users with a history"))
    for name, share, text in _SHARES:
        found = [share(night) for night in earlier]
        usual = median(found) if found else None
        bounds = {} if usual is None else {"high": usual + max_share_rise}
        gates.append(against_median(name, share(tonight), usual, bounds, text))
    gates += _new_items(tonight, earlier, max_share=max_new_item_share, max_ratio=max_volume_ratio)
    lengths = [_mean_length(night) for night in earlier]
    usual = median(lengths) if lengths else None
    change = max_history_length_change
    bounds = {} if usual is None else {"low": (1 - change) * usual, "high": (1 + change) * usual}
    gates.append(against_median("history_length", _mean_length(tonight), usual, bounds, "mean items of a history"))
    gates.append(_schema_gate(tonight.get("columns"), earlier[-1].get("columns") if earlier else None))
    return gates


def _new_items(tonight: Funnel, earlier: Sequence[Funnel], *, max_share: float, max_ratio: float) -> list[Gate]:
    """Judge how many items are new tonight: as a share of all items, and against the usual number."""
    if earlier:
        share = _share(tonight["new_items"], tonight["items"])
        of_all = judged("new_item_share", share, high=max_share, text="share of the items that is new tonight")
    else:
        of_all = skipped("new_item_share", "all items are new in a first run")
    no_first_run = (night for night in earlier if night.get("new_items", 0) < night.get("items", 0))
    found = [night["new_items"] for night in no_first_run if "new_items" in night]
    usual = float(median(found)) if found else None
    few = max(FEW_NEW_ITEMS, FEW_NEW_ITEMS_SHARE * tonight["items"])
    bounds = {} if usual is None else {"high": max(max_ratio * usual, few)}
    text = "items that are new tonight; bots can make up ids, and the vocabulary never forgets one"
    return [of_all, against_median("new_items_volume", tonight["new_items"], usual, bounds, text)]


_SHARES = (
    ("quarantined_rise", lambda night: _quarantined(night), _QUARANTINED),
    (
        "duplicate_rise",
        lambda night: _share(night["duplicate"] - night.get("carried_duplicate", 0), _read(night)),
        "share of the rows read that repeats another",
    ),
    (
        "missing_rise",
        lambda night: _share(sum(night["reasons"].get(reason, 0) for reason in _MISSING), _read(night)),
        "share of the rows read with a missing or unreadable value",
    ),
    (
        "without_history_rise",
        lambda night: _share(night["users_without_history"], night["users"]),
        "share of the users without a usable history, who get the popular items",
    ),
)


def quality_gates(
    metrics: pa.Table,
    earlier_coverage: Sequence[float],
    *,
    metric: str,
    coverage_metric: str,
    min_test_users: int,
    min_gain_over_popularity: float | None,
    max_loss_to_last_night: float | None,
    min_coverage_ratio: float,
) -> list[Gate]:
    """Judge a run's student: against popularity, against the model in use, and by the trailing median of the coverage.

    A comparison fails if the whole 95% interval of the paired difference lies below the bound: a significant loss
    fails, a noisy one does not.

    Args:
      metrics: the run's table METRICS.
      earlier_coverage: the student's coverage in the last promoted runs.
      metric: name of the metric that is judged, an NDCG: of all users alike, or weighted by the objective.
      coverage_metric: name of the coverage metric.
      min_test_users: least number of test users.
      min_gain_over_popularity: bound of the metric of student − popularity; None switches the gate off.
      max_loss_to_last_night: minus the bound of the metric of student − model in use; None switches the gate off.
      min_coverage_ratio: least ratio of the coverage to the trailing median.
    """
    rows = {(row["model"], row["metric"]): row for row in metrics.to_pylist()}
    tested = _TESTED + (", whose event has a weight in the objective" if _is_weighted(metric) else "")
    gates = [
        judged("test_users", rows["student", metric]["num_users"], low=min_test_users, text=tested, part="quality")
    ]
    for gate, other, bound in (
        ("student_over_popularity", "popularity", min_gain_over_popularity),
        (
            "student_over_last_night",
            "last_night",
            None if max_loss_to_last_night is None else 0.0 - max_loss_to_last_night,
        ),
    ):
        row = rows.get((f"student - {other}", metric))
        if bound is None or row is None:
            why = "switched off" if bound is None else "no promoted model of an earlier night to compare with"
            gates.append(skipped(gate, why, part="quality"))
            continue
        text = (
            f"upper end of the interval of {_in_words(metric)} student - {other.replace('_', ' ')},"
            f" {row['value']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
        )
        gates.append(judged(gate, row["high"], low=bound, text=text, part="quality"))
    coverage = rows["student", coverage_metric]["value"]
    usual = median(earlier_coverage) if earlier_coverage else None
    bounds = {} if usual is None else {"low": min_coverage_ratio * usual}
    text = f"share of the catalogue in the student's lists ({coverage_metric})"
    gates.append(against_median("coverage", coverage, usual, bounds, text, part="quality"))
    return gates


def _is_weighted(metric: str) -> bool:
    return metric.startswith("objective_")


def _in_words(metric: str) -> str:
    """`NDCG@10`, or `NDCG@10 weighted by the objective`."""
    name = metric.removeprefix("objective_").replace("ndcg", "NDCG")
    return f"{name} weighted by the objective" if _is_weighted(metric) else name


def failed(gates: Iterable[Gate]) -> list[Gate]:
    """The gates that forbid publishing."""
    return [gate for gate in gates if gate.status == "failed"]


def forced(gates: Iterable[Gate]) -> list[Gate]:
    """The same gates; failed ones have the status `forced`."""
    return [Gate(**{**asdict(g), "status": "forced"}) if g.status == "failed" else g for g in gates]


def gates_table(gates: Sequence[Gate]) -> pa.Table:
    """The gates as the table GATES."""
    return pa.Table.from_pylist([asdict(gate) for gate in gates], schema=GATES.schema)


def gates_of(table: pa.Table) -> list[Gate]:
    """The gates in a table GATES."""
    return [Gate(**row) for row in table.select(GATES.schema.names).to_pylist()]


def in_words(gate: Gate) -> str:
    """A gate as one line: `events_of_the_day 0, must be at least 1: kept events of the run's own day`."""
    if gate.value is None:
        return f"{gate.gate} {gate.status}: {gate.text}"
    sides = (("at least", gate.low), ("at most", gate.high))
    bounds = " and ".join(f"{word} {bound:,.4g}" for word, bound in sides if bound is not None)
    return f"{gate.gate} {gate.value:,.4g}, must be {bounds}: {gate.text}"


def judged(
    gate: str, value: float, *, low: float | None = None, high: float | None = None, text: str, part: str = "input"
) -> Gate:
    """A gate that passes if the value lies within the bounds, which are allowed too."""
    inside = (low is None or value >= low) and (high is None or value <= high)  # NaN lies in no bounds
    return Gate(gate, part, float(value), low, high, "passed" if inside else "failed", text)


def against_median(
    gate: str,
    value: float,
    usual: float | None,
    bounds: dict[str, float],
    text: str,
    part: str = "input",
    measure: str = TRAILING,
) -> Gate:
    """A gate with bounds from a median. Without a median (None) it is skipped."""
    if usual is None:
        return skipped(gate, f"{text}: no earlier promoted run to compare with", part=part)
    return judged(gate, value, **bounds, text=f"{text}; the {measure} is {usual:,.4g}", part=part)


def skipped(gate: str, text: str, part: str = "input") -> Gate:
    """A gate that had nothing to judge; the text says why."""
    return Gate(gate, part, None, None, None, "skipped", text)


def _schema_gate(found: Mapping[str, str] | None, before: Mapping[str, str] | None) -> Gate:
    """Fails if a column of the events is gone or has another type. New columns pass."""
    if not found or not before:
        return skipped("schema_drift", "columns of the events: no earlier promoted run to compare with")
    changed = [
        f"{name} is gone" if name not in found else f"{name} was {kind}, is {found[name]}"
        for name, kind in before.items()
        if found.get(name) != kind
    ]
    text = "columns of the events that are gone or of another type" + (f": {', '.join(changed)}" if changed else "")
    return judged("schema_drift", len(changed), high=0, text=text)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _read(night: Funnel) -> int:
    """Rows that the run read from the input and that passed the filter.

    Events carried over are not counted: all of them are valid, and soon they are nearly all rows.
    """
    return night["rows_read"] - night.get("carried", 0) - night.get("filtered", 0)


def _quarantined(night: Funnel) -> float:
    return _share(rows_judged(night)["quarantined"], _read(night) - night.get("other_days", 0))


def rows_judged(night: Funnel) -> dict[str, int]:
    """Rows that the run itself has judged, by outcome: `kept`, `duplicate`, `quarantined`, and `filtered` with a filter.

    Events carried over are not counted, because an earlier run has judged them. Rows of later days or before the period
    are not counted, because they are no fault of the data.
    """
    carried, duplicate, quarantined = (
        night.get(name, 0) for name in ("carried", "carried_duplicate", "carried_quarantined")
    )
    return {
        "kept": night["kept"] - (carried - duplicate - quarantined),
        "duplicate": night["duplicate"] - duplicate,
        "quarantined": night["quarantined"] - quarantined - night.get("other_days", 0),
        **({"filtered": night["filtered"]} if "filtered" in night else {}),
    }


def _mean_length(night: Funnel) -> float:
    return _share(night["interactions"], night["users"])
