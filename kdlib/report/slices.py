"""Whom the student serves well: its quality by length of history and by how popular the next item is."""

from kdlib.report.charts import Mark, Row, interval_chart, legend
from kdlib.report.content import Night
from kdlib.report.html import Html, join, section, table
from kdlib.report.labels import count, interval, name_of, score, signed_score

ITEMS = {
    "head": "head (most popular)",
    "mid": "middle",
    "tail": "tail (least popular)",
    "new": "new (never in training)",
}
"""Slices by the next item; head, middle and tail have a third of the training interactions each. All others are by history."""
_SHOWN = {"popularity": "neutral", "control": "second", "student": "accent"}


def slices(night: Night) -> Html | None:
    """A chart and a table for each way of cutting; nothing where the night has no slices."""
    start = f"ndcg@{night.k}/"
    names = list(
        dict.fromkeys(m.removeprefix(start) for model, m in night.metrics if model == "student" and m.startswith(start))
    )
    if not names:
        return None
    families = {
        "by length of the history": {name: name for name in names if name not in ITEMS},
        "by popularity of the next item": {name: label for name, label in ITEMS.items() if name in names},
    }
    parts = [_family(night, title, labels, start) for title, labels in families.items() if labels]
    return section("slices", "Quality by kind of user and item", *parts)


def _family(night: Night, how: str, labels: dict[str, str], start: str) -> Html:
    shown = {model: style for model, style in _SHOWN.items() if (model, start + next(iter(labels))) in night.metrics}
    charted, rows, words = [], [], []
    for name, label in labels.items():
        found = {model: night.metrics[model, start + name] for model in shown}
        student = found["student"]
        marks = [Mark(one.value, style=shown[model]) for model, one in found.items() if model != "student"]
        marks.append(Mark(student.value, student.low, student.high, "accent"))
        charted.append(Row(label, tuple(marks), count(student.users)))
        difference = night.difference("student", "control", start + name)
        cells = [label, count(student.users), *(score(found[model].value) for model in reversed(shown))]
        if "control" in shown:
            cells += (
                ["", ""] if difference is None else [signed_score(difference.value), interval(difference, signed=True)]
            )
        rows.append(cells)
        words.append(f"{label}: student {score(student.value)} {interval(student)}")
    title = f"NDCG@{night.k} {how}"
    columns = ["", "Test users", *(name_of(model) for model in reversed(shown))]
    columns += ["difference", "95% interval"] if "control" in shown else []
    chart = interval_chart(
        charted,
        title=title,
        alternative=f"{title}. " + "; ".join(words),
        heading="test users",
        form=lambda value: f"{value:g}",
        kind="Next item" if set(labels) <= set(ITEMS) else "History",
        key=legend([(name_of(model), style) for model, style in reversed(shown.items())]),
        zero=True,
    )
    return join([chart, table(f"{title} in numbers", columns, rows)])
