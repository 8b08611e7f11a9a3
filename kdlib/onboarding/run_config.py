"""The run config as YAML, with a comment beside each guess that a person should check."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from kdlib.onboarding.catalogue import CatalogueMapping
from kdlib.onboarding.columns import Doubt
from kdlib.onboarding.days import Split
from kdlib.onboarding.mapping import EventsMapping
from kdlib.onboarding.sample import Source

_WIDTH = 118


def run_config_text(
    *,
    name: str,
    ds: str,
    events: EventsMapping,
    catalogue: CatalogueMapping | None,
    split: Split,
    period_start: str | None = None,
    days_path: str | None = None,
    doubts: Sequence[Doubt] = (),
) -> str:
    """The run config.

    Args:
      name: of the run config.
      ds: the last day of the events.
      events: the mapping of the events.
      catalogue: the mapping of the catalogue.
      split: which interactions validate and test.
      period_start: the first day, where events lie far before it.
      days_path: the events' path with `{day}`, to be offered in a comment.
      doubts: what to check. Each becomes a comment above its setting.
    """
    notes: dict[str, list[str]] = {}
    for doubt in doubts:
        notes.setdefault(doubt.setting, []).append(doubt.text)
    lines = [
        "# Written by `distilrec init`. Look at the comments, then check it on a sample with `distilrec validate`.",
        *_comments(notes.pop("input", ()), 0),
        f"name: {name}",
        *_comments(notes.pop("ds", ()), 0),
        f"ds: {ds}  # the last day of the events; nightly jobs give --ds",
        f"output_dir: output/{name}",
        "input:",
        "  events:",
    ]
    lines += _settings(_events_settings(events), "input.events", notes, days_path)
    if catalogue:
        lines += [*_comments(notes.pop("input.catalogue", ()), 2), "  catalogue:"]
        lines += _settings(_catalogue_settings(catalogue), "input.catalogue", notes)
    lines += [*_comments(notes.pop("input.catalogue", ()), 2)]
    features: list[str] = [] if period_start is None else [f"  period_start: {period_start}"]
    if split.kind != "time":
        features += [*_comments([split.why] if split.why else (), 2), f"  split: {{kind: {split.kind}}}"]
    elif split.days > 1:
        features += [*_comments([split.why], 2), f"  split: {{validation_days: {split.days}, test_days: {split.days}}}"]
    lines += ["features:", *features] if features else []
    return "\n".join(lines) + "\n"


def _events_settings(events: EventsMapping) -> dict[str, Any]:
    found = _files(events.source)
    if "columns" in found:
        found = found | {"header": "false", "columns": found.pop("columns")}
    if events.source.form.format == "sequences":
        return found
    found |= {"user": events.user, "session": events.session, "item": events.item, "event_id": events.event_id}
    found |= {"event_type": events.event_type, "event_types": events.event_types or None}
    if list(events.event_types) == list(events.event_types.values()):
        found["event_types"] = None  # the shop's types are called like ours
    found |= {"only_type": events.only_type, "time": _time(events), "where": " and ".join(events.where) or None}
    return found


def _time(events: EventsMapping) -> dict[str, Any]:
    assert events.time
    if events.day_columns:
        days = {"day_columns": list(events.day_columns), "order_column": events.order_column}
        unit = {"order_unit": events.order_unit} if events.order_unit != "seconds" else {}
        return {"format": "day_and_order", **days, **unit}
    time = {"format": events.time.format, "column": events.time_column}
    return time | ({"pattern": events.time.pattern} if events.time.pattern else {})


def _catalogue_settings(catalogue: CatalogueMapping) -> dict[str, Any]:
    found = _files(catalogue.source)
    if catalogue.item != "item_id":
        found["item"] = catalogue.item
    if catalogue.title != "title":
        found["title"] = catalogue.title or False  # False: write null
    return found | {
        "category": catalogue.category,
        "available": catalogue.available,
        "description": catalogue.description,
    }


def _files(source: Source) -> dict[str, Any]:
    form = source.form
    found: dict[str, Any] = {"path": source.path, "format": form.format}
    if form.format != "csv":
        return found
    if form.delimiter != ",":
        found["delimiter"] = form.delimiter
    if not form.header:
        found["columns"] = list(form.names)
    return found


def _settings(
    found: dict[str, Any], section: str, notes: dict[str, list[str]], days_path: str | None = None
) -> Iterable[str]:
    for key, value in found.items():
        yield from _comments(notes.pop(f"{section}.{key}", ()), 4)
        if value is None:
            continue
        yield f"    {key}: {_scalar(value)}"
        if key == "path" and days_path:
            yield from _comments(["To read only each night's new files, give --ds every night and set:"], 4)
            yield f"    # path: {_scalar(days_path)}"


def _scalar(value: Any) -> str:
    if value is False or value == "false":
        return "null" if value is False else "false"
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _comments(texts: Iterable[str], indent: int) -> list[str]:
    blank = " " * indent
    return [
        line
        for text in texts
        for line in textwrap.wrap(
            text, _WIDTH, initial_indent=f"{blank}# ", subsequent_indent=f"{blank}#   ",
            break_long_words=False, break_on_hyphens=False,
        )
    ]  # fmt: skip
