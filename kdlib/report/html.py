"""HTML from plain functions: `tag` escapes every text that is not HTML already, so that data can never become markup."""

from collections.abc import Iterable, Sequence
from html import escape


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


Content = str | None
"""What may stand inside a tag: markup as it is, text escaped, None not at all."""
VOID = {"meta", "br"}


def tag(name: str, /, *content: Content, **attributes: str | None) -> Html:
    """One element.

    Args:
      name: of the element.
      content: what stands in it.
      attributes: `class_` and `aria_label` become `class` and `aria-label`; one that is None is left out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{written}>" + ("" if name in VOID else f"{join(content)}</{name}>"))


def join(content: Iterable[Content], separator: str = "") -> Html:
    """Contents one after another."""
    return Html(
        escape(separator).join(
            part if isinstance(part, Html) else escape(part, quote=False) for part in content if part is not None
        )
    )


def table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Content]],
    *,
    text: Sequence[str] = (),
    emphasised: Sequence[int] = (),
    indented: Sequence[int] = (),
) -> Html:
    """A table that scrolls sideways by itself where the screen is narrow; the first cell of a row is its heading.

    Args:
      caption: what it shows.
      columns: their headings; all but the first are of numbers, aligned to the right.
      rows: cells, as many as there are columns, or a single one: the heading of the rows below.
      text: columns that are of text, aligned to the left.
      emphasised: rows, by number, in bold.
      indented: rows, by number, that are parts of the row above.
    """
    kinds = [None if number == 0 or name in text else "num" for number, name in enumerate(columns)]
    head = [tag("th", name, scope="col", class_=kind) for name, kind in zip(columns, kinds, strict=True)]
    body = []
    for number, cells in enumerate(rows):
        if len(cells) == 1:
            heading = tag("th", cells[0], scope="colgroup", colspan=str(len(columns)))
            body.append(tag("tr", heading, class_="group"))
            continue
        first, *others = zip(cells, kinds, strict=True)
        style = "strong" if number in emphasised else "part" if number in indented else None
        body.append(
            tag("tr", tag("th", first[0], scope="row"), *(tag("td", c, class_=k) for c, k in others), class_=style)
        )
    return tag(
        "div",
        tag(
            "table",
            tag("caption", tag("span", caption)),
            tag("thead", tag("tr", *head)),
            tag("tbody", *body),
        ),
        class_="scroll",
        role="region",
        tabindex="0",
        aria_label=caption,
    )


def section(anchor: str, heading: str, *content: Content) -> Html:
    """A part of the page under a heading of its own, to which the page's menu leads."""
    return tag(
        "section", tag("h2", heading, id=f"{anchor}-heading"), *content, id=anchor, aria_labelledby=f"{anchor}-heading"
    )


def missing(text: str) -> Html:
    """What stands where a part has nothing to show."""
    return tag("p", text, class_="missing")
