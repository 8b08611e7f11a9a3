"""Values over the runs: a chart with whiskers, and a small line beside a number."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from kdlib.report.charts import Mark, Scale, ends_of, scale_of
from kdlib.report.rendering import render_macro


@dataclass(frozen=True)
class Series:
    """A line of a trend: (number of the run from 0, mark) pairs."""

    name: str
    style: str
    marks: tuple[tuple[int, Mark], ...]


@dataclass(frozen=True)
class Frame:
    """Where a trend chart puts its runs and values. Heights are pixels from the top."""

    num_runs: int
    scale: Scale
    height: int = 190
    top: int = 14
    bottom: int = 164

    @property
    def named(self) -> Sequence[int]:
        """The runs whose name is written below the chart."""
        return range(self.num_runs) if self.num_runs <= 5 else (0, self.num_runs // 2, self.num_runs - 1)

    def across(self, number: int) -> str:
        """The place of a run, in per cent of the width."""
        return f"{11 + 76 * (number / (self.num_runs - 1) if self.num_runs > 1 else 0.5):.2f}%"

    def up(self, value: float, shift: float = 0.0) -> str:
        """The height of a value. `shift` moves a text to the middle of its dot, or above its line."""
        share = (value - self.scale.low) / (self.scale.high - self.scale.low)
        return f"{round(self.bottom - (self.bottom - self.top) * share, 1) + shift:.1f}"


def trend_chart(
    nights: Sequence[str], series: Sequence[Series], *, title: str, alternative: str, form: Callable[[float], str]
) -> Markup:
    """Values over the runs, with whiskers for their intervals. The last value is written at the right.

    Args:
      nights: short names of the runs, oldest first.
      series: the lines. A run without a value has no dot, and the line continues to the next dot.
      title: the text above the chart.
      alternative: the content of the chart in words.
      form: writes a number.
    """
    scale = scale_of(ends_of([mark for one in series for _, mark in one.marks]), ticks=4)
    return render_macro(
        "charts",
        "trend_chart",
        nights,
        series,
        Frame(len(nights), scale),
        title=title,
        alternative=alternative,
        form=form,
        key=[(one.name, one.style) for one in series],
    )


def sparkline(values: Sequence[float], *, low: float | None, high: float | None, alternative: str) -> Markup:
    """A small line over the runs. Bounds near the line are dashed, and values outside the bounds are red."""
    width, height, edge = 104, 26, 5
    bounds = [bound for bound in (low, high) if bound is not None]
    least, most = min(values), max(values)
    room = max(most - least, 0.05 * max(abs(least), abs(most)), 1e-9)
    near = [bound for bound in bounds if least - 2 * room <= bound <= most + 2 * room]
    least, most = min([least, *near]), max([most, *near])
    span = most - least or 1.0

    def across(number: int) -> str:
        share = number / (len(values) - 1) if len(values) > 1 else 1.0
        return f"{edge + (width - 2 * edge) * share:.1f}"

    def up(value: float) -> str:
        share = (value - least) / span if most > least else 0.5
        return f"{height - edge - (height - 2 * edge) * share:.1f}"

    outside = [(low is not None and value < low) or (high is not None and value > high) for value in values]
    dots = [
        (across(number), up(value), "bad" if outside[number] else "accent")
        for number, value in enumerate(values)
        if outside[number] or number == len(values) - 1
    ]
    return render_macro(
        "charts",
        "sparkline",
        width,
        height,
        bounds=[up(bound) for bound in near],
        path=" ".join(f"{across(number)},{up(value)}" for number, value in enumerate(values)),
        dots=dots,
        alternative=alternative,
    )
