"""What became of the rows: each is kept, a duplicate, filtered, or quarantined with a reason. Then the counts of the kept rows."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from kdlib.report.charts import stacked_bar
from kdlib.report.content import Night
from kdlib.report.labels import count, share, short_day, signed_count
from kdlib.report.rendering import render

_STYLES = {"kept": "accent", "duplicate": "neutral", "filtered": "faint", "quarantined": "second"}
"""Outcomes of rows → their colours. Rows are filtered only where the input has a filter."""
_COUNTS = {
    "day_events": "events of the day",
    "day_users": "users of the day",
    "users": "users",
    "users_without_history": "users without a usable history",
    "sessions": "sessions",
    "interactions": "interactions in the histories",
    "items": "items in the vocabulary",
    "new_items": "new items",
    "out_of_vocabulary": "events on items outside the vocabulary",
    "trainable_users": "users to train on",
    "validation_users": "users to validate on",
    "test_users": "users to test on",
}
"""Counts of the funnel after the rows → their names on the page. A run counts what its features have."""


def funnel(night: Night) -> Markup:
    """Rows read = kept + duplicate + filtered + quarantined, by reason, beside the previous run."""
    now, before = night.funnel, night.previous_funnel
    if now is None:
        return render("rows", now=None)
    previous = short_day(night.previous) if night.previous and before else None
    rows, reasons = _rows(now, before or {}, previous)
    columns = ["", "Number", "Share"] + ([] if previous is None else [previous, "Change"])
    return render("rows", now=now, chart=_chart(now), columns=columns, rows=rows, reasons=reasons)


def _chart(now: Mapping[str, Any]) -> Markup:
    styles = {name: style for name, style in _STYLES.items() if name in now}
    shares = [(name, now[name], share(now[name] / max(now["rows_read"], 1)), style) for name, style in styles.items()]
    title = f"{count(now['rows_read'])} rows read = " + " + ".join(f"{count(now[name])} {name}" for name in styles)
    return stacked_bar(shares, title=title, alternative=", ".join(f"{name} {text}" for name, _, text, _ in shares))


def _rows(now: Mapping[str, Any], before: Mapping[str, Any], previous: str | None) -> tuple[list[list[str]], range]:
    """(the rows of the table, the numbers of the rows that count a reason).

    Args:
      now: the counts of the run.
      before: the counts of the previous run; may be empty.
      previous: the name of the previous run. None: the table has no columns for that run.
    """

    def row(label: str, found: float, earlier: float | None, part: str = "") -> list[str]:
        if previous is None:
            return [label, count(found), part]
        compared = ["", ""] if earlier is None else [count(earlier), signed_count(found - earlier)]
        return [label, count(found), part, *compared]

    read = max(now["rows_read"], 1)
    rows = [["Where the rows went"]]
    rows += [
        row(key.replace("_", " "), now[key], before.get(key), share(now[key] / read, digits=2))
        for key in ("rows_read", *_STYLES)
        if key in now
    ]
    first_reason = len(rows)
    reasons, earlier = now["reasons"], before.get("reasons", {})
    for reason in dict.fromkeys([*reasons, *earlier]):
        found = reasons.get(reason, 0)
        rows.append(row(reason.replace("_", " "), found, earlier.get(reason, 0), share(found / read, digits=2)))
    numbers = range(first_reason, len(rows))
    rows.append(["What the kept rows hold"])
    rows += [row(label, now[key], before.get(key)) for key, label in _COUNTS.items() if key in now]
    return rows, numbers
