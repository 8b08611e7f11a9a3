"""The quality of a run: the sections of its report about metrics, gates, models, time and drift."""

from collections.abc import Mapping

from markupsafe import Markup

from kdlib.explore.rendering import render
from kdlib.explore.run import Run
from kdlib.explore.shop import Shop
from kdlib.report.charts import Mark, Row, interval_chart
from kdlib.report.headline import headline
from kdlib.report.labels import score, tick
from kdlib.report.page import SECTIONS

SHOWN = ("distillation", "gates", "quality", "slices", "beyond", "models", "time", "drift", "search")
"""Sections of the report, in the page's order."""


def quality_view(shop: Shop, run: Run) -> Markup:
    """The verdict with the main numbers, the sections, and the sizes that `student.size: auto` tried."""
    night = shop.night(run.ds)
    sections = {anchor: (SECTIONS[anchor][0], SECTIONS[anchor][1](night)) for anchor in SHOWN}
    tried = run.manifest("models/student").details.get("sizes") if "models/student" in run.versions else None
    return render(
        "sections",
        headline=headline(night),
        sizes=size_curve(tried) if tried else None,
        sections={anchor: section for anchor, section in sections.items() if section[1] is not None},
    )


def size_curve(tried: Mapping[str, float]) -> Markup:
    """Validation NDCG@10 of the students of each width, and of the teachers together.

    Args:
      tried: `sizes` in the manifest of a student that chose its size: `teachers`, and `d8`, `d16`, … for each width.
    """
    students = {name: value for name, value in tried.items() if name != "teachers"}
    rows = [
        Row(f"student of width {name.removeprefix('d')}", (Mark(value, style="accent"),), score(value))
        for name, value in students.items()
    ]
    rows.append(Row("teachers together", (Mark(tried["teachers"]),), score(tried["teachers"])))
    title = "Validation NDCG@10 of each width that was tried; the last width is published"
    words = "; ".join(f"{row.label} {row.value}" for row in rows)
    return interval_chart(rows, title=title, alternative=f"{title}. {words}", heading="NDCG@10", form=tick, zero=True)
