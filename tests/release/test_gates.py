"""A gate compares a number with bounds; each gate passes, fails, and is skipped if it has nothing to compare with."""

import math

import pyarrow as pa
import pytest

from kdlib.config.operations import GatesConfig
from kdlib.release import gates
from kdlib.store.tables import GATES, METRICS

BOUNDS = GatesConfig()
SEARCH_ALONE = {"max_empty_search_share", "max_search_milliseconds", "max_search_loss"}
INPUT = BOUNDS.model_dump(
    exclude={
        "trailing_nights",
        "min_test_users",
        "min_gain_over_popularity",
        "max_loss_to_last_night",
        "min_coverage_ratio",
        *SEARCH_ALONE,
    }
)
QUALITY = BOUNDS.model_dump(exclude={"trailing_nights", *INPUT, *SEARCH_ALONE})
USUAL = {
    "rows_read": 1000,
    "kept": 900,
    "duplicate": 50,
    "quarantined": 50,
    "reasons": {"missing_user": 10},
    "day_events": 100,
    "day_users": 40,
    "users": 200,
    "interactions": 800,
    "users_without_history": 4,
    "items": 100,
    "new_items": 2,
    "columns": {"user": "string", "ts": "bigint"},
}


def judge(earlier=(USUAL, USUAL, USUAL), same_weekday=(), **changes):
    found = gates.input_gates(USUAL | changes, earlier, same_weekday=same_weekday, **INPUT)
    return {gate.gate: gate for gate in found}


def metrics(**rows):
    """Metrics of 100 test users from `model=(value, low, high)`; two underscores stand for ` - `."""
    made = [
        {"model": model.replace("__", " - "), "metric": "ndcg@10", "value": v, "low": lo, "high": hi, "num_users": 100}
        for model, (v, lo, hi) in rows.items()
    ]
    made.append(
        {"model": "student", "metric": "coverage@20", "value": 0.4, "low": None, "high": None, "num_users": 100}
    )
    return pa.Table.from_pylist(made, schema=METRICS.schema)


def judge_quality(table, coverage=(0.4,), *, metric="ndcg@10", **bounds):
    found = gates.quality_gates(table, coverage, metric=metric, coverage_metric="coverage@20", **(QUALITY | bounds))
    return {gate.gate: gate for gate in found}


def test_the_objective_decides_where_there_is_one():
    """With an objective the student must win by its weights. The text says so, and only users with a weight count."""
    plain = metrics(student=(0.2, 0.1, 0.3), **{"student__popularity": (0.1, 0.05, 0.15)}).to_pylist()
    weighed = [
        row | {"metric": "objective_ndcg@10", "value": -0.1, "low": -0.2, "high": -0.05, "num_users": 40}
        for row in plain
        if row["metric"] == "ndcg@10"
    ]
    table = pa.Table.from_pylist(plain + weighed, schema=METRICS.schema)
    assert judge_quality(table)["student_over_popularity"].status == "passed"
    found = judge_quality(table, metric="objective_ndcg@10")
    assert found["student_over_popularity"].status == "failed"
    assert "NDCG@10 weighted by the objective student - popularity" in found["student_over_popularity"].text
    assert found["test_users"].value == 40
    assert found["test_users"].text.endswith("whose event has a weight in the objective")


def test_a_usual_night_passes_every_gate():
    """A run like the ones before it passes, and the table holds one row for each gate."""
    found = judge()
    assert {gate.status for gate in found.values()} == {"passed"}
    table = gates.gates_table(list(found.values()))
    assert table.schema.equals(GATES.schema)
    assert gates.gates_of(table) == list(found.values())


def test_rows_of_other_days_block_no_night_of_the_past():
    """Rows of days after the run's day are out of its period, but do not count as quarantined."""
    found = judge(
        rows_read=3000, quarantined=2050, reasons={"missing_user": 10, "out_of_period": 2000}, other_days=2000
    )
    assert {gate.status for gate in found.values()} == {"passed"}
    assert found["quarantined_share"].value == 0.05
    wrong_clock = judge(rows_read=3000, quarantined=2050, reasons={"out_of_period": 2000}, other_days=0)
    assert wrong_clock["quarantined_share"].status == "failed"


