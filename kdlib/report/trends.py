"""Values over the nights: a chart with whiskers, and a small line beside a number."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kdlib.report.charts import Mark, figure, legend, scale_of, svg
from kdlib.report.html import Html, tag


@dataclass(frozen=True)
class Series:
    """A line of a trend: (night's number from 0, mark) pairs."""

    name: str
    style: str
    marks: tuple[tuple[int, Mark], ...]


def trend_chart(
    nights: Sequence[str], series: Sequence[Series], *, title: str, alternative: str, form: Callable[[float], str]
) -> Html:
    """Values over the nights with whiskers for their intervals; the last value stands at the right.

    Args:
      nights: short names, oldest first.
      series: lines; a night without a value leaves no dot, and the line goes on to the next one.
      title: what is shown, above the chart.
      alternative: the same in words.
      form: writes a number.
    """
    height, top, bottom = 190, 14, 164
    every = [v for one in series for _, m in one.marks for v in (m.value, m.low, m.high) if v is not None]
    upright = scale_of(every, ticks=4)

    def across(number: int) -> str:
        return f"{11 + 76 * (number / (len(nights) - 1) if len(nights) > 1 else 0.5):.2f}%"

    def up(value: float) -> str:
        return f"{bottom - (bottom - top) * (value - upright.low) / (upright.high - upright.low):.1f}"

    parts = []
    for tick in upright.ticks:
        parts.append(tag("line", x1="0", x2="100%", y1=up(tick), y2=up(tick), class_="grid"))
        parts.append(tag("text", form(tick), x="0", y=f"{float(up(tick)) - 3:.1f}"))
    shown = range(len(nights)) if len(nights) <= 5 else (0, len(nights) // 2, len(nights) - 1)
    parts += [tag("text", nights[n], x=across(n), y=str(height - 8), text_anchor="middle") for n in shown]
    for one in series:
        for (left, before), (right, now) in zip(one.marks, one.marks[1:], strict=False):
            parts.append(
                tag(
                    "line",
                    x1=across(left),
                    x2=across(right),
                    y1=up(before.value),
                    y2=up(now.value),
                    class_=f"{one.style} trace",
                )
            )
        for number, mark in one.marks:
            x = across(number)
            if mark.low is not None and mark.high is not None:
                parts.append(tag("line", x1=x, x2=x, y1=up(mark.low), y2=up(mark.high), class_=f"{one.style} mark"))
            parts.append(tag("circle", cx=x, cy=up(mark.value), r="4", class_=f"{one.style} dot"))
        number, last = one.marks[-1]
        parts.append(
            tag(
                "text",
                form(last.value),
                x=across(number),
                dx="9",
                y=f"{float(up(last.value)) + 4:.1f}",
                class_=one.style,
            )
        )
    chart = svg(height, *parts, role="img", aria_label=alternative)
    return figure(title, legend([(one.name, one.style) for one in series]), chart)


def sparkline(values: Sequence[float], *, low: float | None, high: float | None, alternative: str) -> Html:
    """A small line over the nights; bounds that lie near are dashed, values outside them red."""
    width, height, edge = 104, 26, 5
    bounds = [bound for bound in (low, high) if bound is not None]
    least, most = min(values), max(values)
    room = max(most - least, 0.05 * max(abs(least), abs(most)), 1e-9)
    near = [bound for bound in bounds if least - 2 * room <= bound <= most + 2 * room]
    least, most = min([least, *near]), max([most, *near])
    span = most - least or 1.0

    def point(number: int, value: float) -> tuple[str, str]:
        x = edge + (width - 2 * edge) * (number / (len(values) - 1) if len(values) > 1 else 1.0)
        y = height - edge - (height - 2 * edge) * ((value - least) / span if most > least else 0.5)
        return f"{x:.1f}", f"{y:.1f}"

    parts = [tag("line", x1="0", x2=str(width), y1=point(0, b)[1], y2=point(0, b)[1], class_="bound") for b in near]
    path = " ".join(",".join(point(number, value)) for number, value in enumerate(values))
    parts.append(tag("polyline", points=path, class_="neutral trace"))
    for number, value in enumerate(values):
        outside = (low is not None and value < low) or (high is not None and value > high)
        if outside or number == len(values) - 1:
            x, y = point(number, value)
            parts.append(tag("circle", cx=x, cy=y, r="3", class_="bad dot" if outside else "accent dot"))
    return tag(
        "svg",
        *parts,
        width=str(width),
        height=str(height),
        viewBox=f"0 0 {width} {height}",
        class_="spark",
        role="img",
        aria_label=alternative,
    )
