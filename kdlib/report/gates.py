"""The gates: what was found, what is allowed, and the values of the earlier runs."""

from markupsafe import Markup

from kdlib.report.content import Gate, Night
from kdlib.report.labels import number, short_day
from kdlib.report.rendering import render
from kdlib.report.trends import sparkline

SIGNS = {
    "failed": ("✕ failed", "bad"),
    "forced": ("! forced", "warn"),
    "passed": ("✓ passed", "good"),
    "skipped": ("– skipped", "skipped"),
}
"""Status → (its text, its style). Gates stand in this order."""
PARTS = {
    "input": "Judged before training",
    "quality": "Judged after evaluation",
    "search": "Judged after product search",
}


def gates(night: Night) -> Markup:
    """All gates by part. The failed gates come first in each part."""
    order = list(SIGNS)
    parts: dict[str, list[tuple[Gate, Markup | None]]] = {gate.part: [] for gate in night.gates}
    for gate in sorted(night.gates, key=lambda gate: order.index(gate.status)):
        parts[gate.part].append((gate, _trend(gate)))
    return render("gates", parts=parts, headings=PARTS, signs=SIGNS)


def _trend(gate: Gate) -> Markup | None:
    if len(gate.trend) < 2:
        return None
    alternative = f"{gate.name} over the runs: " + ", ".join(f"{short_day(ds)} {number(v)}" for ds, v in gate.trend)
    return sparkline([value for _, value in gate.trend], low=gate.low, high=gate.high, alternative=alternative)
