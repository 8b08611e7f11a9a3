"""The job: what is published, and that the number of processes does not matter."""

import os
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.__main__ import main
from kdlib.config.run import RunConfig
from kdlib.simulation.input import simulated_input
from kdlib.store import partitions
from kdlib.store.partitions import Manifest
from tests import stages

Simulate = Callable[..., dict[str, Manifest]]


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> Simulate:
    """Runs the stage as on a machine with this many cores, so with as many processes."""

    def on_cores(config: RunConfig, cores: int = 1) -> dict[str, Manifest]:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
        return stages.run("simulate-events", config)

    return on_cores


def config_in(folder: Path, **settings: object) -> RunConfig:
    """A small simulated run in two tasks."""
    simulate = {"num_events": 100_000, "num_items": 200, "num_days": 4, "events_per_user": 20, **settings}
    return RunConfig.model_validate(
        {"name": "small", "ds": date(2026, 3, 2), "output_dir": str(folder), "input": {"simulate": simulate}}
    )


def test_the_files_are_the_same_for_any_number_of_processes(tmp_path: Path, simulate: Simulate) -> None:
    """One process and two write the same bytes under the same names; another seed writes others."""
    alone = simulate(config_in(tmp_path / "one"))
    shared = simulate(config_in(tmp_path / "two"), cores=2)
    other = simulate(config_in(tmp_path / "seed", seed=8))
    for table in ("events", "catalogue"):
        assert alone[table].files == shared[table].files
        assert alone[table].version == shared[table].version != other[table].version
    assert len({Path(file["path"]).name for file in alone["events"].files}) == 2
    assert alone["events"].details["planted"] == shared["events"].details["planted"]


def test_days_lie_in_folders_of_their_own_and_end_with_ds(tmp_path: Path, simulate: Simulate) -> None:
    """Each day of the period is a folder, its rows are of that day, and the manifest's counts add up to the rows."""
    config = config_in(tmp_path, broken_fraction=0.0)
    manifests = simulate(config)
    events, products, _ = simulated_input(config)
    folders = sorted(Path(events.path).iterdir())
    assert [folder.name for folder in folders] == [f"day=2026-02-{day}" for day in (27, 28)] + [
        "day=2026-03-01",
        "day=2026-03-02",
    ]
    rows = 0
    for folder in folders:
        for file in folder.iterdir():
            table = pq.ParquetFile(file).read()
            assert {time[:10] for time in table["event_time"].to_pylist()} == {folder.name.removeprefix("day=")}
            rows += table.num_rows
    assert rows == manifests["events"].rows == sum(manifests["events"].details["planted"].values())
    assert events.time is not None
    assert {events.user, events.item, events.event_type, events.event_id, events.time.column} <= set(table.column_names)
    catalogue = pq.read_table(products.path)
    assert {products.item, products.title, products.available} < set(catalogue.column_names)
    assert catalogue.num_rows == 200 + 3 * 5


def test_searches_are_a_table_of_their_own(tmp_path: Path, simulate: Simulate) -> None:
    """Their counts are what the rows hold, and the events beside them are the same as without."""
    without = simulate(config_in(tmp_path / "without"))
    config = config_in(tmp_path / "with", search_fraction=0.2)
    made = simulate(config, cores=2)
    assert "searches" not in without
    assert simulated_input(config_in(tmp_path / "without"))[2] is None
    assert made["events"].files == without["events"].files
    searches = simulated_input(config)[2]
    assert searches is not None
    table = pq.read_table(searches.path)
    found = Counter(table["event_type"].to_pylist())
    assert found == Counter(made["searches"].details["rows"])
    assert set(searches.event_types) == set(found)
    assert {searches.user, searches.query, searches.item, searches.position, searches.time.column} <= set(
        table.column_names
    )


def test_an_unchanged_run_is_not_repeated(
    tmp_path: Path, simulate: Simulate, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second run finds the partition up to date and still says what is there."""
    first = simulate(config_in(tmp_path))
    capsys.readouterr()
    second = simulate(config_in(tmp_path))
    said = capsys.readouterr().out
    assert second["events"].published_unix_seconds == first["events"].published_unix_seconds
    assert "events, catalogue: up to date" in said
    assert f"simulate_events: {first['events'].rows:,} rows" in said


def test_events_of_your_own_are_not_simulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without input.simulate the stage says why it is skipped, and writes no table."""
    own = {"path": "x", "format": "sequences"}
    config = RunConfig.model_validate(
        {"name": "own", "ds": "2026-03-02", "output_dir": str(tmp_path), "input": {"events": own}}
    )
    assert stages.run("simulate-events", config) == {}
    assert "simulate-events: skipped" in (said := capsys.readouterr().out)
    assert "input.simulate is not set" in said
    assert partitions.read_manifest(config.root, "events", config.day) is None


def test_the_command_reports_too_busy_users_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings that do not fit together end with status 2 and one line, and nothing is published."""
    file = tmp_path / "run.yaml"
    file.write_text(
        f"name: small\noutput_dir: {tmp_path}/out\ninput: {{simulate: {{num_days: 4, events_per_user: 900}}}}\n"
    )
    assert main(["simulate-events", "--config", str(file), "--ds", "2026-03-02"]) == 2
    assert "error: input.simulate: events_per_user 900 is too many for num_days 4" in capsys.readouterr().err
    assert not (tmp_path / "out" / "events").exists()


def test_a_date_outside_the_fixed_period_is_an_error_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2 and the first and last day that can be simulated."""
    config = tmp_path / "run.yaml"
    config.write_text(
        f"name: small\noutput_dir: {tmp_path}/out\ninput: {{simulate: {{num_days: 4, first_day: 2026-03-01}}}}\n"
    )
    assert main(["simulate-events", "--config", str(config), "--ds", "2026-03-05"]) == 2
    assert "the simulated period is 2026-03-01 to 2026-03-04, found the date 2026-03-05" in capsys.readouterr().err
