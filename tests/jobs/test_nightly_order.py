"""The order of a nightly run's stages, with stages made up."""

from contextlib import contextmanager

import pytest

from jobs import nightly
from kdlib.errors import ConfigError
from tests.jobs.handmade import DAYS, put_night


@pytest.mark.parametrize("failing", [None, "build-features"])
def test_ray_that_started_beside_spark_ends_with_the_night(config, last_steps, failing, monkeypatch):
    """Ray starts while Spark works, and ends with the run, also if the Spark stage fails."""
    put_night(config, DAYS[0])
    told: list[str] = []

    @contextmanager
    def ray_ahead(config, block):
        told.append("begins")
        block.callback(told.append, "ends")
        yield

    def on_spark(name, *words, meanwhile, **more):
        with meanwhile:
            told.append(name)
            if name == failing:
                raise ConfigError("no events")

    monkeypatch.setattr(nightly, "ray_ahead", ray_ahead)
    monkeypatch.setattr(nightly, "run_in_own_process", on_spark)
    act = nightly.run_stage

    def run_stage(config, stage, **more):
        if stage.name == "recommend":
            told.append("recommends")
        return act(config, stage, **more)

    monkeypatch.setattr(nightly, "run_stage", run_stage)
    assert last_steps(DAYS[0]) == (2 if failing else 0)
    assert told == ["begins", "build-features", *([] if failing else ["recommends"]), "ends"]
