"""How good the lists are: all models on the same test users, their paired differences, and the last runs."""

from markupsafe import Markup

from kdlib.metrics.table import WITH_RULES, WITHOUT
from kdlib.report.charts import Mark, Row, interval_chart
from kdlib.report.content import Night
from kdlib.report.labels import interval, name_of, score, share, short_day, signed_score, tick, verdict
from kdlib.report.rendering import render
from kdlib.report.trends import Series, trend_chart

_STYLES = {"student": "accent", "control": "second"}


def quality(night: Night) -> Markup:
    """All models, the paired differences, the trend."""
    metric = f"ndcg@{night.k}"
    names = [name for name in night.models_by_quality() if not name.startswith(WITHOUT)]
    if not names:
        return render("quality", names=names)
    return render(
        "quality",
        names=names,
        k=night.k,
        users=night.metrics[names[0], metric].users,
        left_out=night.left_out,
        models_chart=_models_chart(night, names, metric),
        rows=[_row(night, name) for name in names],
        emphasised=[number for number, name in enumerate(names) if name == "student"],
        differences_chart=_differences(night, metric),
        has_rules=(WITH_RULES, metric) in night.metrics,
        calibration_chart=_calibration(night),
        calibration_error=night.metrics.get(("student", f"calibration_error@{night.k}")),
        trend_chart=_trend(night),
    )


def _models_chart(night: Night, names: list[str], metric: str) -> Markup:
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
    title = f"NDCG@{night.k}: how high a list places the next item; 1 means always first"
    return interval_chart(
        rows, title=title, alternative=f"{title}. {words}", heading=f"NDCG@{night.k} [95%]", form=tick
    )


def _row(night: Night, name: str) -> list[str]:
    """A model's row of the table."""
    k, ndcg = night.k, night.metrics[name, f"ndcg@{night.k}"]
    found = (night.metrics.get((name, metric)) for metric in (f"hr@{k}", f"mrr@{k}", "accuracy@1"))
    cells = ["" if one is None else score(one.value) for one in found]
    return [name_of(name), score(ndcg.value), interval(ndcg), *cells]


def _differences(night: Night, metric: str) -> Markup | None:
    pairs = {name: one for (name, of), one in night.metrics.items() if of == metric and " - " in name}
    if not pairs:
        return None
    rows = [
        Row(
            name_of(name),
            (Mark(one.value, one.low, one.high, "neutral" if verdict(one) == "no clear difference" else "accent"),),
            signed_score(one.value),
            interval(one, signed=True),
        )
        for name, one in pairs.items()
    ]
    words = "; ".join(
        f"{name_of(name)} {signed_score(one.value)} {interval(one, signed=True)}, {verdict(one)}"
        for name, one in pairs.items()
    )
    title = f"Differences in NDCG@{night.k} on the same users; an interval without 0 is a clear difference"
    return interval_chart(
        rows,
        title=title,
        alternative=f"{title}. {words}",
        heading="difference [95%]",
        form=tick,
        kind="Difference",
        zero=True,
    )


def _calibration(night: Night) -> Markup | None:
    """The hit rate that the student expects beside the true one, for each tenth of the users. None: not measured."""
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
    title = f"Calibration: how often the next item is among the first {night.k}, and how often the student expects that"
    return interval_chart(
        rows,
        title=title,
        alternative=f"{title}. {words}",
        heading="expected · true",
        form=tick,
        kind="Users",
        key=[("expected", "neutral"), ("came true, with 95% interval", "accent")],
    )


def _trend(night: Night) -> Markup | None:
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
    title = f"NDCG@{night.k} over the last {len(nights)} runs, each on its own test users"
    return trend_chart(
        [short_day(ds) for ds in nights], series, title=title, alternative=f"{title}. {words}", form=tick
    )
