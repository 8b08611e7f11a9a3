"""The default recipe: teachers, student and training of a run config without them.

It is the recipe of `cluster/runs/beauty.yaml`, measured on Amazon Beauty and Video Games, and scaled to the data.
"""

import math
import os
from dataclasses import dataclass
from typing import Any

from kdlib.config.costs import Cost, Scale, cost_of

WIDTHS = {"small": 32, "base": 64, "large": 128, "auto": 64}
"""`student.size` → width of the student; for `auto` the largest width that is tried."""
BATCH = 256
"""Windows of a step, rounded up to a multiple of the workers."""
FULL_SOFTMAX_ITEMS = 100_000
"""Up to this many items, models train on the softmax over all items. Beyond it, a sampled softmax estimates it."""
SAMPLED_NEGATIVES = 2048
"""Negatives of a step beyond `FULL_SOFTMAX_ITEMS`."""
WIDE_TEACHER_ITEMS = 500_000
"""With more items the teacher is narrower: its item table is the largest thing in memory."""


@dataclass(frozen=True)
class Effort:
    """How much a run spends on its models."""

    teacher_width: int
    teacher_epochs: int
    student_epochs: int
    control_epochs: int
    """0: no control is trained."""
    negatives: int
    """Sampled negatives of a training step; 0: the softmax over all items."""
    max_test_users: int


EFFORTS = (
    Effort(256, 8, 12, 16, 0, 100_000),
    Effort(256, 8, 12, 0, 0, 20_000),
    Effort(256, 8, 12, 0, 2048, 10_000),
    Effort(128, 6, 8, 0, 2048, 5_000),
    Effort(128, 3, 5, 0, 2048, 3_000),
)
"""From the full effort to the smallest. First the control is left out, then the full softmax, then width and epochs."""


def applies(document: dict[str, Any]) -> bool:
    """Whether a run config leaves the models to the recipe: no `teachers`, `distillation` or `student.model`."""
    given = document.get("teachers") or document.get("distillation") or _section(document, "student").get("model")
    return not given and bool({"events", "simulate"} & _section(document, "input").keys())


def with_recipe(document: dict[str, Any], scale: Scale | None = None) -> dict[str, Any]:
    """The run config with the recipe's sections. Keys that the run config gives win over the recipe's.

    Args:
      document: a run config for which `applies` is true.
      scale: size of the data; None before the features are built.
    """
    titles, cores = _has_titles(_section(document, "input")), local_cores(document)
    effort = effort_for(document.get("budget_minutes"), scale, titles=titles, cores=cores)
    return _merged(_recipe(document, effort, scale, titles=titles, cores=cores), document)


def effort_for(budget_minutes: Any, scale: Scale | None, *, titles: bool, cores: int) -> Effort:
    """The largest effort that a budget allows; the smallest if none fits."""
    if scale is None or not isinstance(budget_minutes, int | float):
        return EFFORTS[0]
    for effort in EFFORTS:
        if recipe_cost(effort, scale, titles=titles, cores=cores).seconds <= 60 * budget_minutes:
            return effort
    return EFFORTS[-1]


def recipe_cost(effort: Effort, scale: Scale, *, titles: bool, cores: int) -> Cost:
    """What a run with this effort and a student of base size costs after the features."""
    teacher = [(effort.teacher_width, effort.teacher_epochs)]
    epochs = [number for number in (effort.student_epochs, effort.control_epochs) if number]
    students = [(WIDTHS["base"], number) for number in epochs]
    return cost_of(
        scale,
        teacher,
        students,
        scored_items=_negatives(effort, scale.items) or scale.items,
        titles=titles,
        test_users=effort.max_test_users,
        cores=cores,
    )


def _negatives(effort: Effort, items: int) -> int:
    """Sampled negatives of a step; 0: the softmax over all items."""
    if items > FULL_SOFTMAX_ITEMS:
        return effort.negatives or SAMPLED_NEGATIVES
    return effort.negatives if effort.negatives < items else 0


def local_cores(document: dict[str, Any]) -> int:
    """Cores for training: this machine's. 2 for a run on a cluster, where the run config describes the workers."""
    if _section(document, "ray").get("address"):
        return 2
    return len(os.sched_getaffinity(0))


def _section(document: dict[str, Any], name: str) -> dict[str, Any]:
    """A section. Empty where it is missing, or where it is not a mapping: validation reports that."""
    section = document.get(name)
    return section if isinstance(section, dict) else {}


def _has_titles(sources: dict[str, Any]) -> bool:
    listed = "catalogue" in sources and _section(sources, "catalogue").get("title", "") is not None
    return listed or "simulate" in sources


def _recipe(
    document: dict[str, Any], effort: Effort, scale: Scale | None, *, titles: bool, cores: int
) -> dict[str, Any]:
    items = scale.items if scale else 0
    size = str(_section(document, "student").get("size", "base"))
    width = WIDTHS.get(size, WIDTHS["base"])
    given = _section(document, "training").get("workers")
    workers = given if isinstance(given, int) and given > 0 else 1
    filter_: dict[str, Any] = {
        "name": "filter",
        "model": {
            "kind": "transformer",
            "block": "bsarec",
            "dim": min(effort.teacher_width, 256 if items <= WIDE_TEACHER_ITEMS else 128),
            "heads": 4,
            "dropout": 0.5,
        },
        "train": {"epochs": effort.teacher_epochs, "learning_rate": 0.002},
    }
    if titles:
        filter_["text"] = {"whiten": True}
    defaults: dict[str, Any] = {
        "epochs": effort.student_epochs,
        "patience": effort.student_epochs,
        "batch_size": workers * math.ceil(BATCH / workers),
        "least_steps": 80,
        "learning_rate": round(0.003 * 64 / width, 6),
        "final_learning_rate_fraction": 0.05,
        "warmup_steps": 100,
    }
    if negatives := _negatives(effort, items):
        defaults |= {"loss": "sampled_softmax", "negatives": negatives, "negative_sampling": "popularity"}
    control = effort.control_epochs or effort.student_epochs
    return {
        "teachers": [{"name": "rules", "rules": {}}, filter_],
        "student": {
            "model": {"kind": "transformer", "block": "bsarec", "dim": width, "dropout": 0.1},
            "size": "auto" if size == "auto" else "given",
            # the control needs more dropout and more epochs; both were chosen on validation
            "control": {"dropout": 0.4, "train": {"epochs": control, "patience": control}},
        },
        "distillation": {
            "targets": "sampled",
            "temperature": 1.0,
            "kl_weight": 4.0,
            "weights": "validation_ndcg",
            "item_start": "teachers",
        },
        # one worker with all cores: two workers would exchange the gradient of the item tables in every step
        "training": {"workers": 1, "threads_per_worker": max(cores // workers, 1), "bf16": True, "defaults": defaults},
        "evaluation": {"control": effort.control_epochs > 0, "max_users": effort.max_test_users},
    }


def _merged(recipe: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The recipe with the given keys, which win key by key, in sections too. The recipe has already used a given size."""
    merged = dict(recipe)
    for key, value in given.items():
        if key == "size" and str(value) in WIDTHS:
            continue
        ours = merged.get(key)
        merged[key] = _merged(ours, value) if isinstance(ours, dict) and isinstance(value, dict) else value
    return {key: value if value is not None else recipe.get(key) for key, value in merged.items()}
