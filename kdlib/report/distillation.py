"""What distillation gains: the student, the same student without teacher, the teacher, and their sizes."""

from collections.abc import Iterable

from markupsafe import Markup

from kdlib.metrics.expected import PREFIX
from kdlib.metrics.table import WITH_RULES, WITHOUT
from kdlib.report.charts import Mark, Row, interval_chart
from kdlib.report.content import Night
from kdlib.report.labels import count, interval, megabytes, metric_name, name_of, score, tick
from kdlib.report.rendering import render

OTHERS = ("popularity", "markov", "student", "control", "ensemble", "best_reachable", "last_night", WITH_RULES)
"""Models of the metrics that are not teachers."""
_STYLES = {"student": "accent", "control": "second"}


def distillation(night: Night) -> Markup | None:
    """The three models side by side, and the share of the gap that the student closes. None: the run has no control."""
    metric, teacher = night.shown_metric, teacher_of(night)
    names = [name for name in ("student", "control", teacher) if name and (name, metric) in night.metrics]
    gained = night.difference("student", "control", metric)
    if teacher is None or gained is None:
        return None
    alone = night.metrics["control", metric].value
    sizes = [night.models.get(name, {}).get("parameters") for name in ("student", teacher)]
    closed = gap_closed(night, metric)
    return render(
        "distillation",
        k=night.k,
        metric=metric,
        expected=metric.startswith(PREFIX),
        users=night.metrics["student", metric].users,
        teacher=teacher,
        gained=gained,
        relative=gained.value / alone if alone > 0 else None,
        closed=closed[1] if closed else None,
        sizes=sizes if all(sizes) else None,
        chart=_chart(night, names, metric),
        rows=[_row(night, name, metric) for name in names],
    )


def teacher_of(night: Night) -> str | None:
    """The teacher that the student is compared with: all teachers together, or the only teacher."""
    names: Iterable[str] = [
        name for name in night.models_measured() if name not in OTHERS and not name.startswith(WITHOUT)
    ]
    return next((name for name in ("ensemble", *names) if (name, night.shown_metric) in night.metrics), None)


def gap_closed(night: Night, metric: str) -> tuple[str, float] | None:
    """(the teacher, (student − control) / (teacher − control)). None: the teacher is not clearly above the control."""
    teacher = teacher_of(night)
    if teacher is None:
        return None
    gap, gained = night.difference(teacher, "control", metric), night.difference("student", "control", metric)
    if gap and gained and gap.low is not None and gap.low > 0:
        return teacher, gained.value / gap.value
    return None


def _chart(night: Night, names: list[str], metric: str) -> Markup:
    found = {name: night.metrics[name, metric] for name in names}
    rows = [
        Row(
            name_of(name),
            (Mark(one.value, one.low, one.high, _STYLES.get(name, "neutral")),),
            score(one.value),
            interval(one),
            strong=name == "student",
        )
        for name, one in found.items()
    ]
    words = "; ".join(f"{name_of(name)} {score(one.value)} {interval(one)}" for name, one in found.items())
    title = f"{metric_name(metric)} with and without a teacher"
    heading = f"{metric_name(metric)} [95%]"
    return interval_chart(rows, title=title, alternative=f"{title}. {words}", heading=heading, form=tick)


def _row(night: Night, name: str, metric: str) -> list[str]:
    metadata, one = night.models.get(name, {}), night.metrics[name, metric]
    sizes = (
        [count(metadata["parameters"]), megabytes(metadata["bytes"])] if metadata.get("bytes") is not None else ["", ""]
    )
    return [name_of(name), score(one.value), interval(one), *sizes]
