"""The nested bootstrap by hand and by simulation."""

import numpy as np
import pytest

from kdlib.metrics.bootstrap import (
    bootstrap_interval,
    nested_bootstrap_interval,
    nested_bootstrap_means,
    percentile_interval,
)


def test_equal_seeds_give_the_user_bootstrap() -> None:
    """Where all seeds agree, the interval is that of one seed over users, up to the noise of 4,000 resamples."""
    users = np.random.default_rng(0).exponential(1.0, 400)
    nested = nested_bootstrap_interval(np.tile(users, (3, 1)), samples=4_000, seed=1)
    alone = bootstrap_interval(users, samples=4_000, seed=2)
    assert nested == pytest.approx(alone, abs=0.1 * (alone[1] - alone[0]))


def test_equal_users_leave_the_seeds() -> None:
    """Where all users agree, only seeds vary: of seeds 0, 1 and 2 two are drawn, so 0 and 2 occur with chance 1/9 each."""
    values_SU = np.repeat(np.arange(3.0)[:, None], 50, axis=1)
    means = nested_bootstrap_means({"recipe": values_SU}, samples=20_000, seed=0)["recipe"]
    found, times = np.unique(means, return_counts=True)
    assert found.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert times / 20_000 == pytest.approx(np.array([1, 2, 3, 2, 1]) / 9, abs=0.015)


def test_one_seed_varies_by_users_only() -> None:
    """A recipe with one seed and equal users has an interval without width."""
    assert nested_bootstrap_interval(np.full((1, 30), 0.25), samples=50, seed=0) == (0.25, 0.25)


def test_differences_are_paired_by_user() -> None:
    """Two recipes that differ by the same amount on every user have a difference without width."""
    values_SU = np.random.default_rng(0).exponential(5.0, (1, 500))
    low, high = nested_bootstrap_interval(values_SU + 0.5, against_SU=values_SU, samples=200, seed=0)
    assert (low, high) == pytest.approx((0.5, 0.5))
    low, high = nested_bootstrap_interval(values_SU, samples=200, seed=0)
    assert high - low > 0.5


def _crossed(generator: np.random.Generator, seeds: int, users_U: np.ndarray, mean: float) -> np.ndarray:
    """Values = mean + user's own + seed's own + noise: standard deviations of 1, 0.15 and 0.5."""
    seed_S1 = generator.normal(0, 0.15, (seeds, 1))
    return mean + users_U + seed_S1 + generator.normal(0, 0.5, (seeds, len(users_U)))


def test_the_interval_covers_the_mean_over_users_and_seeds() -> None:
    """With 5 seeds the mean lies inside about nine times in ten or more; an interval over users alone misses it often."""
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
    """A true difference of 0.3 between recipes of 4 and 6 seeds lies inside nine times in ten or more, and 0 seldom."""
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
    """Without seeds or users, or over different users, the error shows the shapes."""
    with pytest.raises(ValueError, match=r"\[seeds, users\] over the same users.*found \{"):
        nested_bootstrap_means(values, samples=10, seed=0)


def test_blocks_of_resamples_are_all_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut into blocks of few resamples, every resample still averages as many users as there are."""
    monkeypatch.setattr("kdlib.metrics.bootstrap._CELLS", 21)
    means = nested_bootstrap_means({"a": np.ones((2, 7))}, samples=10, seed=0)["a"]
    assert means == pytest.approx(np.ones(10))


def test_percentiles_by_hand() -> None:
    """Of 0 … 100 the middle 90% is 5 to 95."""
    assert percentile_interval(np.arange(101.0), level=0.9) == pytest.approx((5, 95))
