"""The table of metrics, its slices of the users, and its printed forms."""

import numpy as np
import pytest

from kdlib.metrics.expected import expected_metrics
from kdlib.metrics.table import by_event_type, event_mixes, format_distillation, format_metrics, metrics_table
from kdlib.store import tables

RANKS = {
    "student": np.array([0, 2, 20, 0]),
    "control": np.array([0, 20, 20, 2]),
    "popularity": np.array([20, 20, 0, 20]),
}
SLICES = {"ndcg@10": {"head": np.array([True, True, False, False]), "tail": np.array([False, False, True, True])}}


def _table(slices=None):
    return metrics_table(RANKS, (5, 10), pairs=[("student", "control")], samples=50, seed=0, slices=slices)


def test_slices_are_means_over_their_users() -> None:
    """Every model and pair has the metric of each slice with an interval, over the users of the slice only."""
    found = _table(SLICES)
    tables.check_schema(tables.METRICS, found.schema, where="test")
    rows = {(row["model"], row["metric"]): row for row in found.to_pylist()}
    assert rows["student", "ndcg@10/head"]["value"] == pytest.approx(0.75)
    assert rows["student", "ndcg@10/tail"]["value"] == pytest.approx(0.5)
    assert rows["student - control", "ndcg@10/head"]["value"] == pytest.approx(0.25)
    assert rows["popularity", "ndcg@10/tail"]["num_users"] == 2
    assert rows["student", "ndcg@10/head"]["low"] == 0.5
    assert rows["student", "ndcg@10/head"]["high"] == 1.0
    assert ("student", "ndcg@5/head") not in rows


def test_what_a_rule_costs_is_printed() -> None:
    """The student under the rules has a row. Without a rule, only the difference is printed: what the rule costs."""
    ranks = {"student": np.array([0, 1]), "with_rules": np.array([1, 20]), "without_at_most": np.array([0, 20])}
    pairs = [("without_at_most", "with_rules")]
    text = format_metrics(metrics_table(ranks, (10,), pairs=pairs, samples=50, seed=0), k=10)
    assert "\n  student under the rules " in text
    assert "student without at_most - student under the rules" in text
    assert text.count("without at_most") == 1
    assert "NDCG@10 +0.1845" in text


def test_slices_leave_the_rest_as_it_is() -> None:
    """The rows of all users, and so the printed text, are the same with and without slices."""
    whole = [row for row in _table(SLICES).to_pylist() if "/" not in row["metric"]]
    assert whole == _table().to_pylist()
    assert format_metrics(_table(SLICES), k=10) == format_metrics(_table(), k=10)


TYPES = np.array([0, 0, 0, 2, 2, 3, 3, 3], np.int8)
"""Three views, two carts and three purchases."""
BY_TYPE = {
    "student": np.array([0, 30, 30, 3, 30, 12, 30, 0]),
    "control": np.array([0, 30, 30, 30, 30, 30, 30, 0]),
}


def _by_event_type(event_weights=None, *, ranks=BY_TYPE, types=TYPES):
    mixes = event_mixes(types, event_weights, ndcg_k=10, recall_k=20)
    slices = {"recall@20": by_event_type(types)}
    options = {"pairs": [("student", "control")], "samples": 50, "seed": 0, "slices": slices, "mixes": mixes}
    found = metrics_table(ranks, (10, 20), **options)
    tables.check_schema(tables.METRICS, found.schema, where="test")
    return {(row["model"], row["metric"]): row for row in found.to_pylist()}


def test_recall_of_each_event_type() -> None:
    """Each event type that the test has gets a recall, for every model and pair; OTTO's score is .1, .3 and .6 of them."""
    rows = _by_event_type()
    values = {name: rows["student", f"recall@20/{name}"]["value"] for name in ("view", "cart", "purchase")}
    assert values == pytest.approx({"view": 1 / 3, "cart": 1 / 2, "purchase": 2 / 3})
    assert ("student", "recall@20/favourite") not in rows
    assert rows["student", "otto@20"]["value"] == pytest.approx(0.1 / 3 + 0.3 / 2 + 0.6 * 2 / 3)
    pair = rows["student - control", "otto@20"]
    assert pair["value"] == pytest.approx(0.3 / 2 + 0.6 / 3)
    assert (pair["low"], pair["num_users"]) == (0.0, 8)
    assert pair["low"] < pair["value"] < pair["high"] <= 0.9
    assert ("student", "objective_ndcg@10") not in rows


def test_otto_needs_all_its_types() -> None:
    """A test without carts has no OTTO score, and the other types keep their recall."""
    rows = _by_event_type(types=np.where(TYPES == 2, 0, TYPES))
    assert ("student", "otto@20") not in rows
    assert rows["student", "recall@20/view"]["num_users"] == 5


