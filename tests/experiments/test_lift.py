"""Intervals of lifts, against values worked out by hand and against each other."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from kdlib.experiments.lift import adjusted, holm, lift_of, per_user, sample_ratio, skewness


def test_a_difference_has_welch_s_interval():
    """Interval and p-value are SciPy's, for groups of different sizes and spreads."""
    rng = np.random.default_rng(5)
    for sizes in ((5, 3), (400, 40)):
        variant, control = rng.exponential(2, sizes[0]), rng.normal(2, 1, sizes[1])
        found = lift_of(variant, control)
        known: Any = stats.ttest_ind(variant, control, equal_var=False)
        bounds = known.confidence_interval(0.95)
        assert found.difference == pytest.approx((variant.mean() - control.mean(), bounds.low, bounds.high))
        assert found.p_value == pytest.approx(known.pvalue)


def test_the_skewness_is_that_of_the_mean():
    """It is the values' skewness / √users. Of a difference of alike groups it is about 0; a small group's own counts most."""
    rng = np.random.default_rng(6)
    small, large, alike = rng.exponential(1, 100), rng.exponential(1, 10_000), rng.exponential(1, 10_000)
    assert skewness(small) == pytest.approx(stats.skew(small) / 10)
    assert abs(skewness(large, alike)) < 0.002
    assert skewness(small, large) == pytest.approx(skewness(small), rel=0.1)
    assert lift_of(large, small).skewness == -lift_of(small, large).skewness
    assert skewness(np.ones(5)) == 0.0


def test_a_relative_lift_is_fieller_s():
    """The bounds r fulfil (variant − r · control)² = t² · (squared errors), which is how Fieller defines them."""
    rng = np.random.default_rng(1)
    variant, control = rng.exponential(1.1, 400), rng.exponential(1.0, 300)
    found = lift_of(variant, control)
    assert found.relative is not None
    value, low, high = found.relative
    assert value == pytest.approx(variant.mean() / control.mean() - 1)
    errors = [one.var(ddof=1) / len(one) for one in (variant, control)]
    freedom = sum(errors) ** 2 / (errors[0] ** 2 / 399 + errors[1] ** 2 / 299)
    for bound in (low, high):
        ratio = 1 + bound
        square = (variant.mean() - ratio * control.mean()) ** 2 / (errors[0] + ratio**2 * errors[1])
        assert square == pytest.approx(stats.t.ppf(0.975, freedom) ** 2)
    assert low < value < high


def test_a_relative_lift_leaves_out_0_where_the_difference_does():
    """Over lifts around the bound of significance, the two intervals and the p-value never disagree."""
    rng = np.random.default_rng(2)
    verdicts = []
    for _ in range(300):
        found = lift_of(rng.exponential(1.15, 200), rng.exponential(1.0, 500))
        assert found.relative is not None
        clear = [one.low > 0 or one.high < 0 for one in (found.difference, found.relative)]
        assert clear == [found.p_value < 0.05] * 2
        verdicts += clear[:1]
    assert 30 < sum(verdicts) < 270


def test_without_a_clear_control_there_is_no_relative_lift():
    """A control whose mean may be 0 has no ratio; the difference stays."""
    found = lift_of(np.array([1.0, 2, 3, 4]), np.array([-1.0, 1.2, -0.9, 1.0]))
    assert found.relative is None
    assert found.difference.value == pytest.approx(2.425)


def test_a_ratio_has_the_variance_of_the_jackknife():
    """The values of users have the ratio as their mean, and the variance that leaving out each user in turn gives."""
    rng = np.random.default_rng(3)
    sizes = rng.geometric(0.2, 500).astype(float)
    totals = rng.binomial(sizes.astype(int), rng.beta(1, 9, 500)).astype(float)
    values = per_user(totals, sizes)
    assert values.mean() == pytest.approx(totals.sum() / sizes.sum())
    without = (totals.sum() - totals) / (sizes.sum() - sizes)
    jackknife = 499 / 500 * ((without - without.mean()) ** 2).sum()
    assert values.var(ddof=1) / 500 == pytest.approx(jackknife, rel=0.02)
    assert per_user(totals) is totals


def test_what_was_known_before_shortens_the_interval():
    """An outcome that the past explains to 80% gets a variance of a fifth, and the lift stays; a flat past does nothing."""
    rng = np.random.default_rng(4)
    before = {name: rng.normal(3, 2, 4_000) for name in ("control", "treatment")}
    values = {name: one + rng.normal(0.1 * (name == "treatment"), 1, 4_000) for name, one in before.items()}
    after = adjusted(values, before)
    plain, found = (lift_of(one["treatment"], one["control"]).difference for one in (values, after))
    assert (found.high - found.low) / (plain.high - plain.low) == pytest.approx(np.sqrt(0.2), rel=0.03)
    assert found.low < 0.1 < found.high
    assert sum(one.sum() for one in after.values()) == pytest.approx(sum(one.sum() for one in values.values()))
    flat = adjusted(values, {name: np.ones(4_000) for name in values})
    assert all((flat[name] == values[name]).all() for name in values)


def test_p_values_among_several_are_holm_s():
    """The smallest counts three times, the next twice; none falls below one that was smaller, and none exceeds 1."""
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]


def test_shares_are_judged_by_chi_square():
    """The example of Fabijan et al.: 821,588 and 815,482 users at equal shares are an alarm. Exact shares have p = 1."""
    assert sample_ratio([821_588, 815_482], [0.5, 0.5]) == pytest.approx(1.8e-6, rel=0.05)
    assert sample_ratio([98, 440, 462], [0.1, 0.45, 0.45]) == pytest.approx(
        stats.chisquare([98, 440, 462], [100, 450, 450])[1]
    )
    assert sample_ratio([100, 450, 450], [0.1, 0.45, 0.45]) == 1.0
