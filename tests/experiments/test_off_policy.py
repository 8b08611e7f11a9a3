"""IPS and SNIPS against hand values, and their warnings."""

import numpy as np
import pytest

from kdlib.experiments.off_policy import judged, overlap, warnings_of

ROWS = np.array([2.0, 1.0, 1.0])
CLICKS = np.array([1.0, 0.0, 1.0])


def test_the_estimates_are_ratios_of_sums():
    """Three users of 4 exposures, weights 3 + 1 + 1, weighted clicks 3 + 0 + 1: IPS 4/4, SNIPS 4/5, logged 2/4."""
    found = judged(CLICKS, np.array([3.0, 0, 1]), np.array([3.0, 1, 1]), ROWS)
    assert [one.value for one in found] == pytest.approx([0.5, 1.0, 0.8, 0.3])
    assert all(one.low < one.value < one.high for one in found)


def test_the_logged_policy_is_worth_what_was_logged():
    """With equal propensities all weights are 1: IPS and SNIPS are the logged mean, and the gain is exactly 0."""
    found = judged(CLICKS, CLICKS, ROWS, ROWS)
    assert found.logged == found.ips == found.snips
    assert found.gain == (0.0, 0.0, 0.0)
    spread = overlap(ROWS, ROWS)
    assert spread.mean_weight == (1.0, 1.0, 1.0)
    assert spread.effective_users == spread.logged_users == pytest.approx(16 / 6)
    assert warnings_of(spread) == []


def test_a_gain_is_paired_by_user():
    """The interval of SNIPS − logged is shorter than that of SNIPS where the policies are alike."""
    rng = np.random.default_rng(1)
    rows, taste = rng.geometric(0.2, 2_000), rng.lognormal(0, 1, 2_000)
    clicks, weights = rows * taste, rows * rng.uniform(0.9, 1.1, 2_000)
    found = judged(clicks, clicks * weights / rows, weights, rows.astype(float))
    assert (found.gain.high - found.gain.low) < 0.3 * (found.snips.high - found.snips.low)


def test_weights_far_from_1_are_a_warning():
    """Propensities that do not belong together have a mean weight other than 1, which the warning names."""
    rng = np.random.default_rng(2)
    rows = np.ones(3_000)
    assert warnings_of(overlap(rng.choice([0.5, 1.5], 3_000), rows)) == []
    [text] = warnings_of(overlap(1.3 * rng.choice([0.5, 1.5], 3_000), rows))
    assert text.startswith("the mean weight is 1.290, expected 1")
    assert "the propensities are wrong" in text


@pytest.mark.parametrize(("heaviest", "expected"), [(2_000.0, 1), (2.0, 0)])
def test_little_overlap_is_a_warning(heaviest, expected):
    """Weights that a few users have are a warning; weights of which each user has some are none."""
    rng = np.random.default_rng(3)
    weights = np.where(rng.random(20_000) < 1 / heaviest, heaviest, 0.0)
    found = warnings_of(overlap(weights, np.ones(20_000)))
    assert len(found) == expected
    assert all("a few users have most of the weights" in text for text in found)
