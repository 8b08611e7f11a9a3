"""Nights that start from an earlier night's clean events: the same tables as from reading everything, of fewer files."""

import random
import re
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import nightly
from jobs.__main__ import main
from jobs.runtime.command import Invocation
from jobs.runtime.inputs import night_input
from kdlib.config.run import RunConfig
from kdlib.errors import GateError, InputError
from kdlib.features.arrivals import days_to_read, path_of_days
from kdlib.release import gates, promotions
from kdlib.store import partitions
from tests import stages

FIRST = date(2024, 5, 1)
LATE_DAYS = 2
HEADER = "u,i,b,t,id"


def _config(folder: Path, day: int, output: str, where: str | None = None, **changes: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "days",
            "ds": (FIRST + timedelta(days=day)).isoformat(),
            "output_dir": str(folder / output),
            "input": {
                "events": {
                    "path": str(folder / "events/day={day}"),
                    "late_days": LATE_DAYS,
                    "where": where,
                    "format": "csv",
                    "user": "u",
                    "item": "i",
                    "event_type": "b",
                    "event_id": "id",
                    "time": {"column": "t"},
                }
            },
            "features": {"period_start": "2024-04-30", "max_events_per_user_day": 12} | changes,
            "spark": {"shuffle_partitions": 2},
        }
    )


def _write_days(folder: Path, days: int) -> None:
    """Events of 20 users and a bot; some arrive one to four days late or a little early, some twice, some are broken."""
    draw = random.Random(5)
    arriving: dict[int, list[str]] = {day: [] for day in range(days)}
    number = 0
    for day in range(days):
        for user in [*range(20), *([99] * (40 if day == 1 else 1))]:
            for _ in range(draw.choice((0, 1, 4)) if user != 99 else 1):
                moment = f"{FIRST + timedelta(days=day)} {draw.randrange(24):02}:{draw.randrange(60):02}:00"
                line = f"u{user},i{draw.randrange(9)},{draw.choice(('view', 'cart', 'zap'))},{moment},"
                number += 1
                arrival = day + draw.choice((0, 0, 0, 0, -1, 1, 2, 3, 4))
                again = day + draw.choice((0, 1, 2)) if draw.random() < 0.2 else -1
                with_id = line + (f"e{number}" if draw.random() < 0.7 else "")
                for place in (arrival, again):
                    if 0 <= place < days:
                        arriving[place].append(with_id if draw.random() < 0.97 else with_id.replace(",", "", 1))
    for day, lines in arriving.items():
        home = folder / "events" / f"day={FIRST + timedelta(days=day)}"
        home.mkdir(parents=True)
        (home / "part.csv").write_text("\n".join([HEADER, *lines]) + "\n")


def _night(config: RunConfig) -> dict[str, Any]:
    """A night's features, and its funnel; its gates let them pass, so that a later night may start from them."""
    funnel = stages.run("build-features", config)["histories"].details["funnel"]
    stages.run("check-input", config, force="a shop this small has no usual nights")
    return funnel


def _tables(config: RunConfig) -> dict[str, Any]:
    """What must not depend on how a night came by its events; items under their own names, for indices follow the nights."""

    def rows(name: str) -> list[dict[str, Any]]:
        return pq.read_table(partitions.current(config.root, name, config.day)).to_pylist()

    names = {row["item_index"]: row["item_id"] for row in rows("item_vocabulary")}
    for row in (people := rows("histories")):
        row["item_indices"] = [names[index] for index in row["item_indices"]]
    for row in (items := rows("item_statistics")):
        row["item_index"] = names[row["item_index"]]
    tables = {"sessions": rows("sessions"), "histories": people, "items": items, "events": rows("clean_events")}
    return {name: sorted(map(str, found)) for name, found in tables.items()}


def _quarantine(config: RunConfig) -> list[dict[str, Any]]:
    return pq.read_table(partitions.current(config.root, "quarantine", config.day)).to_pylist()


