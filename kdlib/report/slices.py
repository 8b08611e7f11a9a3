"""How well the student serves each kind of user: by history, by the next item's popularity, by the next event's type."""

from collections.abc import Iterable
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
are by user."""
BY_HISTORY = "by length of the history"
BY_ITEM = "by popularity of the next item"
BY_TYPE = "by type of the next event"
KINDS = {BY_HISTORY: "History", BY_ITEM: "Next item", BY_TYPE: "Next event"}
"""How the users are divided → the heading of the table's first column."""
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
    if not names and not types:
        return None
    families = [
        (how, ndcg, KINDS.get(how, "Users"), {n: n for n in found}) for how, found in families_of(names).items()
    ]
    families.append((BY_ITEM, ndcg, KINDS[BY_ITEM], {k: label for k, label in ITEMS.items() if k in names}))
    if types:
        recall = next(iter(types.values()))
        families.append((BY_TYPE, recall, KINDS[BY_TYPE], {name: name for name in types}))
    return render("slices", families=[_family(night, *family) for family in families if family[-1]])


def families_of(names: Iterable[str]) -> dict[str, list[str]]:
    """Slices by user: how the users are divided → names. A slice by a feature of the users is named `country = de`."""
    found: dict[str, list[str]] = {}
    for name in names:
        if name not in ITEMS:
            feature, is_feature, _ = name.partition(" = ")
            found.setdefault(f"by {feature}" if is_feature else BY_HISTORY, []).append(name)
    return found


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