def test_the_objective_weighs_the_users_of_the_ndcg() -> None:
    """The objective's NDCG is the weighted mean over the users, and the mean of the users if all weights are equal."""
    rows, weights = _by_event_type((1.0, 1.0, 3.0, 10.0)), np.array([1, 1, 1, 3, 3, 10, 10, 10])
    per_user = np.array([1, 0, 0, 1 / np.log2(5), 0, 0, 0, 1])
    assert rows["student", "objective_ndcg@10"]["value"] == pytest.approx((per_user * weights).sum() / weights.sum())
    assert rows["student - control", "objective_ndcg@10"]["value"] == pytest.approx(3 / np.log2(5) / weights.sum())
    equal = _by_event_type((2.0,) * 4)
    assert equal["student", "objective_ndcg@10"]["value"] == pytest.approx(equal["student", "ndcg@10"]["value"])


def test_users_without_a_weight_do_not_count() -> None:
    """An objective of purchases alone counts their users only. Without such a user the value is NaN, which no gate lets pass."""
    rows = _by_event_type((0.0, 0.0, 0.0, 1.0))
    assert rows["student", "objective_ndcg@10"]["num_users"] == 3
    none = _by_event_type((0.0, 0.0, 0.0, 1.0), types=np.zeros(8, np.int8))["student", "objective_ndcg@10"]
    assert none["num_users"] == 0
    assert all(np.isnan(none[name]) for name in ("value", "low", "high"))


def test_a_difference_is_told_only_where_the_interval_leaves_no_doubt() -> None:
    """An interval around 0 means no clear difference, an interval above 0 means higher, and below 0 lower."""
    ranks = {
        "a": np.array([0, 30] * 25),
        "b": np.array([30, 0] * 25),
        "good": np.zeros(50, int),
        "bad": np.full(50, 30),
    }
    pairs = [("a", "b"), ("good", "bad"), ("bad", "good")]
    text = format_metrics(metrics_table(ranks, (10,), pairs=pairs, samples=50, seed=0), k=10)
    told = [line.split("] ")[-1] for line in text.splitlines()[-3:]]
    assert told == ["no clear difference", "higher", "lower"]


def _with_expected(student: float, control: float, teacher: float):
    """Metrics of three models, given the true probability of each model's first item; for every other user 0.01 less."""
    less = np.where(np.arange(40) % 2, 0.01, 0.0)
    models = {"student": student, "control": control, "teacher": teacher}
    ranks = {name: np.zeros(4, int) for name in models}
    expected = {name: expected_metrics(np.stack([one - less, 0 * less], axis=1), (2,)) for name, one in models.items()}
    pairs = [("student", "control"), ("teacher", "control")]
    return metrics_table(ranks, (2,), pairs=pairs, samples=100, seed=0, expected=expected)


def test_expected_metrics_have_their_own_users_and_paired_differences() -> None:
    """They stand beside the observed metrics, over all users with a known truth. A constant difference has no spread."""
    found = _with_expected(0.26, 0.2, 0.28)
    tables.check_schema(tables.METRICS, found.schema, where="test")
    rows = {(row["model"], row["metric"]): row for row in found.to_pylist()}
    assert rows["student", "ndcg@2"]["num_users"] == 4
    student, pair = rows["student", "expected_ndcg@2"], rows["student - control", "expected_ndcg@2"]
    assert student["value"] == pytest.approx(0.255)
    assert student["num_users"] == pair["num_users"] == 40
    assert student["low"] < 0.255 < student["high"]
    assert pair["low"] == pytest.approx(pair["high"]) == pytest.approx(0.06)


def test_the_summary_leads_with_what_distillation_is_worth() -> None:
    """It shows three models with their sizes, both differences in per cent of the control, and the share of the gap."""
    sizes = {"student": 1_000, "control": 1_000, "teacher": 5_000}
    text = format_distillation(_with_expected(0.26, 0.2, 0.28), sizes, teacher="teacher", k=2)
    assert text is not None
    lines = text.splitlines()
    assert "40 users" in lines[0]
    assert [line.split()[0] for line in lines[1:4]] == ["student", "student", "teacher"]
    assert "1,000 parameters" in lines[1]
    assert lines[4].endswith("+0.0600 [+0.0600, +0.0600] +31%: higher")
    assert lines[6].strip() == "the student closes 75% of the gap to its teacher, with 20% of its parameters"


def test_without_a_gap_the_summary_names_no_share_of_it() -> None:
    """With a teacher that is not above the control, the text names no gap. Without a control, the text is None."""
    text = format_distillation(_with_expected(0.26, 0.2, 0.2), {}, teacher="teacher", k=2)
    assert text is not None
    assert "gap" not in text
    assert "no clear difference" in text.splitlines()[-1]
    assert format_distillation(_table(), {}, teacher="teacher", k=10) is None


def test_where_the_truth_is_not_known_the_summary_takes_the_realised_metric() -> None:
    """Real data have only one observed next item per test user."""
    ranks = RANKS | {"teacher": np.array([0, 0, 0, 0])}
    pairs = [("student", "control"), ("teacher", "control")]
    found = metrics_table(ranks, (10,), pairs=pairs, samples=50, seed=0)
    text = format_distillation(found, {}, teacher="teacher", k=10)
    assert text is not None
    assert text.startswith("distillation  4 users, NDCG@10 of the next item")
