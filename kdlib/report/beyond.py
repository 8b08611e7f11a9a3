"""What the lists are like beyond their accuracy: of every model, and of the student for each kind of user."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from markupsafe import Markup

from kdlib.report.content import Night
from kdlib.report.labels import count, name_of, share
from kdlib.report.rendering import render
from kdlib.report.slices import families_of


class _Column(NamedTuple):
    heading: str
    form: Callable[[float], str]


def _hundredths(value: float) -> str:
    return f"{value:.2f}"


_COLUMNS = {
    "coverage": _Column("Coverage", share),
    "novelty": _Column("Novelty", _hundredths),
    "popularity": _Column("Popularity", lambda value: count(value) if value >= 100 else f"{value:.1f}"),
    "diversity": _Column("Diversity", _hundredths),
    "new_items": _Column("New items", share),
    "gini": _Column("Concentration", _hundredths),
}
"""Metric without its `@k` → its column, in the table's order."""


def beyond(night: Night) -> Markup | None:
    """A table with a row for each model, then one for each segment of the users. None: nothing was measured."""
    measured = {metric.partition("@")[0]: metric for _, metric in night.metrics if "/" not in metric}
    columns = {measured[name]: column for name, column in _COLUMNS.items() if name in measured}
    models = [name for name in night.models_by_quality() if any((name, metric) in night.metrics for metric in columns)]
    if not models:
        return None
    rows = [[name_of(name), *_cells(night, name, columns)] for name in models]
    start = f"diversity@{night.k}/"
    segments = [
        metric.removeprefix(start)
        for name, metric in night.metrics
        if (name, metric[: len(start)]) == ("student", start)
    ]
    for how, of_users in families_of(segments).items():
        rows.append([f"{name_of('student')}, {how}"])
        rows += [[segment, *_cells(night, "student", columns, f"/{segment}")] for segment in of_users]
    return render(
        "beyond",
        k=night.k,
        coverage_k=measured.get("coverage", "").partition("@")[2],
        new_item_days=night.new_item_days,
        shown=[metric.partition("@")[0] for metric in columns],
        columns=["", *(column.heading for column in columns.values())],
        rows=rows,
        emphasised=[row for row, name in enumerate(models) if name == "student"],
    )


def _cells(night: Night, model: str, columns: Mapping[str, _Column], suffix: str = "") -> list[str]:
    """A value for each column, with its interval if it has one."""
    cells = []
    for metric, column in columns.items():
        one, form = night.metrics.get((model, metric + suffix)), column.form
        cells.append("" if one is None else form(one.value))
        if one is not None and one.low is not None and one.high is not None:
            cells[-1] += f" [{form(one.low)}, {form(one.high)}]"
    return cells
