"""Charts of intervals and of bars, as inline SVG. The template `charts.html` draws them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from kdlib.report.rendering import render_macro

MARGIN = 3.0
"""Per cent left free at both ends of a scale, so that the chart's edge does not cut a dot."""


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` → per cent of the width, between the margins."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        return MARGIN + (100 - 2 * MARGIN) * (value - self.low) / (self.high - self.low)

    def at(self, value: float) -> str:
        """`place` as SVG writes it."""
        return f"{self.place(value):.2f}%"


def scale_of(values: Sequence[float], *, ticks: int = 5) -> Scale:
    """The scale that holds all values. Its ends and steps are round: 1, 2 or 5 times a power of ten."""
    low, high = min(values), max(values)
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        low, high = low - max(abs(low), 1.0) / 10, high + max(abs(high), 1.0) / 10
    rough = (high - low) / ticks
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Scale(first * step, last * step, tuple(round(number * step, 12) for number in range(first, last + 1)))


@dataclass(frozen=True)
class Mark:
    """A dot, with or without an interval."""

    value: float
    low: float | None = None
    high: float | None = None
    style: str = "neutral"

    @property
    def has_interval(self) -> bool:
        return self.low is not None and self.high is not None


def ends_of(marks: Sequence[Mark]) -> list[float]:
    """All values and interval ends: what a scale must hold."""
    return [value for mark in marks for value in (mark.value, mark.low, mark.high) if value is not None]


@dataclass(frozen=True)
class Row:
    """A line of an interval chart."""

    label: str
    marks: tuple[Mark, ...]
    value: str
    """The text at the right."""
    interval: str = ""
    """Stands after the value, in a lighter colour."""
    strong: bool = False


def interval_chart(
    rows: Sequence[Row],
    *,
    title: str,
    alternative: str,
    heading: str,
    form: Callable[[float], str],
    kind: str = "Model",
    key: Sequence[tuple[str, str]] = (),
    zero: bool = False,
) -> Markup:
    """Dots with their intervals, one row each, over one scale.

    Args:
      rows: from the top.
      title: the text above the chart.
      alternative: the content of the chart in words, for readers who cannot see it.
      heading: the text over the values at the right.
      form: writes the number of a tick.
      kind: the text over the labels at the left.
      key: (label, style) of each colour, where a row has several dots.
      zero: the scale includes 0, and the chart draws a line there.
    """
    values = ends_of([mark for row in rows for mark in row.marks])
    scale = scale_of([*values, 0.0] if zero else values)
    return render_macro(
        "charts",
        "interval_chart",
        rows,
        scale,
        title=title,
        alternative=alternative,
        heading=heading,
        form=form,
        kind=kind,
        key=key,
        zero=zero,
    )


def bar_chart(bars: Sequence[tuple[str, float, str]], *, title: str, alternative: str) -> Markup:
    """Horizontal bars from 0: (label, length, value as text)."""
    longest = max(length for _, length, _ in bars) or 1.0
    drawn = [(label, f"{100 * length / longest:.2f}%", value) for label, length, value in bars]
    return render_macro("charts", "bar_chart", drawn, title=title, alternative=alternative)


def stacked_bar(parts: Sequence[tuple[str, float, str, str]], *, title: str, alternative: str) -> Markup:
    """One bar cut into parts: (label, size, its share as text, style)."""
    whole = sum(size for _, size, _, _ in parts) or 1.0
    drawn, start = [], 0.0
    for _, size, _, style in parts:
        width = 100 * size / whole
        drawn.append((f"{start:.3f}%", f"{width:.3f}%", style))
        start += width
    key = [(f"{label} {share}", style) for label, _, share, style in parts]
    return render_macro("charts", "stacked_bar", drawn, title=title, alternative=alternative, key=key)
