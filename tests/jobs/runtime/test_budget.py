"""The estimate of a run, and the seconds that `budget_minutes` leaves for training."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.runtime import budget
from jobs.runtime.budget import estimate, scale_of, within_budget
from kdlib.config.costs import Scale
from kdlib.config.models import ModelConfig, TrainConfig
from kdlib.config.run import RunConfig
from kdlib.training.specs import TrainingRun
from tests.jobs.handmade import put

DAYS = ("2026-11-20", "2026-11-21")


def config_of(folder: Path, **more: Any) -> RunConfig:
    document = {"name": "n", "ds": DAYS[1], "output_dir": str(folder), "input": {"simulate": {}}}
    return RunConfig.model_validate(document | more)


def run_of(name: str, dim: int, epochs: int) -> TrainingRun:
    return TrainingRun(name, "out", ModelConfig(dim=dim), TrainConfig(epochs=epochs), 1, "statistics")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """An output folder with histories of the first day."""
    funnel = {"users": 20_000, "items": 10_000, "interactions": 200_000}
    put(tmp_path, "histories", DAYS[0], pa.table({"x": [1]}), funnel=funnel)
    return tmp_path


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A clock that stands still, and no run that has begun."""
    now = {"now": 1000.0}
    monkeypatch.setattr(budget, "_started", None)
    monkeypatch.setattr(budget.time, "monotonic", lambda: now["now"])
    return now


def test_the_size_is_that_of_the_newest_features(shop: Path) -> None:
    """A day without features has the size of the day before; without any features, or a date, the size is unknown."""
    assert scale_of(config_of(shop)) == Scale(20_000, 10_000, 200_000)
    put(shop, "histories", DAYS[1], pa.table({"x": [1]}), funnel={"users": 2, "items": 3, "interactions": 4})
    assert scale_of(config_of(shop)) == Scale(2, 3, 4)
    assert scale_of(config_of(shop, ds=None)) is None
    assert scale_of(config_of(shop / "empty")) is None


def test_without_a_budget_nothing_is_bounded(shop: Path) -> None:
    """Without `budget_minutes`, or before there are features, runs have no bound."""
    runs = [run_of("a", 64, 4)]
    assert within_budget(config_of(shop), runs, "teachers") == runs
    assert within_budget(config_of(shop / "empty", budget_minutes=5), runs, "teachers") == runs


def test_teachers_leave_time_for_what_follows(shop: Path, clock: dict[str, float]) -> None:
    """The rest of the budget, after what is spent and what other stages need, is shared by cost."""
    config = config_of(shop, budget_minutes=10)
    cost = estimate(config)
    assert cost is not None
    budget.begin()
    clock["now"] += 60
    others = budget.MARGIN * (cost.targets + cost.evaluation + cost.lists + cost.start / 2)
    share = cost.teachers / (cost.teachers + cost.students)
    [one] = within_budget(config, [run_of("a", 64, 4)], "teachers")
    assert one.seconds == pytest.approx((540 - others) * share)
    [student, control] = within_budget(config, [run_of("s", 64, 4), run_of("c", 64, 12)], "students")
    assert student.seconds is not None
    assert control.seconds is not None
    assert control.seconds == pytest.approx(3 * student.seconds)
    assert student.seconds + control.seconds == pytest.approx(540 - (others - budget.MARGIN * cost.targets))


def test_a_refit_has_its_share(shop: Path, clock: dict[str, float]) -> None:
    """Earlier trainings leave time for the refit, which then takes what is left before the lists."""
    config = config_of(shop, budget_minutes=10, student={"refit": True})
    cost, alone = estimate(config), estimate(config_of(shop, evaluation={"control": False}))
    assert cost is not None
    assert alone is not None
    assert (cost.refit, alone.refit) == (pytest.approx(cost.targets + alone.students), 0)
    budget.begin()
    lists = budget.MARGIN * (cost.lists + cost.start / 2)
    [one] = within_budget(config, [run_of("s", 64, 4)], "students")
    share = cost.students / (cost.students + cost.refit)
    assert one.seconds == pytest.approx((600 - lists - budget.MARGIN * cost.evaluation) * share)
    clock["now"] += 300
    [one] = within_budget(config, [run_of("r", 64, 4)], "refit")
    assert one.seconds == pytest.approx(300 - lists)


def test_a_spent_budget_leaves_no_second(
    shop: Path, clock: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    """A spent budget leaves 0 seconds, and the run says that the budget is exceeded."""
    config = config_of(shop, budget_minutes=1)
    budget.begin()
    clock["now"] += 300
    [one] = within_budget(config, [run_of("a", 64, 4)], "students")
    assert one.seconds == 0
    budget.say_spent(config)
    assert "5.0 of 1 minutes after the features: exceeded" in capsys.readouterr().out


def test_a_stage_on_its_own_counts_the_others_as_estimated(shop: Path) -> None:
    """`distilrec distill` alone leaves out the estimated time of the stages before it."""
    config = config_of(shop, budget_minutes=30)
    cost = estimate(config)
    assert cost is not None
    before = cost.start / 2 + cost.titles + cost.teachers + cost.targets
    after = budget.MARGIN * (cost.evaluation + cost.lists + cost.start / 2)
    [one] = within_budget(config, [run_of("a", 64, 4)], "students")
    assert one.seconds == pytest.approx(1800 - before - after)


def test_the_estimate_names_the_large_parts(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line has the total and each part of half a minute and more."""
    budget.say_estimate(config_of(shop, budget_minutes=7))
    printed = capsys.readouterr().out
    assert "estimate: about " in printed
    assert "teachers" in printed
    assert "lists" not in printed
    assert "budget_minutes 7" in printed
