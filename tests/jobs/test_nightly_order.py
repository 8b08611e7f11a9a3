"""The order of a nightly run's stages, with stages made up."""

from contextlib import contextmanager

import pytest

from jobs import nightly
from jobs.pipeline import STAGES
from kdlib.config.load import load_config
from kdlib.errors import ConfigError, DeliveryError, GateError, InputError
from tests.jobs.handmade import DAYS, of_telemetry, put_night, run


def test_a_package_that_the_export_lacks_ends_the_run_before_its_first_stage(config, last_steps, monkeypatch, capfd):
    """The exit status is 2, and the error names the package and the extra."""
    put_night(config, DAYS[0])
    monkeypatch.setattr("jobs.runtime.extras.EXPORT", ("no_such_package",))
    monkeypatch.setattr(nightly, "run_stage", lambda *_, **__: pytest.fail("a stage ran"))
    assert run("nightly", config, "--ds", DAYS[0], "--set", "export={}") == 2
    assert (
        "the section export needs no_such_package, not installed here: install the extra `onnx`"
        in capfd.readouterr().err
    )


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

    def on_spark(_, name, *, meanwhile):
        with meanwhile:
            told.append(name)
            if name == failing:
                raise ConfigError("no events")

    monkeypatch.setattr(nightly, "ray_ahead", ray_ahead)
    monkeypatch.setattr(nightly.StageProcess, "run", on_spark)
    act = nightly.run_stage

    def run_stage(config, stage, **more):
        if stage.name == "recommend":
            told.append("recommends")
        return act(config, stage, **more)

    monkeypatch.setattr(nightly, "run_stage", run_stage)
    assert last_steps(DAYS[0]) == (2 if failing else 0)
    assert told == ["begins", "build-features", *([] if failing else ["recommends"]), "ends"]


def test_stages_run_in_the_order_of_the_pipeline(config, last_steps, monkeypatch):
    """Each stage that applies runs once; the report comes last. The options of the run reach the stages that take them."""
    put_night(config, DAYS[0])
    ran: list[tuple[str, dict[str, str]]] = []
    monkeypatch.setattr(
        nightly, "run_stage", lambda config, stage, **more: ran.append((stage.name, more.get("options", {})))
    )
    monkeypatch.setattr(nightly.StageProcess, "run", lambda _, name, **more: ran.append((name, {})))
    assert run("nightly", config, "--ds", DAYS[0], "--force", "holiday") == 0
    loaded = load_config(config, ds=DAYS[0])
    assert [name for name, _ in ran] == [stage.name for stage in STAGES if stage.when(loaded)]
    given = {name: options for name, options in ran if options}
    assert given == {
        "check-input": {"force": "holiday"},
        "check-gates": {"force": "holiday"},
        "promote": {"reason": "holiday"},
    }
    assert ran[-1][0] == "report"


@pytest.mark.parametrize(
    ("failing", "error", "status"),
    [("check-input", GateError, 3), ("promote", DeliveryError, 74), ("distill", InputError, 2)],
)
def test_a_failed_gate_or_delivery_has_a_report(config, last_steps, monkeypatch, failing, error, status):
    """No stage after the failed one runs but the report. After another failure no report is written."""
    put_night(config, DAYS[0])
    ran: list[str] = []

    def run_stage(config, stage, **more):
        ran.append(stage.name)
        if stage.name == failing:
            raise error("no")

    monkeypatch.setattr(nightly, "run_stage", run_stage)
    assert last_steps(DAYS[0]) == status
    assert ran[ran.index(failing) + 1 :] == ([] if error is InputError else ["report"])
    assert of_telemetry(config) == (DAYS[0], status)