def test_nights_that_carry_events_over_give_what_reading_everything_gives(spark, tmp_path: Path) -> None:
    """Nights in a row, one of them left out, late, early and repeated events, a bot and a filter: the same tables.

    So it is with days of another time zone.
    """
    _write_days(tmp_path, 7)
    where, zone = "i != 'i3'", {"time_zone": "America/New_York"}
    reasons = {*_night(_config(tmp_path, 3, "chain", where, **zone))["reasons"]}  # which carries nothing over
    for day in (4, 6):
        chain, whole = (_config(tmp_path, day, name, where, **zone) for name in ("chain", f"whole{day}"))
        funnels = [_night(config) for config in (chain, whole)]
        assert _tables(chain) == _tables(whole)
        assert [funnel["kept"] for funnel in funnels] == [
            sum("'u99'" not in row for row in _tables(whole)["events"])
        ] * 2
        reasons |= funnels[0]["reasons"].keys()
        assert funnels[0]["rows_read"] - funnels[0]["carried"] < funnels[1]["rows_read"] - funnels[1]["carried"]
        assert funnels[0]["carried"] > 0 == funnels[1]["carried"]
        assert 0 < funnels[0]["filtered"] < funnels[1]["filtered"]
        assert "'i3'" not in str(_tables(chain))
        handed_on = [row for row in _quarantine(chain) if not row["file"].startswith("file:")]
        assert funnels[0]["carried_quarantined"] == len(handed_on) > 0, "the bot's events"
        assert funnels[1]["carried_quarantined"] == funnels[1]["carried_duplicate"] == 0
        assert funnels[0]["duplicate"] <= funnels[1]["duplicate"], "an event is carried over and read again"
    assert {"late", "bot_user", "unknown_event_type", "corrupt_row"} <= reasons


def test_an_old_day_is_not_read_again_unless_the_settings_changed(spark, tmp_path: Path) -> None:
    """Days before the look-back may be gone or damaged; with another period everything is read, and the damage matters."""
    _write_days(tmp_path, 8)
    _night(_config(tmp_path, 6, "out"))
    for day in range(4):
        (tmp_path / "events" / f"day={FIRST + timedelta(days=day)}" / "part.csv").write_bytes(b"other,header\n1,2\n")
    funnel = stages.run("build-features", _config(tmp_path, 7, "out"))["histories"].details["funnel"]
    assert funnel["carried"] > 0
    with pytest.raises(InputError, match="header"):
        stages.run("build-features", _config(tmp_path, 7, "out", period_start="2024-05-01"))


