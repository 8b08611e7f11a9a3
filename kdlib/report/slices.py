"""How well the student serves each kind of user: by history, by the next item's popularity, by the next event's type."""

from dataclasses import dataclass

from markupsafe import Markup

from kdlib.config.data import EVENT_TYPES
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
"""Slices by the next item. Head, middle and tail each have a third of the training interactions. All other slices of the NDCG
are by history."""
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
    ndcg = f"ndcg@{night.k}"
    sliced = [metric.partition("/") for model, metric in night.metrics if model == "student" and "/" in metric]
    names = [name for metric, _, name in sliced if metric == ndcg]
    types = {name: metric for metric, _, name in sliced if name in EVENT_TYPES}
    families = [
        ("by length of the history", ndcg, "History", {name: name for name in names if name not in ITEMS}),
        ("by popularity of the next item", ndcg, "Next item", {k: label for k, label in ITEMS.items() if k in names}),
    ]
    if types:
        recall = next(iter(types.values()))
        families.append(("by type of the next event", recall, "Next event", {name: name for name in types}))
    found = [_family(night, how, metric, kind, labels) for how, metric, kind, labels in families if labels]
    return render("slices", families=found) if found else None


def _family(night: Night, how: str, metric: str, kind: str, labels: dict[str, str]) -> Family:
    start = f"{metric}/"
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
    title = f"{metric.replace('ndcg', 'NDCG').replace('recall', 'Recall')} {how}"
    columns = ["", "Test users", *(name_of(model) for model in shown)]
    columns += ["difference", "95% interval"] if "control" in shown else []
    chart = interval_chart(
        charted,
        title=title,
        alternative=f"{title}. " + "; ".join(words),
        heading="test users",
        form=lambda value: f"{value:g}",
        kind=kind,
        key=[(name_of(model), style) for model, style in shown.items()],
        zero=True,
    )
    return Family(title, chart, columns, rows)
