"""Charts as inline SVG: places across are percentages, so that a chart fits any width and its text keeps its size.

Every chart is an image with a text alternative; the tables beside them hold the same numbers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kdlib.report.html import Html, tag

MARGIN = 3.0
"""Per cent left free at both ends of a scale, so that no dot is cut off."""
ROW = 26
"""Pixels of a chart's row."""


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` → per cent of the width, between the margins."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        return MARGIN + (100 - 2 * MARGIN) * (value - self.low) / (self.high - self.low)

    def at(self, value: float) -> str:
        """`place` as SVG wants it."""
        return f"{self.place(value):.2f}%"


def scale_of(values: Sequence[float], *, ticks: int = 5) -> Scale:
    """The scale with round ends and steps (1, 2 or 5 times a power of ten) that holds all values."""
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
    """A dot, with its interval where it has one."""

    value: float
    low: float | None = None
    high: float | None = None
    style: str = "neutral"


@dataclass(frozen=True)
class Row:
    """A line of an interval chart."""

    label: str
    marks: tuple[Mark, ...]
    value: Html | str
    strong: bool = False


def interval_chart(
    rows: Sequence[Row],
    *,
    title: str,
    alternative: str,
    heading: str,
    form: Callable[[float], str],
    kind: str = "Model",
    key: Html | None = None,
    zero: bool = False,
) -> Html:
    """Dots with their intervals, a row each, over one scale.

    Args:
      rows: from the top.
      title: what is shown, above the chart.
      alternative: the same in words, for who cannot see it.
      heading: over the values at the right.
      form: writes a tick's number.
      kind: over the labels at the left.
      key: a legend, where a row has several dots.
      zero: take 0 into the scale and draw a line there.
    """
    every = [v for row in rows for mark in row.marks for v in (mark.value, mark.low, mark.high) if v is not None]
    scale = scale_of([*every, 0.0] if zero else every)
    lines = [_line(kind, _axis(scale, form), heading, style="unit")] + [
        _line(row.label, _strip(row.marks, scale, zero=zero), row.value, style="strong" if row.strong else None)
        for row in rows
    ]
    return figure(title, key, tag("div", *lines, role="img", aria_label=alternative))


def _line(label: str, plot: Html, value: Html | str, *, style: str | None, kind: str = "row") -> Html:
    return tag(
        "div",
        tag("span", label, class_=style),
        plot,
        tag("span", value, class_=f"value {style or ''}".strip()),
        class_=kind,
    )


def _strip(marks: Sequence[Mark], scale: Scale, *, zero: bool) -> Html:
    middle = str(ROW / 2)
    parts = [tag("line", x1=scale.at(t), x2=scale.at(t), y1="0", y2=str(ROW), class_="grid") for t in scale.ticks]
    if zero:
        parts.append(tag("line", x1=scale.at(0), x2=scale.at(0), y1="0", y2=str(ROW), class_="zero"))
    for mark in marks:
        if mark.low is not None and mark.high is not None:
            parts.append(
                tag(
                    "line",
                    x1=scale.at(mark.low),
                    x2=scale.at(mark.high),
                    y1=middle,
                    y2=middle,
                    class_=f"{mark.style} mark",
                )
            )
        parts.append(tag("circle", cx=scale.at(mark.value), cy=middle, r="4.5", class_=f"{mark.style} dot"))
    return svg(ROW, *parts)


def _axis(scale: Scale, form: Callable[[float], str]) -> Html:
    labels = [tag("text", form(t), x=scale.at(t), y="14", text_anchor="middle") for t in scale.ticks]
    return svg(20, *labels)


def bar_chart(rows: Sequence[tuple[str, float, str]], *, title: str, alternative: str) -> Html:
    """Horizontal bars from 0: (label, length, value as text)."""
    most = max(length for _, length, _ in rows) or 1.0
    lines = [
        _line(
            label,
            svg(
                ROW,
                tag(
                    "rect", x="0", y="6", width=f"{100 * length / most:.2f}%", height=str(ROW - 12), class_="accent bar"
                ),
            ),
            value,
            style=None,
            kind="row bars",
        )
        for label, length, value in rows
    ]
    return figure(title, tag("div", *lines, role="img", aria_label=alternative))


def stacked_bar(parts: Sequence[tuple[str, float, str, str]], *, title: str, alternative: str) -> Html:
    """One bar cut into parts: (label, size, its share as text, style)."""
    whole = sum(size for _, size, _, _ in parts) or 1.0
    drawn, start = [], 0.0
    for _, size, _, style in parts:
        width = 100 * size / whole
        drawn.append(tag("rect", x=f"{start:.3f}%", y="0", width=f"{width:.3f}%", height="20", class_=f"{style} bar"))
        start += width
    labels = legend([(f"{label} {share}", style) for label, _, share, style in parts])
    return figure(title, labels, svg(20, *drawn, role="img", aria_label=alternative))


def legend(entries: Sequence[tuple[str, str]]) -> Html:
    """What each colour stands for: (label, style)."""
    dots = {style: tag("circle", cx="5", cy="6", r="4.5", class_=f"{style} dot") for _, style in entries}
    return tag(
        "ul",
        *(
            tag("li", tag("svg", dots[style], width="10", height="12", aria_hidden="true"), label)
            for label, style in entries
        ),
        class_="legend",
    )


def svg(height: int, *content: Html, role: str | None = None, aria_label: str | None = None) -> Html:
    """A drawing as wide as its place."""
    return tag("svg", *content, width="100%", height=str(height), role=role, aria_label=aria_label)


def figure(title: str, *content: Html | None) -> Html:
    """A chart under its title."""
    return tag("figure", tag("figcaption", title), *content)
