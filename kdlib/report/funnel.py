"""The rows' way: every row that was read is kept, a duplicate or quarantined with a reason; and what the kept ones gave."""

from collections.abc import Mapping
from typing import Any

from kdlib.report.charts import stacked_bar
from kdlib.report.content import Night
from kdlib.report.html import Html, missing, section, table, tag
from kdlib.report.labels import count, share, short_day, signed_count

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
"""Counts of the funnel after the rows, and what they are called; a night counts those that its features have."""


def funnel(night: Night) -> Html:
    """Rows read = kept + duplicate + quarantined, by reason, beside the night before."""
    now, before = night.funnel, night.previous_funnel
    if now is None:
        return section("rows", "Rows", missing("No features were built this night, so no rows were counted."))
    parts = [
        ("kept", now["kept"], "accent"),
        ("duplicate", now["duplicate"], "neutral"),
        ("quarantined", now["quarantined"], "second"),
    ]
    shares = [(name, size, share(size / max(now["rows_read"], 1)), style) for name, size, style in parts]
    sentence = f"{count(now['rows_read'])} rows read = " + " + ".join(
        f"{count(size)} {name}" for name, size, _ in parts
    )
    chart = stacked_bar(shares, title=sentence, alternative=", ".join(f"{name} {text}" for name, _, text, _ in shares))
    period = f"Events from {now['first_event']} to {now['last_event']} (UTC)." if now.get("first_event") else None
    table_of_rows = _table(now, before, short_day(night.previous) if night.previous and before else None)
    return section("rows", "Rows", chart, table_of_rows, tag("p", period, class_="note") if period else None)


def _table(now: Mapping[str, Any], before: Mapping[str, Any] | None, previous: str | None) -> Html:
    """Counts, the rows' shares of all rows, and those of the night before where there is one."""

    def row(label: str, found: float, earlier: float | None, part: str = "") -> list[str]:
        if previous is None:
            return [label, count(found), part]
        compared = ["", ""] if earlier is None else [count(earlier), signed_count(found - earlier)]
        return [label, count(found), part, *compared]

    read, past = max(now["rows_read"], 1), before or {}
    rows = [["Where the rows went"]]
    rows += [
        row(key.replace("_", " "), now[key], past.get(key), share(now[key] / read, digits=2))
        for key in ("rows_read", "kept", "duplicate", "quarantined")
    ]
    reasons, earlier = now["reasons"], past.get("reasons", {})
    for reason in dict.fromkeys([*reasons, *earlier]):
        found = reasons.get(reason, 0)
        rows.append(row(reason.replace("_", " "), found, earlier.get(reason, 0), share(found / read, digits=2)))
    parts = range(5, len(rows))
    rows.append(["What the kept rows gave"])
    rows += [row(label, now[key], past.get(key)) for key, label in _COUNTS.items() if key in now]
    columns = ["", "Number", "Share"] + ([] if previous is None else [previous, "Change"])
    caption = "Every row that was read is kept, a duplicate or quarantined for one reason"
    return table(caption, columns, rows, emphasised=(1,), indented=parts)