def test_a_day_that_comes_after_the_look_back_is_quarantined_once(
    spark, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Day 3 is missing in night 4, which says so, and comes on day 7: night 7 quarantines its rows, night 8 knows it."""
    _write_days(tmp_path, 9)
    missing, elsewhere = tmp_path / "events" / f"day={FIRST + timedelta(days=3)}", tmp_path / "not yet"
    missing.rename(elsewhere)
    for day in (4, 6):
        _night(_config(tmp_path, day, "out"))
        said = f"build_features: no file for {FIRST + timedelta(days=3)} at "
        assert (said in capsys.readouterr().out) == (day == 4)
    elsewhere.rename(missing)
    night = _config(tmp_path, 7, "out")
    _night(night)
    assert f"the files for {FIRST + timedelta(days=3)} at " in capsys.readouterr().out
    lines = (missing / "part.csv").read_text().splitlines()[1:]
    rejected = _quarantine(night)
    reasons = [row["reason"] for row in rejected if missing.name in row["file"]]
    assert len(reasons) == len(lines)
    assert reasons.count("late") > len(lines) / 2
    assert set(reasons) <= {"late", "corrupt_row", "missing_time", "out_of_period"}

    night = _config(tmp_path, 8, "out")
    stages.run("build-features", night)
    rejected = _quarantine(night)
    assert not [row for row in rejected if missing.name in row["file"]]
    assert capsys.readouterr().out.count(str(FIRST + timedelta(days=3))) == 0


def test_what_a_blocked_night_lacked_is_read_once_it_is_mended(spark, tmp_path: Path) -> None:
    """The first night's files have no item ids on most days, and its gates block it: the next night reads all files, mended."""
    _write_days(tmp_path, 7)
    files = [tmp_path / "events" / f"day={FIRST + timedelta(days=day)}" / "part.csv" for day in range(1, 5)]
    whole = [file.read_text() for file in files]
    for file, text in zip(files, whole, strict=True):
        file.write_text(re.sub(r",i\d,", ",,", text))
    first, second = (_config(tmp_path, day, "out") for day in (5, 6))
    stages.run("build-features", first)
    with pytest.raises(GateError, match="quarantined_share"):
        stages.run("check-input", first)
    for file, text in zip(files, whole, strict=True):
        file.write_text(text)
    assert _night(second)["carried"] == 0
    stages.run("build-features", afresh := _config(tmp_path, 6, "afresh"))
    assert _tables(second) == _tables(afresh)


def _publish(config: RunConfig, name: str, *, fingerprint: str = "f", **details: Any) -> partitions.Manifest:
    staging = partitions.new_staging(config.root, name, config.day)
    return partitions.publish(staging, config.root, name, config.day, fingerprint=fingerprint, details=details)


def _publish_events(config: RunConfig, fingerprint: str = "f") -> partitions.Manifest:
    details = night_input(config, None).details()
    _publish(config, "histories", fingerprint=fingerprint)
    return _publish(config, "clean_events", fingerprint=fingerprint, **details)


def _judge(config: RunConfig, status: str) -> None:
    """Publish `gates` of what is published now."""
    staging = partitions.new_staging(config.root, "gates", config.day)
    judged = gates.gates_table([gates.Gate("users_volume", "input", 1.0, 2.0, None, status, "users")])
    pq.write_table(judged, staging / "part.parquet")
    histories = partitions.manifest_of(config.root, "histories", config.day).version
    partitions.publish(staging, config.root, "gates", config.day, fingerprint=status, inputs={"histories": histories})


def _made_anew(config: RunConfig) -> None:
    _judge(config, "passed")
    _publish_events(config, fingerprint="g")


def _half_made_anew(config: RunConfig) -> None:
    _publish(config, "histories", fingerprint="g")
    _judge(config, "passed")


def _damaged(config: RunConfig) -> None:
    _judge(config, "passed")
    next(partitions.current(config.root, "gates", config.day).glob("*.parquet")).write_bytes(b"cut")


def _withdrawn(config: RunConfig) -> None:
    _judge(config, "passed")
    before = _config(config.root.parent, 3, "out")
    promotions.promote(config.root, before.day, {"histories": _publish(before, "histories").version})
    parts = {
        name: partitions.manifest_of(config.root, name, config.day).version for name in ("histories", "clean_events")
    }
    promotions.promote(config.root, config.day, parts)
    promotions.rollback(config.root, before.day)


@pytest.mark.parametrize(
    ("judge", "counts"),
    [
        (lambda config: _judge(config, "passed"), True),
        (lambda config: _judge(config, "skipped"), True),
        (lambda config: _judge(config, "forced"), True),
        (lambda config: _judge(config, "failed"), False),
        (lambda config: None, False),
        (_made_anew, False),
        (_half_made_anew, False),
        (_damaged, False),
        (_withdrawn, False),
    ],
    ids=[
        "passed",
        "skipped",
        "forced",
        "failed",
        "no gates",
        "made anew since",
        "half made anew",
        "damaged",
        "withdrawn",
    ],
)
def test_a_night_starts_from_one_that_is_not_promoted_if_its_gates_let_it_pass(
    tmp_path: Path, judge: Callable[[RunConfig], None], counts: bool
) -> None:
    """As in a backfill before the night in use, or stage by stage; else from an earlier such night, or from nothing."""
    for day in range(8):
        (home := tmp_path / "events" / f"day={FIRST + timedelta(days=day)}").mkdir(parents=True)
        (home / "part.csv").write_text("x")
    earlier, last, tonight = (_config(tmp_path, day, "out") for day in (5, 6, 7))
    _publish_events(last)
    judge(last)
    found = night_input(tonight, None)
    assert (found.carried is not None) == ("clean_events" in found.versions) == counts
    assert found.days is not None
    assert len(found.days.to_read) == (4 if counts else 8)
    _publish_events(earlier)
    _judge(earlier, "passed")
    carried = night_input(tonight, None).carried
    assert carried is not None
    assert carried.ds == (last if counts else earlier).day


def test_a_backfill_goes_on_from_the_nights_that_it_has_made(tmp_path: Path) -> None:
    """Night 6 is made again while a later one is in use, so it is not promoted: night 7 starts from it nevertheless, once its
    gates have let it pass."""
    for day in range(9):
        (home := tmp_path / "events" / f"day={FIRST + timedelta(days=day)}").mkdir(parents=True)
        (home / "part.csv").write_text("x")
    again, tonight, in_use = (_config(tmp_path, day, "out") for day in (6, 7, 8))
    for config in (again, in_use):
        made = _publish_events(config)
        promotions.promote(config.root, config.day, {"clean_events": made.version})
    first = promotions.history(again.root)[0].versions["clean_events"]
    made = _publish_events(again, fingerprint="corrected")
    carried = night_input(tonight, None).carried
    assert carried is not None
    assert carried.version == first
    _judge(again, "passed")
    carried = night_input(tonight, None).carried
    assert carried is not None
    assert carried.version == made.version != first


def test_other_settings_do_not_lose_what_came_in_files_that_are_gone(tmp_path: Path) -> None:
    """Another period means reading all again: an error where the first days' files are gone, unless it begins after them."""
    homes = [tmp_path / "events" / f"day={FIRST + timedelta(days=day)}" for day in range(7)]
    for home in homes:
        home.mkdir(parents=True)
        (home / "part.csv").write_text("x")
    last = _config(tmp_path, 5, "out")
    _publish_events(last)
    _judge(last, "passed")
    tonight = _config(tmp_path, 6, "out")
    assert night_input(tonight, None).notes() == []
    assert night_input(tonight, None).details()["first_day"] == str(FIRST)
    tonight = _config(tmp_path, 6, "out", period_start="2024-04-29")
    told = [
        f"the events of {last.day} were read under other settings and are not carried over: all files are read again"
    ]
    assert night_input(tonight, None).notes() == told
    (homes[0] / "part.csv").unlink()
    gone = rf"They begin on {FIRST}, .* begin on 2024-05-02.*set features.period_start: 2024-05-02 to go on"
    with pytest.raises(InputError, match=gone):
        night_input(tonight, None)
    assert night_input(_config(tmp_path, 6, "out", period_start="2024-05-02"), None).notes() == told


def test_days_read_are_those_of_the_night_that_a_night_starts_from(tmp_path: Path) -> None:
    """A blocked night's record says nothing: what it quarantined the next night quarantines; a night without one read all."""
    for day in range(10):
        (home := tmp_path / "events" / f"day={FIRST + timedelta(days=day)}").mkdir(parents=True)
        (home / "part.csv").write_text("x")

    def night(day: int, unread: list[list[str]] | None, *, promoted: bool) -> None:
        config = _config(tmp_path, day, "out")
        settings = night_input(config, None).settings
        record = {} if unread is None else {"unread_days": unread}
        staging = partitions.new_staging(config.root, "clean_events", config.day)
        found = partitions.publish(
            staging,
            config.root,
            "clean_events",
            config.day,
            fingerprint=config.day,
            details={"settings": settings} | record,
        )
        if promoted:
            promotions.promote(config.root, config.day, {"clean_events": found.version})

    late = FIRST + timedelta(days=3)
    night(6, [[late.isoformat()] * 2], promoted=True)
    night(7, [], promoted=False)
    days = night_input(_config(tmp_path, 8, "out"), None).days
    assert days is not None
    assert days.late == [late] == days.to_read[:1]
    assert days.unread == []
    night(8, None, promoted=True)
    days = night_input(_config(tmp_path, 9, "out"), None).days
    assert days is not None
    assert (days.late, days.unread, days.to_read) == ([], [], [FIRST + timedelta(days=day) for day in (6, 7, 8, 9)])


def test_a_night_without_files_of_its_day_is_an_error(spark, tmp_path: Path) -> None:
    """The export that has not run is named, with the days that there are."""
    _write_days(tmp_path, 3)
    with pytest.raises(InputError, match=r"no file of 2024-05-05 .*export run\? There are files of 2024-05-01 to"):
        stages.run("build-features", _config(tmp_path, 4, "out"))


@pytest.mark.parametrize("name", ["clean_events", "item_vocabulary"])
def test_a_damaged_night_before_is_named(tmp_path: Path, name: str) -> None:
    """Nothing is built on a table whose files are gone or cut off; the error says which night can make it anew."""
    _write_days(tmp_path, 2)
    config = _config(tmp_path, 1, "out")
    staging = partitions.new_staging(config.root, name, "2024-05-01")
    pq.write_table(pa.table({"x": [1]}), staging / "part-0.parquet")
    made = partitions.publish(staging, config.root, name, "2024-05-01", fingerprint="x", inputs={}, details={})
    promotions.promote(config.root, "2024-05-01", {name: made.version})
    night_input(config, None)
    next(partitions.current(config.root, name, "2024-05-01").glob("*.parquet")).write_bytes(b"cut")
    with pytest.raises(
        InputError, match=rf"{name} of 2024-05-01, which this .* gone or cut off.*nightly --ds 2024-05-01"
    ):
        night_input(config, None)


def test_the_look_back_begins_a_day_before_the_carried_events_end() -> None:
    """Clocks differ; days after the run's own are left alone."""
    days = [FIRST + timedelta(days=number) for number in range(6)]
    assert days_to_read(days, last_day=days[4], carried_before=days[3]) == days[2:5]
    assert days_to_read(reversed(days), last_day=days[4], carried_before=None) == days[:5]
    assert path_of_days("/x/{day}/y", days[1::-1]) == "/x/{2024-05-01,2024-05-02}/y"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--from", "2024-05-03"],
        ["--from", "2024-05-03", "--to", "2024-05-02"],
        ["--from", "x", "--to", "2024-05-02"],
        ["--from", "2024-05-01", "--to", "2024-05-02", "--ds", "2024-05-01"],
    ],
)
def test_a_backfill_needs_both_ends(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Half a period, one back to front, no dates, or a date beside it end before anything runs."""
    assert main(["nightly", *arguments]) == 2
    assert "a backfill needs --from and --to" in capsys.readouterr().err


def test_a_backfill_runs_night_after_night_until_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other arguments go to each night; the status is the failed one's, and no later night runs."""
    nights: list[tuple[Invocation, str]] = []

    def night(invocation: Invocation, *, force: str = "") -> int:
        nights.append((invocation, force))
        return 3 if invocation.ds == "2024-05-02" else 0

    monkeypatch.setattr(nightly, "night", night)
    more = ["--config", "x.yaml", "--set", "seed=2", "--force", "known"]
    assert main(["nightly", *more, "--from", "2024-05-01", "--to", "2024-05-04"]) == 3
    days = ("2024-05-01", "2024-05-02")
    assert nights == [(Invocation("x.yaml", day, ("seed=2",)), "known") for day in days]
