"""A run waits for the marker of the day's export."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest

from jobs.runtime import ready
from kdlib.config.run import RunConfig
from kdlib.errors import InputError, LateInputError
from kdlib.store.remote_files import RemoteFile


def config_for(path: str, marker: str = "_SUCCESS", wait_minutes: float = 90) -> RunConfig:
    events = {"path": path, "format": "csv", "user": "u", "item": "i", "time": {"column": "t"}}
    events["ready"] = {"marker": marker, "wait_minutes": wait_minutes}
    return RunConfig.model_validate(
        {"name": "tiny", "ds": "2024-05-03", "output_dir": "out", "input": {"events": events}}
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that only sleep moves; `at` calls a function once it shows a number of seconds."""
    now = SimpleNamespace(seconds=0.0, at={}, sleeps=0)

    def sleep(seconds: float) -> None:
        now.seconds += seconds
        now.sleeps += 1
        for due in [due for due in now.at if due <= now.seconds]:
            now.at.pop(due)()

    monkeypatch.setattr(ready, "time", SimpleNamespace(monotonic=lambda: now.seconds, sleep=sleep))
    return now


@pytest.mark.parametrize(
    ("path", "marker", "expected"),
    [
        ("/lake/day={day}", "_SUCCESS", "/lake/day=2024-05-03/_SUCCESS"),
        ("/lake/day={day}/", "_SUCCESS", "/lake/day=2024-05-03/_SUCCESS"),
        ("/lake/day={day}/*.parquet", "_SUCCESS", "/lake/day=2024-05-03/_SUCCESS"),
        ("/lake/day={day}/h={0,1}/x", "_SUCCESS", "/lake/day=2024-05-03/_SUCCESS"),
        ("/lake/{day}.csv.gz", "{day}.done", "/lake/2024-05-03.done"),
        ("{day}.csv", "_{day}", "./_2024-05-03"),
        ("s3://lake/day={day}/part-*.csv", "_SUCCESS", "s3://lake/day=2024-05-03/_SUCCESS"),
        ("/lake/events", "/done/{day}", "/done/2024-05-03"),
        ("/lake/events", "s3://lake/done/{day}/_SUCCESS", "s3://lake/done/2024-05-03/_SUCCESS"),
    ],
)
def test_where_the_marker_lies(path: str, marker: str, expected: str) -> None:
    """A name lies in the folder of the path; a path or a URL stands for itself; `{day}` is the run's day in both."""
    config = config_for(path, marker)
    assert config.input.events is not None
    assert config.input.events.ready is not None
    assert config.input.events.ready.of_day(config.input.events.path, config.day) == expected


def test_yesterday_s_marker_does_not_count() -> None:
    """A marker without a day in its path could be of any day, so the run config refuses it."""
    with pytest.raises(ValueError, match=r"ready.marker needs \{day\}, in itself or in path.*found _SUCCESS"):
        config_for("/lake/events")


def test_a_run_waits_until_the_marker_comes(
    tmp_path: Path, clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run looks every half minute, says so every five minutes, and goes on once the marker is there."""
    folder = tmp_path / "day=2024-05-03"
    clock.at[720] = lambda: (folder.mkdir(), (folder / "_SUCCESS").touch())
    ready.wait_for_input(config_for(f"{tmp_path}/day={{day}}"))
    assert clock.seconds == 720
    assert clock.sleeps == 24
    marker = folder / "_SUCCESS"
    assert capsys.readouterr().out.splitlines() == [
        *(f"build_features: waiting for {marker}, {minutes} of at most 90 minutes" for minutes in (0, 5, 10)),
        f"build_features: {marker} is there after 12 minutes",
    ]


def test_a_marker_that_is_there_costs_no_line(
    tmp_path: Path, clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a marker in the run config, or with one that is there, the run goes on at once."""
    (tmp_path / "2024-05-03.done").touch()
    config = config_for(str(tmp_path / "events"), f"{tmp_path}/{{day}}.done")
    ready.wait_for_input(config)
    assert config.input.events is not None
    events = config.input.events.model_copy(update={"ready": None})
    ready.wait_for_input(config.model_copy(update={"input": config.input.model_copy(update={"events": events})}))
    assert (clock.sleeps, capsys.readouterr().out) == (0, "")


@pytest.mark.parametrize("minutes", [0, 90, 0.1])
def test_a_late_export_ends_the_run_for_a_retry(tmp_path: Path, clock: SimpleNamespace, minutes: float) -> None:
    """Without the marker the run ends after the wait, with a status of its own that schedulers retry."""
    with pytest.raises(LateInputError, match=rf"_SUCCESS is not there after {minutes:g} minutes.*Check that") as error:
        ready.wait_for_input(config_for(f"{tmp_path}/day={{day}}", wait_minutes=minutes))
    assert clock.seconds == 60 * minutes
    assert error.value.exit_status == 66


def test_a_marker_in_a_store(clock: SimpleNamespace, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run waits for an object without bytes in a store, also while the store does not answer."""
    look, answers = ready.remote_files, iter([OSError("busy")])

    def looked_for(url: str) -> Iterator[RemoteFile]:
        if fault := next(answers, None):
            raise fault
        return look(url)

    monkeypatch.setattr(ready, "remote_files", looked_for)
    key = f"{tmp_path.name}/day=2024-05-03/_SUCCESS"
    clock.at[60] = lambda: boto3.client("s3").put_object(Bucket="shop", Key=key, Body=b"")
    ready.wait_for_input(config_for(f"{s3}/{tmp_path.name}/day={{day}}"))
    assert clock.seconds == 60


def test_a_url_that_no_store_knows_is_an_error_at_once(clock: SimpleNamespace) -> None:
    """No wait mends a wrong URL."""
    with pytest.raises(InputError, match=r"cannot look for nowhere://x/2024-05-03: .*input.events.ready"):
        ready.wait_for_input(config_for("/lake/events", "nowhere://x/{day}"))
    assert clock.sleeps == 0
