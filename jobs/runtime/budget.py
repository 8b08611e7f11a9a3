"""How long the stages after the features take: an estimate, and the seconds for training within `budget_minutes`."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from jobs.runtime.console import say, warn
from jobs.runtime.output import open_output
from kdlib.config.costs import Cost, Scale, cost_of, training_seconds
from kdlib.config.models import TrainConfig
from kdlib.config.run import RunConfig
from kdlib.store import partitions
from kdlib.training.specs import TrainingRun

MARGIN = 1.1
"""Factor on the estimate of the stages after the training, in case they take longer."""
_started: float | None = None
"""When the features of this run were done, on the monotonic clock. None: a stage runs on its own."""


def scale_of(config: RunConfig) -> Scale | None:
    """Size of the data of the run's date, or of the newest earlier date with features; None without any."""
    if config.ds is None:
        return None
    open_output(config)
    manifest = partitions.read_manifest(config.root, "histories", config.day)
    if manifest is None:
        before = partitions.latest(config.root, "histories", before=config.day)
        manifest = partitions.read_manifest(config.root, "histories", before) if before else None
    funnel = manifest.details.get("funnel") if manifest else None
    if funnel is None:
        return None
    return Scale(users=funnel["users"], items=funnel["items"], interactions=funnel["interactions"])


def estimate(config: RunConfig) -> Cost | None:
    """What the stages after the features cost; None before there are features."""
    scale = scale_of(config)
    if scale is None:
        return None
    trained = [(teacher.model.dim, teacher) for teacher in config.teachers if teacher.is_trained]
    teachers = [(width, config.training.resolve(one.train).epochs * one.folds) for width, one in trained]
    student = config.student
    students = [(student.model.dim, config.training.resolve(student.train).epochs)]
    if config.evaluation.control:
        students.append((student.model.dim, config.training.resolve(student.without_teachers().train).epochs))
    train = config.training.resolve(student.train)
    return cost_of(
        scale,
        teachers,
        students,
        refit=student.refit,
        scored_items=_scored_items(train, scale),
        batch_size=train.batch_size,
        sampled_targets=config.distillation.targets == "sampled",
        titles=any(teacher.text for teacher in config.teachers) or student.text is not None,
        test_users=config.evaluation.max_users,
        cores=config.training.workers * config.training.threads_per_worker,
    )


def say_estimate(config: RunConfig) -> None:
    """Print how long the stages after the features take, before the models are trained."""
    cost = estimate(config)
    if cost is None:
        return
    parts = ", ".join(f"{name} {_minutes(seconds)}" for name, seconds in cost._asdict().items() if seconds >= 30)
    bound = ""
    if config.budget_minutes:
        over = ", so models will train for fewer epochs" if cost.seconds > 60 * config.budget_minutes else ""
        bound = f"; budget_minutes {config.budget_minutes:g}{over}"
    say(f"estimate: about {_minutes(cost.seconds)} for the stages after the features ({parts}){bound}")


def begin() -> None:
    """The features are done: the budget of this run begins."""
    global _started
    _started = time.monotonic()


def say_spent(config: RunConfig) -> None:
    """Print how much of the budget the run has used."""
    if config.budget_minutes is None or _started is None:
        return
    spent = (time.monotonic() - _started) / 60
    text = f"budget    {spent:.1f} of {config.budget_minutes:g} minutes after the features"
    if spent > config.budget_minutes:
        warn(f"{text}: exceeded, because every model trains for at least an epoch. Raise budget_minutes")
    else:
        say(text)


def within_budget(
    config: RunConfig, runs: Sequence[TrainingRun], stage: Literal["teachers", "students", "refit"]
) -> list[TrainingRun]:
    """The runs with the seconds that the budget leaves for each, in proportion to what they cost.

    Args:
      config: the run config.
      runs: all that a stage trains.
      stage: what the runs train. Trainings that follow keep their share.
    """
    if config.budget_minutes is None:
        return list(runs)
    scale, cost = scale_of(config), estimate(config)
    if scale is None or cost is None:
        return list(runs)
    done, later = cost.start / 2 + cost.titles, cost.lists + cost.start / 2
    if stage == "teachers":
        own, following, later = cost.teachers, cost.students + cost.refit, later + cost.targets + cost.evaluation
    elif stage == "students":
        own, following, later = cost.students, cost.refit, later + cost.evaluation
        done += cost.teachers + cost.targets
    else:
        own, following = cost.refit, 0.0
        done += cost.teachers + cost.targets + cost.students + cost.evaluation
    spent = done if _started is None else time.monotonic() - _started
    left = 60 * config.budget_minutes - spent - MARGIN * later
    left *= own / (own + following) if following else 1.0
    costs = [
        training_seconds(
            scale,
            run.model.dim,
            run.train.epochs,
            scored_items=_scored_items(run.train, scale),
            batch_size=run.train.batch_size,
        )
        for run in runs
    ]
    return [replace(run, seconds=max(left, 0.0) * one / sum(costs)) for run, one in zip(runs, costs, strict=True)]


def _scored_items(train: TrainConfig, scale: Scale) -> int:
    return train.negatives if train.loss == "sampled_softmax" else scale.items


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
