"""Numbers and names in the form that the page shows."""

from datetime import date

from kdlib.metrics.table import LABELS, label
from kdlib.report.content import Gate, Measure

NAMES = {
    "student": "student",
    "popularity": "popular items",
    **LABELS,
    "refit": "student, trained again on all days",
}
"""Model of the metrics → its name on the page. A teacher has the name that the run config gives it."""


def name_of(model: str) -> str:
    return " − ".join(NAMES.get(part, label(part)) for part in model.split(" - "))


def count(number: float) -> str:
    return f"{number:,.0f}"


def signed_count(number: float) -> str:
    return "±0" if number == 0 else _minus(f"{number:+,.0f}")


def share(part: float, *, digits: int = 1) -> str:
    return f"{part:.{digits}%}"


def signed_share(value: float) -> str:
    """`+14%`."""
    return ("−" if value < 0 else "+") + share(abs(value), digits=0)


def signed_points(difference: float) -> str:
    """A difference of two shares, in percentage points."""
    return _minus(f"{100 * difference:+.2f}") if round(difference, 4) else "0.00"


def score(value: float) -> str:
    """A metric of a model."""
    return _minus(f"{value:.4f}")


def signed_score(value: float) -> str:
    """A difference of metrics."""
    return _minus(f"{value:+.4f}") if round(value, 4) else "0.0000"


def interval(measure: Measure, *, signed: bool = False) -> str:
    """`[low, high]`, or nothing for a measure without interval."""
    if measure.low is None or measure.high is None:
        return ""
    form = signed_score if signed else score
    return f"[{form(measure.low)}, {form(measure.high)}]"


def verdict(difference: Measure) -> str:
    """What the interval of a difference allows to say."""
    if difference.low is not None and difference.low > 0:
        return "higher"
    if difference.high is not None and difference.high < 0:
        return "lower"
    return "no clear difference"


def bounds(gate: Gate) -> str:
    """What a gate allows."""
    if gate.low is not None and gate.high is not None:
        return f"{number(gate.low)} to {number(gate.high)}"
    if gate.low is not None:
        return f"{number(gate.low)} or more"
    if gate.high is not None:
        return f"{number(gate.high)} or less"
    return "any"


def tick(value: float) -> str:
    """A number on an axis."""
    return "0" if value == 0 else _minus(f"{value:.3f}".rstrip("0"))


def metric_name(metric: str) -> str:
    """`expected NDCG@10` of `expected_ndcg@10`."""
    return metric.replace("_", " ").replace("ndcg", "NDCG")


def number(value: float) -> str:
    """Any number, with four significant figures."""
    return _minus(f"{value:,.0f}" if abs(value) >= 10_000 else f"{value + 0.0:,.4g}")


def megabytes(size: float) -> str:
    return f"{size / 1e6:.2f} MB" if size < 1e8 else f"{size / 1e6:,.0f} MB"


def duration(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
    if seconds >= 120:
        return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def long_day(ds: str) -> str:
    """`Sunday, 22 November 2026`."""
    day = date.fromisoformat(ds)
    return f"{day:%A}, {day.day} {day:%B %Y}"


def short_day(ds: str) -> str:
    """`22 Nov`."""
    day = date.fromisoformat(ds)
    return f"{day.day}\u00a0{day:%b}"


def _minus(text: str) -> str:
    """The text with a minus sign as wide as a plus."""
    return text.replace("-", "−")
