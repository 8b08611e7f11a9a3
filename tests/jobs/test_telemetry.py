"""What monitoring gets to know while several runs tell it."""

from threading import Thread

from jobs.runtime import telemetry
from kdlib.config.load import load_config
from tests.jobs.handmade import DAYS, of_telemetry


def test_two_runs_that_tell_at_the_same_time_take_nothing_back(config, last_steps, monkeypatch):
    """An earlier date's run that has already read the file does not overwrite what a later date's run writes."""
    loaded = [load_config(config, ds=ds) for ds in DAYS]
    telemetry.write(loaded[1], status=0)
    gather, tonight = telemetry.gather, Thread(target=telemetry.write, args=(loaded[2],), kwargs={"status": 3})

    def slow(*words, **more):
        monkeypatch.setattr(telemetry, "gather", gather)
        tonight.start()
        tonight.join(timeout=0.5)
        return gather(*words, **more)

    monkeypatch.setattr(telemetry, "gather", slow)
    telemetry.write(loaded[0], status=0)
    tonight.join()
    assert of_telemetry(config) == (DAYS[2], 3)
