"""Charts put dots, intervals and lines at the places of their values."""

import re

import pytest

from kdlib.report.charts import Mark, Row, interval_chart, scale_of, stacked_bar
from kdlib.report.rendering import TEMPLATES
from kdlib.report.trends import Series, sparkline, trend_chart


@pytest.mark.parametrize(
    ("values", "low", "high", "step"),
    [
        ([0.07, 0.21], 0.05, 0.25, 0.05),
        ([0.0, 1.0], 0.0, 1.0, 0.2),
        ([-0.005, 0.128], -0.05, 0.15, 0.05),
        ([3, 97], 0, 100, 20),
    ],
)
def test_scales_are_round(values: list[float], low: float, high: float, step: float) -> None:
    """Ends and ticks are round numbers around the values."""
    scale = scale_of(values)
    assert (scale.low, scale.high) == (pytest.approx(low), pytest.approx(high))
    assert [b - a for a, b in zip(scale.ticks, scale.ticks[1:], strict=False)] == pytest.approx(
        [step] * (len(scale.ticks) - 1)
    )


@pytest.mark.parametrize("value", [0.0, 0.25, -3.0, 1e-12])
def test_a_single_value_has_a_scale(value: float) -> None:
    """Equal values, also zeros, get a scale that has a width."""
    scale = scale_of([value, value])
    assert scale.low < scale.high
    assert 3 <= scale.place(value) <= 97


def test_intervals_are_drawn_in_place() -> None:
    """On a scale from 0 to 1 with margins of 3%, the interval .2 to .6 runs from 21.8% to 59.4%."""
    rows = [Row("a", (Mark(0.4, 0.2, 0.6, "accent"),), "0.4"), Row("b", (Mark(0.0), Mark(1.0)), "")]
    html = interval_chart(rows, title="t", alternative="words", heading="h", form=str)
    assert re.search(r'<line x1="21\.80%" x2="59\.40%" y1="13\.0" y2="13\.0" class="accent mark"/>', html)
    assert re.search(r'<circle cx="40\.60%" cy="13\.0" r="4\.5" class="accent dot"/>', html)
    assert 'cx="3.00%"' in html
    assert 'cx="97.00%"' in html
    assert html.count(" mark") == 1, "a value without interval has none drawn"


def test_zero_has_its_line() -> None:
    """A chart of differences includes 0 and draws a line there, also if all values are above 0."""
    row = Row("a", (Mark(0.8, 0.6, 1.0),), "")
    html = interval_chart([row], title="t", alternative="w", heading="h", form=str, zero=True)
    assert '<line x1="3.00%" x2="3.00%" y1="0" y2="26" class="zero"/>' in html
    assert "zero" not in interval_chart([row], title="t", alternative="w", heading="h", form=str)


def test_a_trend_runs_from_left_to_right() -> None:
    """Higher values are drawn higher. The line crosses a missing run. The last value is written."""
    marks = ((0, Mark(0.1, 0.0, 0.2)), (2, Mark(0.4, 0.3, 0.4)))
    html = trend_chart(["1", "2", "3"], [Series("s", "accent", marks)], title="t", alternative="w", form=str)
    dots = re.findall(r'<circle cx="([\d.]+)%" cy="([\d.]+)"', html)
    assert [float(x) for x, _ in dots] == [11.0, 87.0]
    assert float(dots[0][1]) > float(dots[1][1])
    assert html.count("accent trace") == 1
    assert html.count("accent mark") == 2
    assert ">0.4</text>" in html


def test_a_sparkline_shows_what_is_out_of_bounds() -> None:
    """A value outside the bounds has a red dot. A bound near the values is dashed, and a bound far away is not drawn."""
    html = sparkline([1.0, 1.2, 3.0, 1.1], low=None, high=2.0, alternative="w")
    assert html.count("bad dot") == 1
    assert html.count("accent dot") == 1
    assert html.count("bound") == 1
    far = sparkline([1.0, 1.1], low=None, high=100.0, alternative="w")
    assert "bound" not in far
    assert "bad" not in far
    points = re.findall(r'points="([^"]+)"', sparkline([5.0, 5.0], low=None, high=None, alternative="w"))[0]
    assert points == "5.0,13.0 99.0,13.0"


def test_parts_fill_the_bar() -> None:
    """Each part of a stacked bar starts where the part before ends."""
    html = stacked_bar([("a", 60, "60%", "accent"), ("b", 40, "40%", "neutral")], title="t", alternative="w")
    assert 'x="0.000%" y="0" width="60.000%"' in html
    assert 'x="60.000%" y="0" width="40.000%"' in html


def _luminance(colour: str) -> float:
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _palettes() -> list[dict[str, str]]:
    """The colours of the style sheet: on light screens and on paper, then on dark screens."""
    pairs = re.findall(r"--(\w+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", (TEMPLATES / "style.css").read_text())
    return [{name: pair[side] for name, *pair in pairs} for side in (0, 1)]


def test_every_colour_has_a_light_and_a_dark_form() -> None:
    """Eleven colours have a light and a dark form, and paper keeps the light colours."""
    style = (TEMPLATES / "style.css").read_text()
    assert len(_palettes()[0]) == len(re.findall(r"^  --\w+:", style, re.M)) == 11
    assert not re.search(r"#[0-9a-f]{3,6}\b", style.partition("}")[2])
    assert "color-scheme: light; }" in style.partition("@media print")[2]


@pytest.mark.parametrize("palette", _palettes(), ids=["light", "dark"])
def test_colours_can_be_read(palette: dict[str, str]) -> None:
    """Every colour of text and marks has a contrast of at least 4.5 on both backgrounds (WCAG AA)."""
    for name in set(palette) - {"page", "panel", "line"}:
        for background in ("page", "panel"):
            dark, light = sorted((_luminance(palette[name]), _luminance(palette[background])))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, background)
