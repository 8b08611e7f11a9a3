"""What the night made and what it cost: the models, and the time of each stage."""

from collections.abc import Mapping
from typing import Any

from kdlib.report.charts import bar_chart
from kdlib.report.content import Night
from kdlib.report.html import Html, missing, section, table
from kdlib.report.labels import count, duration, megabytes, score


def models(night: Night) -> Html:
    """Sizes and validation metrics of all models, teachers first."""
    if not night.models:
        return section("models", "Models", missing("No model was trained this night."))
    rows = [_row(name, facts) for name, facts in night.models.items()]
    columns = ("", "Kind", "Version", "Parameters", "outside item tables", "Size", "Epochs", "Recall@10", "NDCG@10")
    caption = "Every model of the night; recall and NDCG are on the validation users, by which the epoch was chosen"
    return section("models", "Models", table(caption, columns, rows, text=("Kind", "Version")))


def _row(name: str, facts: Mapping[str, Any]) -> list[str]:
    options, validation = facts.get("options", {}), facts.get("validation", {})
    kind = str(options.get("kind", ""))
    width = options.get("hidden") or options.get("dim")
    sizes = [count(facts[key]) if key in facts else "" for key in ("parameters", "parameters_without_item_tables")]
    return [
        "student without teacher" if name == "control" else name,
        f"{kind}, {width} wide" if width else kind,
        str(facts.get("version", "")),
        *sizes,
        megabytes(facts["bytes"]) if "bytes" in facts else "",
        str(len(facts["epochs"])) if facts.get("epochs") else "",
        *(score(validation[key]) if key in validation else "" for key in ("recall@10", "ndcg@10")),
    ]


def time_spent(night: Night) -> Html:
    """How long each stage took when it last ran for this night."""
    if not night.seconds:
        return section("time", "Time", missing("No stage has noted how long it took."))
    rows = [(stage, seconds, duration(seconds)) for stage, seconds in night.seconds.items()]
    title = (
        f"Where the time went: {duration(sum(night.seconds.values()))} in all, each stage as it last ran for this night"
    )
    words = ", ".join(f"{stage} {text}" for stage, _, text in rows)
    return section("time", "Time", bar_chart(rows, title=title, alternative=f"{title}. {words}"))
