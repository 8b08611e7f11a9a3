"""The gates: what was found, what is allowed, and how the nights before stood."""

from kdlib.report.content import Gate, Night
from kdlib.report.headline import bounds
from kdlib.report.html import Content, Html, join, missing, section, table, tag
from kdlib.report.labels import number, short_day
from kdlib.report.trends import sparkline

_SIGNS = {
    "passed": ("✓ passed", "good"),
    "failed": ("✕ failed", "bad"),
    "forced": ("! forced", "warn"),
    "skipped": ("– skipped", "skipped"),
}
_PARTS = {"input": "Judged before training", "quality": "Judged after evaluation"}


def gates(night: Night) -> Html:
    """All gates, in each part those that failed first."""
    if not night.gates:
        return section("gates", "Gates", missing("No gates were judged this night."))
    order = ["failed", "forced", "passed", "skipped"]
    rows: list[tuple[Content, ...]] = []
    for part in dict.fromkeys(gate.part for gate in night.gates):
        rows.append((_PARTS.get(part, part),))
        rows += map(_row, sorted((g for g in night.gates if g.part == part), key=lambda g: order.index(g.status)))
    columns = ("Gate", "Status", "Found", "Allowed", "Last nights")
    caption = "What was found and what is allowed, bounds included"
    return section("gates", "Gates", table(caption, columns, rows, text=("Status", "Last nights")))


def _row(gate: Gate) -> tuple[Content, ...]:
    sign, style = _SIGNS[gate.status]
    return (
        join([gate.name.replace("_", " "), tag("span", gate.text, class_="gate")]),
        tag("span", sign, class_=f"status {style}"),
        "" if gate.value is None else number(gate.value),
        bounds(gate),
        _trend(gate),
    )


def _trend(gate: Gate) -> Html | None:
    if len(gate.trend) < 2:
        return None
    alternative = f"{gate.name} over the nights: " + ", ".join(f"{short_day(ds)} {number(v)}" for ds, v in gate.trend)
    return sparkline([value for _, value in gate.trend], low=gate.low, high=gate.high, alternative=alternative)
