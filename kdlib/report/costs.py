"""What the run made and what it cost: the models, and the time of each stage."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from kdlib.report.charts import bar_chart
from kdlib.report.content import Night
from kdlib.report.labels import count, duration, megabytes, name_of, score
from kdlib.report.rendering import render


def models(night: Night) -> Markup:
    """Sizes and validation metrics of all models, teachers first."""
    return render("models", rows=[_row(name, metadata) for name, metadata in night.models.items()])


def _row(name: str, metadata: Mapping[str, Any]) -> list[str]:
    options, validation = metadata.get("options", {}), metadata.get("validation", {})
    kind = str(options.get("kind", ""))
    width = options.get("hidden") or options.get("dim")
    sizes = ("parameters", "parameters_without_item_tables")
    return [
        name_of(name) if name in ("control", "refit") else name,
        f"{kind}, {width} wide" if width else kind,
        str(metadata.get("version", "")),
        *(count(metadata[key]) if metadata.get(key) is not None else "" for key in sizes),
        megabytes(metadata["bytes"]) if metadata.get("bytes") is not None else "",
        str(len(metadata["epochs"])) if metadata.get("epochs") else "",
        *(score(validation[key]) if key in validation else "" for key in ("recall@10", "ndcg@10")),
    ]


def time_spent(night: Night) -> Markup:
    """How long each stage took when it last ran for this day."""
    if not night.seconds:
        return render("time", chart=None)
    bars = [(stage, seconds, duration(seconds)) for stage, seconds in night.seconds.items()]
    title = f"Where the time went: {duration(sum(night.seconds.values()))} in all; each stage counts its last run for this day"
    words = ", ".join(f"{stage} {text}" for stage, _, text in bars)
    return render("time", chart=bar_chart(bars, title=title, alternative=f"{title}. {words}"))
