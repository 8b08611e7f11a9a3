"""The figures of a run as a tracker keeps them: names, values and steps."""

import math
import re
from collections.abc import Iterator

from kdlib.config.settings import flat
from kdlib.release.gates import rows_judged
from kdlib.report.content import Night

Figure = tuple[str, float, int]
"""Name, value, and the epoch; 0 for a figure of the whole run."""


def figures(night: Night) -> list[Figure]:
    """Epochs of each model, metrics with their intervals, gates with their bounds, rows, and seconds of stages.

    A figure without a value is left out.
    """
    found = [*_training(night), *_quality(night), *_gates(night), *_work(night)]
    return [(name_of(name), float(value), step) for name, value, step in found if math.isfinite(value)]


def _training(night: Night) -> Iterator[Figure]:
    for model, facts in night.models.items():
        if facts.get("parameters") is not None:
            yield f"{model}/parameters", facts["parameters"], 0
        for line in facts.get("epochs") or []:
            for what, value in line.items():
                if isinstance(value, int | float) and what != "epoch":
                    yield f"{model}/epoch/{what}", value, line["epoch"]
        for what, value in facts.get("validation", {}).items():
            yield f"{model}/validation/{what}", value, 0


def _quality(night: Night) -> Iterator[Figure]:
    for (model, metric), one in night.metrics.items():
        for end, value in (("", one.value), ("/low", one.low), ("/high", one.high)):
            if value is not None:
                yield f"{model}/{metric}{end}", value, 0
    if night.search:
        yield "search/queries", night.search.queries, 0
        yield "search/answered", night.search.answered, 0
        for name, value in flat(dict(night.search.student), "search").items():
            if isinstance(value, int | float):
                yield name.replace(".", "/"), value, 0


def _gates(night: Night) -> Iterator[Figure]:
    for one in night.gates:
        for end, value in (("", one.value), ("/low", one.low), ("/high", one.high)):
            if value is not None:
                yield f"gate/{one.name}{end}", value, 0


def _work(night: Night) -> Iterator[Figure]:
    if night.funnel:
        for kind, number in rows_judged(night.funnel).items():
            yield f"input_rows/{kind}", number, 0
        for name in ("users", "sessions", "interactions", "items"):
            if name in night.funnel:
                yield name, night.funnel[name], 0
    for stage, value in night.seconds.items():
        yield f"seconds/{stage}", value, 0


def name_of(name: str) -> str:
    """A name as MLflow takes it: `ndcg@10` becomes `ndcg_at_10`, and another sign that MLflow refuses becomes `_`."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"), flags=re.ASCII)[:250]
