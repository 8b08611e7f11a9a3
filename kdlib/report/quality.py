"""How good the lists are: every model on the same test users, differences user by user, and the last nights."""

from kdlib.report.charts import Mark, Row, interval_chart, legend
from kdlib.report.content import Measure, Night
from kdlib.report.html import Html, join, missing, section, table, tag
from kdlib.report.labels import count, interval, name_of, score, share, short_day, signed_score, tick, verdict
from kdlib.report.trends import Series, trend_chart

_STYLES = {"student": "accent", "control": "second"}


def quality(night: Night) -> Html:
    """All models, the paired differences, the trend."""
    metric = f"ndcg@{night.k}"
    names = [name for name in night.models_measured() if (name, metric) in night.metrics]
    names.sort(key=lambda name: -night.metrics[name, metric].value)
    if not names:
        return section("quality", "Quality", missing("The models of this night were not measured."))
    users = night.metrics[names[0], metric].users
    left_out = (
        f" ({count(night.left_out)} more left out: their next item was not new to them)" if night.left_out else ""
    )
    return section(
        "quality",
        "Quality",
        tag(
            "p",
            f"{count(users)} test users{left_out}: each one's very next item, ranked among all items. Intervals are 95%, over users.",
        ),
        _models_chart(night, names, metric),
        _models_table(night, names),
        _differences(night, metric),
        _calibration(night),
        _trend(night),
    )


def _with_interval(measure: Measure, *, signed: bool = False) -> Html:
    figure = signed_score(measure.value) if signed else score(measure.value)
    return join([figure, " ", tag("span", interval(measure, signed=signed), class_="unit")])


def _models_chart(night: Night, names: list[str], metric: str) -> Html:
    found = {name: night.metrics[name, metric] for name in names}
    rows = [
        Row(
            name_of(name),
            (Mark(one.value, one.low, one.high, _STYLES.get(name, "neutral")),),
            _with_interval(one),
            strong=name == "student",
        )
        for name, one in found.items()
    ]
    words = "; ".join(f"{name_of(name)} {score(one.value)} {interval(one)}" for name, one in found.items())
    title = f"NDCG@{night.k}: how far up the next item stands, 1 where it is always first"
    return interval_chart(
        rows, title=title, alternative=f"{title}. {words}", heading=f"NDCG@{night.k} [95%]", form=tick
    )


def _models_table(night: Night, names: list[str]) -> Html:
    coverage = next((metric for _, metric in night.metrics if metric.startswith("coverage@")), "coverage")
    k, accuracy = night.k, "accuracy@1"
    columns = ["", f"NDCG@{k}", "95% interval", f"HR@{k}", f"MRR@{k}", "Accuracy", "Coverage"]
    rows = []
    for name in names:
        found = {metric: night.metrics.get((name, metric)) for metric in (f"hr@{k}", f"mrr@{k}", accuracy, coverage)}
        cells = [
            "" if one is None else share(one.value) if metric == coverage else score(one.value)
            for metric, one in found.items()
        ]
        ndcg = night.metrics[name, f"ndcg@{k}"]
        rows.append([name_of(name), score(ndcg.value), interval(ndcg), *cells])
    caption = (
        f"HR@{k}: share of users whose next item is among the first {k}; accuracy: it is the first."
        f" Coverage: share of all items that any list of {coverage.partition('@')[2] or k} holds."
    )
    emphasised = [number for number, name in enumerate(names) if name == "student"]
    return table(caption, columns, rows, emphasised=emphasised)


def _differences(night: Night, metric: str) -> Html | None:
    pairs = {name: one for (name, of), one in night.metrics.items() if of == metric and " - " in name}
    if not pairs:
        return None
    rows = [
        Row(
            name_of(name),
            (Mark(one.value, one.low, one.high, "neutral" if verdict(one) == "no clear difference" else "accent"),),
            _with_interval(one, signed=True),
        )
        for name, one in pairs.items()
    ]
    words = "; ".join(
        f"{name_of(name)} {signed_score(one.value)} {interval(one, signed=True)}, {verdict(one)}"
        for name, one in pairs.items()
    )
    title = f"Differences in NDCG@{night.k}, user by user: an interval that leaves 0 out is a clear difference"
    return interval_chart(
        rows,
        title=title,
        alternative=f"{title}. {words}",
        heading="difference [95%]",
        form=tick,
        kind="Difference",
        zero=True,
    )


def _calibration(night: Night) -> Html | None:
    """The student's chances against what came true, a tenth of the users at a time."""
    predicted_name, found_name = f"confidence@{night.k}", f"hr@{night.k}"
    tenths = [
        (night.metrics[key], night.metrics["student", f"{found_name}/{key[1].partition('/')[2]}"])
        for key in night.metrics
        if key[0] == "student" and key[1].startswith(f"{predicted_name}/")
    ]
    error = night.metrics.get(("student", f"calibration_error@{night.k}"))
    if not tenths or error is None:
        return None
    labels = ["least sure", *(f"tenth {number}" for number in range(2, len(tenths))), "surest"][: len(tenths)]
    rows = [
        Row(
            label,
            (Mark(predicted.value), Mark(found.value, found.low, found.high, "accent")),
            f"{share(predicted.value, digits=0)} · {share(found.value, digits=0)}",
        )
        for label, (predicted, found) in zip(labels, tenths, strict=True)
    ]
    words = "; ".join(
        f"{label}: expected {share(predicted.value)}, came true {share(found.value)}"
        for label, (predicted, found) in zip(labels, tenths, strict=True)
    )
    title = (
        f"Calibration: how often the next item is among the first {night.k}, and how often the student expects it to be"
    )
    return join(
        [
            interval_chart(
                rows,
                title=title,
                alternative=f"{title}. {words}",
                heading="expected · true",
                form=tick,
                kind="Users",
                key=legend([("expected", "neutral"), ("came true, with 95% interval", "accent")]),
            ),
            tag(
                "p",
                f"Users are sorted by the student's own confidence. On average the two lie {100 * error.value:.1f} percentage points apart.",
            ),
        ]
    )


def _trend(night: Night) -> Html | None:
    nights = sorted({ds for of_model in night.trend.values() for ds, _ in of_model})
    if len(nights) < 2:
        return None
    styles = {"student": "accent", "popularity": "neutral"}
    series = [
        Series(
            name_of(model),
            styles[model],
            tuple((nights.index(ds), Mark(one.value, one.low, one.high)) for ds, one in night.trend[model]),
        )
        for model in styles
        if night.trend.get(model)
    ]
    words = "; ".join(
        f"{name_of(model)}: " + ", ".join(f"{short_day(ds)} {score(one.value)}" for ds, one in night.trend[model])
        for model in styles
        if night.trend.get(model)
    )
    title = f"NDCG@{night.k} over the last {len(nights)} nights, each on its own test users"
    return trend_chart(
        [short_day(ds) for ds in nights], series, title=title, alternative=f"{title}. {words}", form=tick
    )
