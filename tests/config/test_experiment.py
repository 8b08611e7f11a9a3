"""The section `experiment` of the run config."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from jobs.pipeline import stage_named
from kdlib.config.base import first_fault
from kdlib.config.experiment import ExperimentConfig
from kdlib.config.run import RunConfig
from kdlib.config.settings import settings_of

GOOD: dict[str, Any] = {"salt": "spring-2026", "variants": {"treatment": 0.45, "control": 0.45}, "holdout": 0.1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"holdout": 0}, r"must add up to 1, found control 0.45 \+ treatment 0.45 = 0.9"),
        ({"holdout": 0.2}, r"must add up to 1, found holdout 0.2 \+ control 0.45 \+ treatment 0.45 = 1.1"),
        ({"variants": {"holdout": 0.45, "control": 0.45}}, "give its share as holdout: 0.45"),
        ({"variants": {"Control A": 0.9}}, r"variants.Control A.*: String should match pattern"),
        ({"variants": {}}, "variants: Dictionary should have at least 1 item"),
        ({"variants": {"control": 0.9, "other": 0}}, "variants.other: Input should be greater than 0"),
        ({"salt": "a b"}, "salt: String should match pattern"),
    ],
)
def test_shares_and_names_that_cannot_be_are_errors(change: dict[str, Any], message: str) -> None:
    """The error names the shares and their sum, or the name and what a name may be."""
    ExperimentConfig.model_validate(GOOD)
    with pytest.raises(ValidationError) as caught:
        ExperimentConfig.model_validate(GOOD | change)
    assert re.search(message, first_fault(caught.value))


def test_shares_are_in_the_order_of_the_names() -> None:
    """The order of the run config does not matter, and ten tenths are 1, although their sum in floats is not."""
    assert ExperimentConfig.model_validate(GOOD).shares == {"holdout": 0.1, "control": 0.45, "treatment": 0.45}
    assert list(ExperimentConfig.model_validate(GOOD).shares) == ["holdout", "control", "treatment"]
    tenths = ExperimentConfig.model_validate({"salt": "s", "variants": dict.fromkeys("jihgfedcba", 0.1)})
    assert "".join(tenths.shares) == "abcdefghij"


def test_an_experiment_makes_the_recommendations_stale() -> None:
    """Salt and shares are settings that the stage `recommend` depends on. Without the section it depends on that."""
    base = {"name": "shop", "output_dir": "out", "input": {"simulate": {}}}
    without, given = (RunConfig.model_validate(base | more) for more in ({}, {"experiment": GOOD}))
    [part] = stage_named("recommend").parts_of(given)
    found = settings_of(given, part.settings)
    assert {name: value for name, value in found.items() if name.startswith("experiment")} == {
        "experiment.salt": "spring-2026",
        "experiment.variants.control": 0.45,
        "experiment.variants.treatment": 0.45,
        "experiment.holdout": 0.1,
    }
    assert settings_of(without, part.settings)["experiment"] is None
