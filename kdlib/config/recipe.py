"""The default recipe: teachers, student and training of a run config without them.

It is the recipe of `cluster/runs/beauty.yaml`, measured on Amazon Beauty and Video Games, and scaled to the data. Where the
run config names features of the items, teacher and student read them.
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
"""Up to this many items, models train on the softmax over all items. Beyond it, a sampled softmax estimates it, and the student
follows the trained teacher over the same sampled items: to sample targets, `cache-teacher` would score all items at every
position."""
SAMPLED_NEGATIVES = 2048
"""Negatives of a step beyond `FULL_SOFTMAX_ITEMS`."""
WIDE_TEACHER_ITEMS = 500_000
"""With more items the teacher is narrower: its item table is the largest thing in memory."""


@dataclass(frozen=True)
class Effort:
    """How much a run spends on its models."""

    teacher_width: int
    """0: no teacher is trained, and the rules are the only teacher."""
    teacher_epochs: int
    student_epochs: int
    control_epochs: int
    """0: no control is trained."""
    max_test_users: int


EFFORTS = (
    Effort(256, 8, 12, 16, 100_000),
    Effort(256, 8, 12, 0, 20_000),
    Effort(128, 6, 10, 0, 5_000),
    Effort(0, 0, 8, 0, 5_000),
    Effort(0, 0, 4, 0, 3_000),
)
"""From the full effort to the smallest. First the control is left out, then the teacher is narrower, then it is left out.

A student that learns from rules alone is ahead of one whose teacher had no time to train (`run_budget.json`).
"""
LARGE_EFFORTS = (*EFFORTS[:3], Effort(128, 2, 6, 0, 5_000), Effort(64, 1, 2, 0, 3_000))
"""The same beyond `FULL_SOFTMAX_ITEMS`, where rules as the teacher would cost more than a trained one."""


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
    return _merged(_recipe(document, effort_for(document, scale), scale), document)


def effort_for(document: dict[str, Any], scale: Scale | None) -> Effort:
    """The largest effort that the run config's budget allows; the smallest if none fits."""
    budget = document.get("budget_minutes")
    if scale is None or not isinstance(budget, int | float):
        return EFFORTS[0]
    for effort in efforts_at(scale):
        if recipe_cost(effort, document, scale).seconds <= 60 * budget:
            return effort
    return efforts_at(scale)[-1]


def efforts_at(scale: Scale) -> tuple[Effort, ...]:
    """The efforts for this size of data, from the full one to the smallest."""
    return LARGE_EFFORTS if scale.items > FULL_SOFTMAX_ITEMS else EFFORTS


def recipe_cost(effort: Effort, document: dict[str, Any], scale: Scale) -> Cost:
    """What a run with this effort costs after the features."""
    teachers = [(effort.teacher_width, effort.teacher_epochs)] if effort.teacher_epochs else []
    epochs = [number for number in (effort.student_epochs, effort.control_epochs) if number]
    return cost_of(
        scale,
        teachers,
        [(_width(document), number) for number in epochs],
        refit=_section(document, "student").get("refit") is True,
        scored_items=scale.items if scale.items <= FULL_SOFTMAX_ITEMS else SAMPLED_NEGATIVES,
        batch_size=BATCH,
        sampled_targets=scale.items <= FULL_SOFTMAX_ITEMS,
        titles=bool(teachers) and _has_titles(document),
        test_users=effort.max_test_users,
        cores=local_cores(document),
    )


def local_cores(document: dict[str, Any]) -> int:
    """Cores for training: this machine's. 2 for a run on a cluster, where the run config describes the workers."""
    if _section(document, "ray").get("address"):
        return 2
    return len(os.sched_getaffinity(0))


def _section(document: dict[str, Any], name: str) -> dict[str, Any]:
    """A section. Empty where it is missing, or where it is not a mapping: validation reports that."""
    section = document.get(name)
    return section if isinstance(section, dict) else {}


def _width(document: dict[str, Any]) -> int:
    """Width of the student."""
    return WIDTHS.get(str(_section(document, "student").get("size", "base")), WIDTHS["base"])


def _has_titles(document: dict[str, Any]) -> bool:
    sources = _section(document, "input")
    listed = "catalogue" in sources and _section(sources, "catalogue").get("title", "") is not None
    return listed or "simulate" in sources


def _item_features(document: dict[str, Any]) -> list[str]:
    """The columns of the catalogue that the run config names as features. Teacher and student read them all."""
    return list(_section(_section(_section(document, "input"), "catalogue"), "features"))


def _recipe(document: dict[str, Any], effort: Effort, scale: Scale | None) -> dict[str, Any]:
    items, width = scale.items if scale else 0, _width(document)
    large = items > FULL_SOFTMAX_ITEMS
    automatic = _section(document, "student").get("size") == "auto"
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
    if _has_titles(document):
        filter_["text"] = {"whiten": True}
    if features := _item_features(document):
        filter_["features"] = features
    defaults: dict[str, Any] = {
        "epochs": effort.student_epochs,
        "patience": effort.student_epochs,
        "batch_size": workers * math.ceil(BATCH / workers),
        "least_steps": 80,
        "learning_rate": round(0.003 * 64 / width, 6),
        "final_learning_rate_fraction": 0.05,
        "warmup_steps": 100,
    }
    if large:
        defaults |= {"loss": "sampled_softmax", "negatives": SAMPLED_NEGATIVES, "negative_sampling": "popularity"}
    control = effort.control_epochs or effort.student_epochs
    trained = [filter_] if effort.teacher_epochs else []
    return {
        "teachers": trained if large else [{"name": "rules", "rules": {}}, *trained],
        "student": {
            "model": {"kind": "transformer", "block": "bsarec", "dim": width, "dropout": 0.1},
            "size": "auto" if automatic else "given",
            "features": features,
            # the control needs more dropout and more epochs; both were chosen on validation
            "control": {"dropout": 0.4, "train": {"epochs": control, "patience": control}},
        },
        "distillation": {
            "targets": "hidden" if large else "sampled",
            "temperature": 1.0,
            "kl_weight": 4.0,
            "weights": "given" if large else "validation_ndcg",
            "item_start": "teachers" if trained else "random",
        },
        # one worker with all cores: two workers would exchange the gradient of the item tables in every step
        "training": {
            "workers": 1,
            "threads_per_worker": max(local_cores(document) // workers, 1),
            "bf16": True,
            "defaults": defaults,
        },
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
