"""How well the student serves each kind of user: by length of history, and by popularity of the next item."""

from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

from kdlib.report.charts import Mark, Row, interval_chart
from kdlib.report.content import Night
from kdlib.report.labels import count, interval, name_of, score, signed_score
from kdlib.report.rendering import render

ITEMS = {
    "head": "head (most popular)",
    "mid": "middle",
    "tail": "tail (least popular)",
    "new": "new (never in training)",
}
"""Slices by the next item. Head, middle and tail each have a third of the training interactions. All other slices are by user."""
BY_HISTORY = "by length of the history"
_SHOWN = {"student": "accent", "control": "second", "popularity": "neutral"}


@dataclass(frozen=True)
class Family:
    """One way to divide the users."""

    title: str
    chart: Markup
    columns: list[str]
    rows: list[list[str]]


def slices(night: Night) -> Markup | None:
    """A chart and a table for each way to divide the users. None: the run has no slices."""
    start = f"ndcg@{night.k}/"
    names = [
        metric.removeprefix(start) for model, metric in night.metrics if model == "student" and metric.startswith(start)
    ]
    if not names:
        return None
    families = {how: {name: name for name in found} for how, found in families_of(names).items()}
    families["by popularity of the next item"] = {name: label for name, label in ITEMS.items() if name in names}
    return render("slices", families=[_family(night, how, found, start) for how, found in families.items() if found])


def families_of(names: Iterable[str]) -> dict[str, list[str]]:
    """Slices by user: how the users are divided → names. A slice by a feature of the users is named `country = de`."""
    found: dict[str, list[str]] = {}
    for name in names:
        if name not in ITEMS:
            feature, is_feature, _ = name.partition(" = ")
            found.setdefault(f"by {feature}" if is_feature else BY_HISTORY, []).append(name)
    return found


def _family(night: Night, how: str, labels: dict[str, str], start: str) -> Family:
    shown = {model: style for model, style in _SHOWN.items() if (model, start + next(iter(labels))) in night.metrics}
    charted, rows, words = [], [], []
    for name, label in labels.items():
        found = {model: night.metrics[model, start + name] for model in shown}
        student = found["student"]
        marks = [Mark(one.value, style=shown[model]) for model, one in found.items() if model != "student"]
        marks = [*reversed(marks), Mark(student.value, student.low, student.high, "accent")]
        charted.append(Row(label, tuple(marks), count(student.users)))
        cells = [label, count(student.users), *(score(one.value) for one in found.values())]
        if "control" in shown:
            difference = night.difference("student", "control", start + name)
            cells += (
                ["", ""] if difference is None else [signed_score(difference.value), interval(difference, signed=True)]
            )
        rows.append(cells)
        words.append(f"{label}: student {score(student.value)} {interval(student)}")
    title = f"NDCG@{night.k} {how}"
    columns = ["", "Test users", *(name_of(model) for model in shown)]
    columns += ["difference", "95% interval"] if "control" in shown else []
    chart = interval_chart(
        charted,
        title=title,
        alternative=f"{title}. " + "; ".join(words),
        heading="test users",
        form=lambda value: f"{value:g}",
        kind="History" if how == BY_HISTORY else "Next item" if set(labels) <= set(ITEMS) else "Users",
        key=[(name_of(model), style) for model, style in shown.items()],
        zero=True,
    )
    return Family(title, chart, columns, rows)
