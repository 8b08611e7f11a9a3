"""The unit-size form of `tests/benchmarks/abtest_coverage.py`: intervals hold a known truth as often as they say."""

import numpy as np
import pytest

from tests.benchmarks.abtest_coverage import alarms, means, policies, truth


@pytest.fixture(scope="module")
def found():
    """Mean figures of 300 logs of 2,000 users each."""
    return means(2_000, 300, 7)


@pytest.mark.parametrize("kind", ["difference", "relative lift"])
@pytest.mark.parametrize("metric", ["revenue / user", "clicks / exposures"])
@pytest.mark.parametrize("adjusted", ["", ", adjusted"])
def test_intervals_hold_the_known_lift(found, kind, metric, adjusted):
    """95% of the intervals hold it, within four standard errors of 300 repetitions."""
    assert found[f"{kind}: {metric}, treatment{adjusted}"] == pytest.approx(0.95, abs=0.05)


@pytest.mark.parametrize("kind", ["IPS", "SNIPS", "SNIPS − logged"])
def test_intervals_hold_the_known_worth_of_a_policy(found, kind):
    """So do those of IPS, SNIPS and the gain, for a policy that is near to the logged one."""
    assert found[f"{kind}: near"] == pytest.approx(0.95, abs=0.05)


def test_exposures_as_if_independent_would_be_wrong(found):
    """Intervals over exposures in place of users hold the truth less often than 9 times in 10."""
    assert found["difference: clicks / exposures, treatment, exposures as if independent"] < 0.9


def test_intervals_that_are_too_short_are_warned_of(found):
    """The warning comes for a policy that shows what was rarely logged, and for the revenue of 200 users held out."""
    assert found["warned: very far"] > 0.5
    assert found["warned: revenue / user, holdout"] > 0.5
    assert found["warned: near"] < 0.02
    assert found["warned: clicks / exposures, treatment"] < 0.05


def test_lost_users_are_found_and_no_others():
    """Of a million users, 1% of one variant's are missed: nine alarms in ten. Without a loss, one in a thousand."""
    assert alarms(1_000_000, kept=0.99, checks=200, seed=1) > 0.85
    assert alarms(10_000, kept=1, checks=2_000, seed=1) < 0.004


def test_the_truth_is_that_of_the_simulation():
    """Policies are probabilities, and the logged clicks have the factor 1 in the mean."""
    made, known = policies(), truth()
    for one in (made.logged, *made.targets.values()):
        assert np.allclose(one.sum(1), 1)
    assert np.allclose((made.logged * made.worth).sum(1), 1)
    assert known["clicks / exposures"]["treatment"] == pytest.approx(1.05 * known["clicks / exposures"]["control"])
