"""Places that nothing can be delivered to, on runs published by hand."""

from jobs import nightly
from kdlib.privacy import forgetting
from kdlib.release import promotions
from kdlib.store import partitions
from tests.jobs.handmade import DAYS, of_telemetry, put_night, run


def test_a_night_that_cannot_be_delivered_does_not_begin(config, last_steps, undeliverable, monkeypatch, capfd):
    """The run ends with 2 before any stage, and telemetry has this status."""
    ran: list[str] = []
    monkeypatch.setattr(nightly, "run_stage", lambda config, stage, **more: ran.append(stage.name))
    monkeypatch.setattr(nightly.StageProcess, "run", lambda _, name, **more: ran.append(name))
    root = put_night(config, DAYS[0])
    assert last_steps(DAYS[0]) == 2
    assert undeliverable in capfd.readouterr().err
    assert ran == []
    assert promotions.current(root) is None
    assert of_telemetry(config) == (DAYS[0], 2)


def test_nothing_is_switched_that_cannot_be_delivered(config, undeliverable, monkeypatch, capfd):
    """The commands `promote`, `rollback`, `forget` and `deliver` end with 2 and change nothing."""
    root = put_night(config, DAYS[0])
    assert run("check-gates", config, "--ds", DAYS[0]) == 0
    assert run("promote", config, "--ds", DAYS[0]) == 2
    assert promotions.current(root) is None
    for ds in DAYS[:2]:
        versions = {"recommendations": partitions.manifest_of(put_night(config, ds), "recommendations", ds).version}
        promotions.promote(root, ds, versions)
    for job, *words in (("rollback", "--to", DAYS[0]), ("forget", "--user", "anna"), ("deliver",)):
        capfd.readouterr()
        assert run(job, config, *words) == 2
        assert undeliverable in capfd.readouterr().err
    now = promotions.current(root)
    assert now is not None
    assert now.ds == DAYS[1]
    assert forgetting.forgotten(root) == []
