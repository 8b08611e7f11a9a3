"""The nested bootstrap, checked by hand and by simulation."""

import numpy as np
import pytest

from kdlib.metrics.bootstrap import (
    bootstrap_interval,
    mixed_bootstrap_interval,
    nested_bootstrap_interval,
    nested_bootstrap_means,
    percentile_interval,
)


def test_equal_seeds_give_the_user_bootstrap() -> None:
    """If all seeds are equal, the interval is that of one seed over users, up to the noise of 4,000 resamples."""
    users = np.random.default_rng(0).exponential(1.0, 400)
    nested = nested_bootstrap_interval(np.tile(users, (3, 1)), samples=4_000, seed=1)
    alone = bootstrap_interval(users, samples=4_000, seed=2)
    assert nested == pytest.approx(alone, abs=0.1 * (alone[1] - alone[0]))


def test_equal_users_leave_the_seeds() -> None:
    """If all users are equal, only seeds vary: two of the seeds 0, 1 and 2 are drawn, so the mean 0 has probability 1/9."""
    values_SU = np.repeat(np.arange(3.0)[:, None], 50, axis=1)
    means = nested_bootstrap_means({"recipe": values_SU}, samples=20_000, seed=0)["recipe"]
    found, times = np.unique(means, return_counts=True)
    assert found.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert times / 20_000 == pytest.approx(np.array([1, 2, 3, 2, 1]) / 9, abs=0.015)


def test_a_mix_of_groups_has_the_variance_of_its_groups() -> None:
    """The interval of a weighted sum of two groups' means is that of independent means. An empty group gives NaN."""
    generator = np.random.default_rng(0)
    groups, shares = [generator.normal(1, 1, 400), generator.normal(5, 3, 100)], [0.25, 0.75]
    low, high = mixed_bootstrap_interval(groups, shares, samples=4_000, seed=1)
    value = 0.25 * groups[0].mean() + 0.75 * groups[1].mean()
    error = np.sqrt((0.25 * groups[0].std()) ** 2 / 400 + (0.75 * groups[1].std()) ** 2 / 100)
    assert (low, high) == pytest.approx((value - 1.96 * error, value + 1.96 * error), abs=0.1 * error)
    assert mixed_bootstrap_interval([groups[0]], [1.0], samples=99, seed=1) == bootstrap_interval(
        groups[0], samples=99, seed=1
    )
    assert np.isnan(mixed_bootstrap_interval([groups[0], groups[1][:0]], shares, samples=9, seed=1)).all()


def test_one_seed_varies_by_users_only() -> None:
    """A recipe with one seed and equal users has an interval of width 0."""
    assert nested_bootstrap_interval(np.full((1, 30), 0.25), samples=50, seed=0) == (0.25, 0.25)


def test_differences_are_paired_by_user() -> None:
    """Two recipes that differ by the same amount on every user have a difference with an interval of width 0."""
    values_SU = np.random.default_rng(0).exponential(5.0, (1, 500))
    low, high = nested_bootstrap_interval(values_SU + 0.5, against_SU=values_SU, samples=200, seed=0)
    assert (low, high) == pytest.approx((0.5, 0.5))
    low, high = nested_bootstrap_interval(values_SU, samples=200, seed=0)
    assert high - low > 0.5


def _crossed(generator: np.random.Generator, seeds: int, users_U: np.ndarray, mean: float) -> np.ndarray:
    """Mean + user effect + seed effect + noise, with standard deviations 0.15 for seeds and 0.5 for noise."""
    seed_S1 = generator.normal(0, 0.15, (seeds, 1))
    return mean + users_U + seed_S1 + generator.normal(0, 0.5, (seeds, len(users_U)))


def test_the_interval_covers_the_mean_over_users_and_seeds() -> None:
    """With 5 seeds the interval holds the true mean in at least 90% of trials; an interval over users alone does not."""
    generator = np.random.default_rng(0)
    nested = alone = 0
    for number in range(300):
        values_SU = _crossed(generator, 5, generator.normal(0, 1, 200), 2.0)
        low, high = nested_bootstrap_interval(values_SU, samples=300, seed=number)
        nested += low <= 2.0 <= high
        low, high = bootstrap_interval(values_SU.mean(0), samples=300, seed=number)
        alone += low <= 2.0 <= high
    assert 0.90 <= nested / 300 <= 0.99
    assert alone / 300 < 0.90


def test_the_interval_of_a_difference_covers_it() -> None:
    """The interval holds a true difference of 0.3 between recipes of 4 and 6 seeds in most trials, and 0 in few."""
    generator = np.random.default_rng(1)
    covered = without_zero = 0
    for number in range(300):
        users_U = generator.normal(0, 1, 200)
        better, worse = _crossed(generator, 4, users_U, 2.3), _crossed(generator, 6, users_U, 2.0)
        low, high = nested_bootstrap_interval(better, against_SU=worse, samples=300, seed=number)
        covered += low <= 0.3 <= high
        without_zero += low > 0
    assert 0.87 <= covered / 300 <= 0.99
    assert without_zero / 300 > 0.5


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"a": np.zeros((2, 0))},
        {"a": np.zeros((0, 2))},
        {"a": np.zeros(3)},
        {"a": np.zeros((1, 3)), "b": np.zeros((1, 4))},
        {"a": np.zeros((1, 3)), "b": np.zeros((0, 3))},
    ],
)
def test_shapes_that_do_not_fit_are_named(values: dict[str, np.ndarray]) -> None:
    """The error for missing seeds, missing users or different users shows the shapes."""
    with pytest.raises(ValueError, match=r"\[seeds, users\] over the same users.*found \{"):
        nested_bootstrap_means(values, samples=10, seed=0)


def test_blocks_of_resamples_are_all_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """With small blocks of resamples, every resample still averages the full number of users."""
    monkeypatch.setattr("kdlib.metrics.bootstrap._CELLS", 21)
    means = nested_bootstrap_means({"a": np.ones((2, 7))}, samples=10, seed=0)["a"]
    assert means == pytest.approx(np.ones(10))


def test_percentiles_by_hand() -> None:
    """The middle 90% of 0 … 100 is 5 to 95."""
    assert percentile_interval(np.arange(101.0), level=0.9) == pytest.approx((5, 95))
