"""What distillation is worth: the student, the same student without teacher, its teacher, and their sizes."""

from collections.abc import Iterable

from kdlib.metrics.expected import PREFIX
from kdlib.report.charts import Mark, Row, interval_chart
from kdlib.report.content import Night
from kdlib.report.html import Html, join, section, table, tag
from kdlib.report.labels import (
    count,
    interval,
    megabytes,
    metric_name,
    name_of,
    score,
    share,
    signed_score,
    tick,
    verdict,
)

OTHERS = ("popularity", "markov", "student", "control", "ensemble", "best_reachable", "last_night")
"""Models of the metrics that are no teachers."""
_STYLES = {"student": "accent", "control": "second"}


def distillation(night: Night) -> Html | None:
    """The three models side by side, and the share of the gap that the student closes; None without a control."""
    metric, teacher = night.shown_metric, teacher_of(night)
    names = [name for name in ("student", "control", teacher) if name and (name, metric) in night.metrics]
    gained = night.difference("student", "control", metric)
    if teacher is None or gained is None:
        return None
    alone = night.metrics["control", metric].value
    relative = f", or {signed_share(gained.value / alone)}" if alone > 0 else ""
    return section(
        "distillation",
        "Distillation",
        tag(
            "p",
            f"The student's {metric_name(metric)} differs from that of the same student without teacher by"
            f" {signed_score(gained.value)} {interval(gained, signed=True)}{relative}: {verdict(gained)}. ",
            _gap_closed(night, metric, teacher),
            _sizes(night, teacher),
        ),
        _chart(night, names, metric),
        _table(night, names, metric),
        tag("p", _meaning(night, metric)),
    )


def teacher_of(night: Night) -> str | None:
    """What the student is measured against: all teachers together, else the only one."""
    names: Iterable[str] = [name for name in night.models_measured() if name not in OTHERS]
    return next((name for name in ("ensemble", *names) if (name, night.shown_metric) in night.metrics), None)


def gap_closed(night: Night, metric: str) -> tuple[str, float] | None:
    """(the teacher, (student − control) / (teacher − control)), where the teacher is clearly above the control."""
    teacher = teacher_of(night)
    if teacher is None:
        return None
    gap, gained = night.difference(teacher, "control", metric), night.difference("student", "control", metric)
    if gap and gained and gap.low is not None and gap.low > 0:
        return teacher, gained.value / gap.value
    return None


def signed_share(value: float) -> str:
    """`+14%`."""
    return ("−" if value < 0 else "+") + share(abs(value), digits=0)


def _gap_closed(night: Night, metric: str, teacher: str) -> Html:
    whose, are = ("teachers together", "are") if teacher == "ensemble" else ("teacher", "is")
    if (found := gap_closed(night, metric)) is None:
        text = f"Its {whose} {are} not clearly better than the student without teacher: there is no gap to close. "
        return tag("span", text)
    closed = tag("strong", share(found[1], digits=0))
    return tag("span", "It closes ", closed, f" of the gap between itself without teacher and its {whose}. ")


def _sizes(night: Night, teacher: str) -> Html | None:
    own, other = (night.models.get(name, {}).get("parameters") for name in ("student", teacher))
    if not own or not other:
        return None
    return tag("span", f"It has {count(own)} parameters, the teacher {count(other)}: {other / own:.1f} times as many.")


def _chart(night: Night, names: list[str], metric: str) -> Html:
    found = {name: night.metrics[name, metric] for name in names}
    rows = [
        Row(
            name_of(name),
            (Mark(one.value, one.low, one.high, _STYLES.get(name, "neutral")),),
            join([score(one.value), " ", tag("span", interval(one), class_="unit")]),
            strong=name == "student",
        )
        for name, one in found.items()
    ]
    words = "; ".join(f"{name_of(name)} {score(one.value)} {interval(one)}" for name, one in found.items())
    title = f"{metric_name(metric)} with and without a teacher"
    heading = f"{metric_name(metric)} [95%]"
    return interval_chart(rows, title=title, alternative=f"{title}. {words}", heading=heading, form=tick)


def _table(night: Night, names: list[str], metric: str) -> Html:
    rows = []
    for name in names:
        facts, one = night.models.get(name, {}), night.metrics[name, metric]
        sizes = [count(facts["parameters"]), megabytes(facts["bytes"])] if "bytes" in facts else ["", ""]
        rows.append([name_of(name), score(one.value), interval(one), *sizes])
    columns = ["", metric_name(metric), "95% interval", "Parameters", "Size"]
    return table("Quality against size", columns, rows, emphasised=[0])


def _meaning(night: Night, metric: str) -> str:
    users = count(night.metrics["student", metric].users)
    if not metric.startswith(PREFIX):
        return f"Measured on the next item of {users} test users. Intervals are 95%, over users."
    return (
        f"The shop is simulated, so the probability of each user's next item is known. Expected NDCG@{night.k} is the mean over"
        f" all of these items, for {users} users. A return to an item that the user has seen counts as a miss."
    )
