"""Renders the templates of the page. Every text from the data is escaped, so that it cannot become markup."""

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kdlib.report import labels

TEMPLATES = Path(__file__).parent / "templates"
FUNCTIONS = (
    labels.bounds,
    labels.count,
    labels.duration,
    labels.interval,
    labels.long_day,
    labels.megabytes,
    labels.metric_name,
    labels.name_of,
    labels.number,
    labels.score,
    labels.share,
    labels.short_day,
    labels.signed_count,
    labels.signed_points,
    labels.signed_score,
    labels.signed_share,
    labels.verdict,
)
"""The functions that templates can call."""


@cache
def environment() -> Environment:
    """The templates. None becomes an empty text, and an unknown name is an error."""
    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: "" if value is None else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.globals |= {function.__name__: function for function in FUNCTIONS}
    return found


def render(template: str, **values: object) -> Markup:
    """The HTML of a template, `<name>.html`, filled with values."""
    return Markup(environment().get_template(f"{template}.html").render(values))


def render_macro(template: str, macro: str, /, *arguments: object, **options: object) -> Markup:
    """The HTML of one macro of a template, `<name>.html`."""
    return getattr(environment().get_template(f"{template}.html").module, macro)(*arguments, **options)


def template_files() -> dict[str, str]:
    """Name → content of every template. The page depends on them as it depends on the code."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(TEMPLATES.iterdir())}
