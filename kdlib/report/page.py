"""The whole page: one HTML text without script, without anything to fetch."""

from kdlib.report.content import Night
from kdlib.report.costs import models, time_spent
from kdlib.report.distillation import distillation
from kdlib.report.drift import drift
from kdlib.report.funnel import funnel
from kdlib.report.gates import gates
from kdlib.report.headline import headline
from kdlib.report.html import Html, tag
from kdlib.report.people import people
from kdlib.report.quality import quality
from kdlib.report.search import search
from kdlib.report.slices import slices
from kdlib.report.style import style_sheet

MENU = {
    "distillation": "Distillation",
    "gates": "Gates",
    "rows": "Rows",
    "quality": "Quality",
    "slices": "Slices",
    "models": "Models",
    "time": "Time",
    "drift": "Drift",
    "search": "Search",
    "users": "Sample users",
}
"""Anchor → its name, in the page's order."""


def page(night: Night) -> str:
    """The report of a night, from top to bottom what the reader asks next."""
    parts = dict(
        zip(
            MENU,
            (
                part(night)
                for part in (distillation, gates, funnel, quality, slices, models, time_spent, drift, search, people)
            ),
            strict=True,
        )
    )
    shown = {anchor: part for anchor, part in parts.items() if part is not None}
    menu = [tag("li", tag("a", MENU[anchor], href=f"#{anchor}")) for anchor in shown]
    top = headline(night)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{night.name} {night.ds} · distilrec"),
        tag("style", Html(style_sheet())),
    )
    body = tag(
        "body",
        top,
        tag("main", tag("nav", tag("ul", *menu), aria_label="Parts of this page"), *shown.values()),
        tag("footer", tag("p", _sources(night))),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def _sources(night: Night) -> str:
    lists = f" Table version {night.lists.version}, model version {night.lists.model_version}." if night.lists else ""
    return f"distilrec, run {night.name}, {night.ds}.{lists} Everything on this page comes from the night's published partitions."
