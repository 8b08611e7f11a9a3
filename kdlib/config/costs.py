"""What the stages after the features cost. The rates are measured on two cores of the machine of the benchmarks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

START_SECONDS = 30.0
"""Time to start Ray and the processes of the stages, and to write the report."""
TITLE_SECONDS = 0.005
"""Seconds to encode a title with the pretrained encoder."""
TRAINING_RATE = {64: 145e9, 128: 160e9, 256: 225e9}
"""Width of the model → operations a second, as `training_seconds` counts them."""
TABLE_SECONDS = 1e-8
"""Training: seconds for a number of the item table and a step, which updates them all."""
TARGET_SECONDS = 8e-9
"""Sampled targets: seconds for an item, a position and a teacher."""
RANK_SECONDS = 24e-9
"""Evaluation: seconds for an item, a user and a model."""
LIST_SECONDS = 4e-9
"""Recommendation: seconds for an item and a user."""
BASELINES = 2
"""Rankings without a model that the evaluation measures."""
RULES = 1
"""Teachers that need no training: the rules of the default recipe."""
MOST_CORES = 8
"""Beyond these, the time of a single worker hardly falls."""


@dataclass(frozen=True)
class Scale:
    """Size of a shop's data."""

    users: int
    items: int
    interactions: int


class Cost(NamedTuple):
    """Seconds of the stages after the features. On another machine an estimate may be off by a factor of two."""

    start: float
    titles: float
    teachers: float
    targets: float
    students: float
    evaluation: float
    refit: float
    """The second training on all days, with its targets."""
    lists: float

    @property
    def seconds(self) -> float:
        """All of them."""
        return sum(self)


def cost_of(
    scale: Scale,
    teachers: Sequence[tuple[int, int]],
    students: Sequence[tuple[int, int]],
    *,
    refit: bool = False,
    scored_items: int,
    batch_size: int,
    sampled_targets: bool,
    titles: bool,
    test_users: int,
    cores: int,
) -> Cost:
    """Estimate a run.

    Args:
      scale: size of the data.
      teachers: (width, epochs) of each trained teacher.
      students: (width, epochs) of student and control.
      refit: whether the student is trained again, on all days.
      scored_items: items that a training step scores.
      batch_size: windows of a training step.
      sampled_targets: whether the targets are sampled from what the teachers predict for all items, rules among them. Else they
        are the hidden states of the trained teachers.
      titles: whether a teacher reads titles.
      test_users: most users that are evaluated.
      cores: of the worker that trains.
    """
    faster = min(cores, MOST_CORES) / 2
    rules = RULES if sampled_targets else 0
    together = rules + len(teachers) > 1  # what several teachers predict together is judged too
    training = {"scored_items": scored_items, "batch_size": batch_size}
    judged = min(scale.users, test_users) * (BASELINES + rules + len(teachers) + together + len(students))
    if sampled_targets:
        targets = scale.interactions * scale.items * (RULES + len(teachers)) * TARGET_SECONDS / faster
    else:  # a forward pass takes a third of a step without scores, and to write the states takes as long again
        steps = sum(scale.interactions * layer_operations(width) / rate_of(width) for width, _ in teachers)
        targets = steps * 2 / 3 / faster
    trained = [training_seconds(scale, *one, **training) / faster for one in students]
    return Cost(
        start=START_SECONDS,
        titles=titles * scale.items * TITLE_SECONDS / faster,
        teachers=sum(training_seconds(scale, *one, **training) for one in teachers) / faster,
        targets=targets,
        students=sum(trained),
        evaluation=judged * scale.items * RANK_SECONDS / faster,
        refit=trained[0] + targets if refit else 0.0,
        lists=scale.users * scale.items * LIST_SECONDS / faster,
    )


def training_seconds(scale: Scale, width: int, epochs: int, *, scored_items: int, batch_size: int) -> float:
    """Seconds to train a Transformer with one block on two cores: scores, layers, and updates of the item table."""
    operations = scale.interactions * (6 * scored_items * width + layer_operations(width))
    updated = scale.users / batch_size * scale.items * width
    return epochs * (operations / rate_of(width) + updated * TABLE_SECONDS)


def layer_operations(width: int) -> int:
    """Operations of a block's layers for a position, forward and backward."""
    return 72 * width**2


def rate_of(width: int) -> float:
    """Operations a second at a width, from `TRAINING_RATE`."""
    return TRAINING_RATE[min((known for known in TRAINING_RATE if known >= width), default=256)]
