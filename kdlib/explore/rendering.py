"""Renders the templates of the pages with the functions and macros of the report. All text from the data is escaped."""

from functools import cache
from pathlib import Path
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from kdlib.report import rendering

TEMPLATES = Path(__file__).parent / "templates"


@cache
def _environment() -> Environment:
    found = rendering.environment().overlay(loader=FileSystemLoader([TEMPLATES, rendering.TEMPLATES]))
    found.globals = {**found.globals, "link": link}
    return found


def link(path: str, **values: str) -> str:
    """The address of a page of this server: `link("/item", id="a b")` is `/item?id=a+b`."""
    return f"{path}?{urlencode(values)}"


def render(template: str, **values: object) -> Markup:
    """The HTML of a template, `<name>.html`, filled with values."""
    return Markup(_environment().get_template(f"{template}.html").render(values))


def style() -> str:
    """The style sheet: the report's, then the pages' own."""
    files = (rendering.TEMPLATES / "style.css", TEMPLATES / "explore.css")
    return "\n".join(file.read_text(encoding="utf-8") for file in files)
