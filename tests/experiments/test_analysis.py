"""From an added-up log to comparisons: who counts, against whom, and what is refused."""

import numpy as np
import pyarrow as pa
import pytest

from kdlib.errors import InputError
from kdlib.experiments.analysis import compare, control_of, groups_of
from kdlib.experiments.exposures import Columns, Metric, add_up

COLUMNS = Columns("user", "variant")
METRICS = (Metric("clicks"),)


def log_of(*rows, metrics=METRICS, columns=COLUMNS):
    """A log of rows (user, variant, clicks), with a column `past` that differs in the first row."""
    users, variants, clicks = zip(*rows, strict=True)
    past = np.array(clicks, float)
    past[:1] += 0.5
    table = pa.table({"user": users, "variant": pa.array(variants, pa.string()), "clicks": np.array(clicks, float)})
    return add_up(table.append_column("past", pa.array(past)), columns, metrics)


def test_users_of_two_variants_are_left_out_and_named():
    """Users without a variant are left out and counted. A user with some rows that lack it belongs to its variant."""
    rows = [("u1", "a", 1), ("u1", "a", 0), ("u2", "b", 1), ("u3", "a", 1), ("u3", "b", 1), ("u4", None, 1)]
    log = log_of(*rows, ("u5", "b", 1), ("u5", None, 1))
    found = groups_of(log)
    assert (found.mixed, found.without) == (("u3",), 1)
    named = {name: sorted(log.users.take(pa.array(places)).to_pylist()) for name, places in found.places.items()}
    assert named == {"a": ["u1"], "b": ["u2", "u5"]}


def test_the_control_is_named_or_called_so_or_largest():
    """A given control counts first, then `control`, then the variant with the most users."""
    rows = [
        (f"{name}{number}", name, number)
        for name, most in (("a", 3), ("control", 2), ("b", 4))
        for number in range(most)
    ]
    groups = groups_of(log_of(*rows))
    assert control_of(groups, None) == "control"
    assert control_of(groups, "a") == "a"
    assert control_of(groups_of(log_of(*(row for row in rows if row[1] != "control"))), None) == "b"
    with pytest.raises(
        InputError, match=r"expected the control old and another variant, found a, b, control. .* --control"
    ):
        control_of(groups, "old")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("u1", "a", 1), ("u2", "a", 0)], "nothing to compare: expected the control a and another variant, found a"),
        ([("u1", None, 1)], "found no variant"),
        ([("u1", "a", 1), ("u2", "a", 0), ("u3", "b", 1)], "variant b has 1 users .* an interval needs 2"),
    ],
)
def test_too_little_to_compare_is_an_error(rows, message):
    """One variant alone, none at all, and a variant with one user."""
    with pytest.raises(InputError, match=message):
        control_of(groups_of(log_of(*rows)), None)


def test_a_column_with_many_values_holds_no_variants():
    """A column of ids in place of the variants is an error that says how to name the right one."""
    with pytest.raises(InputError, match=r"the log has 30 variants, among them v0, v1, v10; .* --column variant=NAME"):
        groups_of(log_of(*((f"u{number}", f"v{number}", 1) for number in range(30))))


def test_each_variant_is_compared_in_each_metric():
    """Means by user and by exposure, their differences, and Holm's p-values over all four comparisons."""
    rng = np.random.default_rng(1)
    rows = [
        (f"u{number}", "abc"[number % 3], click)
        for number in range(300)
        for click in rng.integers(0, 2 + (number % 3 == 1), 1 + number % 5)
    ]
    metrics = [Metric.of("clicks"), Metric.of("clicks/exposures")]
    log = log_of(*rows, metrics=metrics)
    found = compare(log, COLUMNS, metrics, groups_of(log), control="a")
    assert [(one.metric.name, one.variant) for one in found] == [
        ("clicks / user", "b"),
        ("clicks / user", "c"),
        ("clicks / exposures", "b"),
        ("clicks / exposures", "c"),
    ]
    clicks = {name: [click for _, variant, click in rows if variant == name] for name in "abc"}
    assert found[0].mean == pytest.approx(sum(clicks["b"]) / 100)
    assert found[3].mean == pytest.approx(np.mean(clicks["c"]))
    for one in found:
        assert one.lift.difference.value == pytest.approx(one.mean - one.control_mean)
        assert one.holm_p >= one.lift.p_value
    clearest = min(found, key=lambda one: one.lift.p_value)
    assert clearest.holm_p / clearest.lift.p_value == pytest.approx(4)


def test_the_past_explains_away_what_it_knows():
    """A past that equals the outcome, but for one user, leaves hardly a difference."""
    rng = np.random.default_rng(2)
    rows = [(f"u{number}", "ab"[number % 2], rng.poisson(3)) for number in range(2_000)]
    columns = Columns("user", "variant", before="past")
    log = log_of(*rows, columns=columns)
    plain, found = (compare(log, one, [Metric("clicks")], groups_of(log), control="a")[0] for one in (COLUMNS, columns))
    assert abs(found.lift.difference.value) < 0.001 < abs(plain.lift.difference.value)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("clicks", "all users of b and a have the same clicks / user"),
        ("past/clicks", "the sum of clicks is not above 0"),
    ],
)
def test_an_outcome_that_is_the_same_for_all_is_an_error(metric, message):
    """Nothing can be said about clicks if nobody has clicked."""
    metrics = [Metric.of(metric)]
    log = log_of(*((f"u{number}", "ab"[number % 2], 0) for number in range(10)), metrics=metrics)
    with pytest.raises(InputError, match=message):
        compare(log, COLUMNS, metrics, groups_of(log), control="a")