ESTABLISHED = {
    "rows_read": 90_000,
    "carried": 87_000,
    "kept": 87_850,
    "duplicate": 150,
    "quarantined": 2_000,
    "carried_duplicate": 0,
    "carried_quarantined": 1_850,
    "reasons": {"bot_user": 1_900, "missing_user": 100},
}
"""90 days of 1,000 rows, a few bots' rows among them. The last three days are read, the others carried over."""


def test_faults_of_the_newly_read_days_are_not_lost_among_the_events_carried_over():
    """If 45% of the rows in the three days that are read have no user, the share is 45%, not 1.5% of ninety days."""
    usual = [USUAL | ESTABLISHED] * 3
    good = judge(earlier=usual, **ESTABLISHED)
    assert not gates.failed(good.values())
    assert good["quarantined_share"].value == good["duplicate_rise"].value == 0.05
    assert good["missing_rise"].value == 100 / 3000
    faulty = ESTABLISHED | {"quarantined": 3_250, "reasons": {"bot_user": 1_900, "missing_user": 1_350}}
    found = judge(earlier=usual, **faulty)
    assert {gate.gate for gate in gates.failed(found.values())} == {"quarantined_rise", "missing_rise"}
    assert found["missing_rise"].value == 0.45
    assert gates.rows_judged(faulty | {"kept": 86_600}) == {"kept": 1_450, "duplicate": 150, "quarantined": 1_400}
    assert gates.rows_judged(faulty | {"kept": 86_600, "other_days": 400})["quarantined"] == 1_000
    assert gates.rows_judged(faulty | {"filtered": 7})["filtered"] == 7
    repeated = judge(earlier=usual, **ESTABLISHED | {"duplicate": 1_350})
    assert [gate.gate for gate in gates.failed(repeated.values())] == ["duplicate_rise"]


@pytest.mark.parametrize(
    ("gate", "changes"),
    [
        ("events_of_the_day", {"day_events": 0}),
        ("day_events_volume", {"day_events": 49}),
        ("day_events_volume", {"day_events": 301}),
        ("day_users_volume", {"day_users": 19}),
        ("users_volume", {"users": 99, "interactions": 396}),
        ("quarantined_share", {"quarantined": 501}),
        ("quarantined_rise", {"quarantined": 151}),
        ("duplicate_rise", {"duplicate": 151}),
        ("missing_rise", {"reasons": {"missing_user": 100, "bad_time": 11}}),
        ("without_history_rise", {"users_without_history": 25}),
        ("new_item_share", {"new_items": 31}),
        ("history_length", {"interactions": 399}),
        ("history_length", {"interactions": 1201}),
        ("schema_drift", {"columns": {"user": "string"}}),
        ("schema_drift", {"columns": {"user": "string", "ts": "string"}}),
    ],
)
def test_each_gate_of_the_input_fails_just_outside_its_bound(gate, changes):
    """One step beyond the bound fails the gate, and its line names the gate, the value and the bound."""
    found = judge(**changes)[gate]
    assert found.status == "failed"
    assert found in gates.failed(judge(**changes).values())
    assert f"{gate} {found.value:,.4g}, must be at " in gates.in_words(found)


@pytest.mark.parametrize(
    "changes",
    [
        {"day_events": 50},
        {"day_events": 300},
        {"users": 100, "interactions": 400},
        {"quarantined": 150},
        {"new_items": 30},
        {"interactions": 400},
        {"columns": {"user": "string", "ts": "bigint", "new": "int"}},
    ],
)
def test_a_bound_itself_passes(changes):
    """Bounds are inclusive, and a new column of the events passes."""
    assert not gates.failed(judge(**changes).values())


def test_a_first_night_is_judged_by_absolute_bounds_alone():
    """Without earlier runs the comparisons are skipped, but an empty day and bad input still fail."""
    assert not gates.failed(judge(earlier=()).values())
    assert judge(earlier=())["day_events_volume"].status == "skipped"
    assert {g.gate for g in gates.failed(judge(earlier=(), day_events=0, quarantined=900).values())} == {
        "events_of_the_day",
        "quarantined_share",
    }


def test_the_median_keeps_one_odd_night_from_setting_the_bounds():
    """One earlier run of ten times the volume does not make a usual run fail."""
    odd = USUAL | {"day_events": 1000, "day_users": 400}
    assert not gates.failed(judge(earlier=(USUAL, odd, USUAL)).values())


