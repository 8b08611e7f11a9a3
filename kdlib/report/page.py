"""The whole page: one HTML text. It has no script and fetches nothing."""

from kdlib.report.beyond import beyond
from kdlib.report.content import Night
from kdlib.report.costs import models, time_spent
from kdlib.report.distillation import distillation
from kdlib.report.drift import drift
from kdlib.report.funnel import funnel
from kdlib.report.gates import gates
from kdlib.report.headline import headline
from kdlib.report.people import people
from kdlib.report.quality import quality
from kdlib.report.rendering import render
from kdlib.report.search import search
from kdlib.report.slices import slices

SECTIONS = {
    "distillation": ("Distillation", distillation),
    "gates": ("Gates", gates),
    "rows": ("Rows", funnel),
    "quality": ("Quality", quality),
    "slices": ("Slices", slices),
    "beyond": ("Beyond accuracy", beyond),
    "models": ("Models", models),
    "time": ("Time", time_spent),
    "drift": ("Drift", drift),
    "search": ("Search", search),
    "users": ("Sample users", people),
}
"""Anchor → (name in the menu, the function that writes the section), in the page's order."""
MENU = {anchor: name for anchor, (name, _) in SECTIONS.items()}


def page(night: Night) -> str:
    """The report of a run. A section with nothing to say is left out."""
    sections = {anchor: write(night) for anchor, (_, write) in SECTIONS.items()}
    shown = {anchor: section for anchor, section in sections.items() if section is not None}
    return render("page", night=night, headline=headline(night), menu=MENU, sections=shown)