@pytest.mark.parametrize(
    ("day_events", "same_weekday", "status"),
    [
        (100, [200, 210, 5], "passed"),
        (99, [200, 210, 5], "failed"),
        (20, [30], "passed"),
        (20, [], "failed"),
        (600, [201], "passed"),
        (600, [], "failed"),
    ],
)
def test_a_day_is_compared_with_the_same_weekday(day_events, same_weekday, status):
    """The volume of a day is measured by the same weekday of earlier weeks. Without one, the trailing runs are the measure."""
    found = judge(same_weekday=[USUAL | {"day_events": events} for events in same_weekday], day_events=day_events)
    assert found["day_events_volume"].status == status
    measure = "median of the same weekday" if same_weekday else "trailing nights' median"
    assert f"events of the day; the {measure} is " in found["day_events_volume"].text


def test_a_million_ids_that_bots_made_up_are_refused():
    """Many more new items than usual fail, even where they are a small share of a large vocabulary.

    The run is then not promoted, and the next run extends the vocabulary of the last promoted one.
    """
    large = {"items": 3_000_000, "new_items": 4_000}
    first = USUAL | {"items": 2_992_000, "new_items": 2_992_000}
    earlier = (first, USUAL | large, USUAL | large)

    def status(**changes):
        found = judge(earlier, **(large | changes))
        assert found["new_item_share"].status == "passed"
        return found["new_items_volume"].status

    assert status(items=4_000_000, new_items=1_000_000) == "failed"
    assert status(new_items=150_001) == "failed"
    assert status(new_items=150_000) == "passed"
    assert status(items=8_000, new_items=1_000) == "passed"
    assert status(items=80_000, new_items=12_001) == "failed"
    assert status(items=80_000, new_items=12_000) == "passed"
    assert judge((first,), **large)["new_items_volume"].status == "skipped"


def test_a_significant_loss_fails_and_a_noisy_one_does_not():
    """A comparison with popularity or the model in use fails only if the whole interval lies below the bound."""
    good = {"student": (0.2, 0.1, 0.3), "student__popularity": (0.05, 0.01, 0.09)}
    for noise in ((-0.01, -0.03, 0.0), (0.01, -0.01, 0.02)):
        assert not gates.failed(judge_quality(metrics(**good, student__last_night=noise)).values())
    for loss in ((-0.02, -0.03, -0.001), (math.nan, math.nan, math.nan)):
        found = judge_quality(metrics(**good, student__last_night=loss))
        assert [gate.gate for gate in gates.failed(found.values())] == ["student_over_last_night"]
    worse = judge_quality(metrics(**good | {"student__popularity": (-0.02, -0.03, -0.01)}))
    assert [gate.gate for gate in gates.failed(worse.values())] == ["student_over_popularity"]
    assert worse["student_over_last_night"].status == "skipped"
    allowed = judge_quality(metrics(**good, student__last_night=(-0.02, -0.03, -0.01)), max_loss_to_last_night=0.01)
    assert not gates.failed(allowed.values())
    off = judge_quality(metrics(student=(0.2, 0.1, 0.3)), min_gain_over_popularity=None)
    assert off["student_over_popularity"].text == "switched off"


def test_too_few_test_users_and_a_collapsed_student_fail():
    """A run fails with too few test users, or if its lists hold less than half the usual share of the catalogue."""
    found = judge_quality(metrics(student=(0.2, 0.1, 0.3)), coverage=(0.81, 0.9, 0.7), min_test_users=101)
    assert {gate.gate for gate in gates.failed(found.values())} == {"test_users", "coverage"}
    assert not gates.failed(judge_quality(metrics(student=(0.2, 0.1, 0.3)), coverage=()).values())


def test_force_overrules_failures_only():
    """`forced` changes the status of failed gates only, and keeps values and bounds."""
    found = list(judge(day_events=0).values())
    after = gates.forced(found)
    assert not gates.failed(after)
    assert [g.gate for g in after if g.status == "forced"] == [g.gate for g in gates.failed(found)]
    assert [(g.value, g.low, g.high) for g in after] == [(g.value, g.low, g.high) for g in found]
