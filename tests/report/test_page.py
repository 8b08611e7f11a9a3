"""The whole page is well-formed, self-contained and escaped. It says in sentences what is missing."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from kdlib.report.content import Night
from kdlib.report.page import MENU, page
from tests.report.nights import DS, NIGHT, blocked_before_training

VOID = {"meta", "br"}
EMPTY = Night(name="shop", ds=DS, k=10)


class _Reader(HTMLParser):
    """Collects tags, attributes and text. Fails if a tag closes another tag."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text.append(data)


def read(night: Night) -> _Reader:
    reader = _Reader()
    reader.feed(page(night))
    reader.close()
    assert reader.open == []
    return reader


@pytest.mark.parametrize("night", [NIGHT, EMPTY, blocked_before_training(), replace(NIGHT, metrics={})])
def test_every_page_is_well_formed(night: Night) -> None:
    """Tags nest, ids are unique, menu entries have a target, and headings skip no level, also for unfinished runs."""
    seen = read(night).seen
    ids = [attributes["id"] for _, attributes in seen if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [attributes["href"] for tag, attributes in seen if tag == "a"]
    assert all(target is not None and target.removeprefix("#") in ids for target in targets)
    levels = [int(tag[1]) for tag, _ in seen if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_the_page_fetches_nothing() -> None:
    """The page has no script, link, image or address, so it opens offline."""
    html = page(NIGHT)
    assert not re.search(r"https?:|//|url\(|@import|src=|javascript:", html)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in read(NIGHT).seen}


def test_data_never_become_markup() -> None:
    """A title with a script tag is text on the page: in tables, lists, headings and attributes."""
    reader = read(NIGHT)
    assert "<script" not in page(NIGHT)
    assert "".join(reader.text).count('<script>alert(1)</script> & "Söhne"') >= 5
    evil = replace(NIGHT, name='"><b>', funnel={**(NIGHT.funnel or {}), "reasons": {"<i>": 60}})
    assert not {"b", "i"} & {tag for tag, _ in read(evil).seen}


def test_light_dark_paper_and_telephone() -> None:
    """The page has colours for dark screens, and rules for paper and narrow screens. It tells the browser so."""
    html = page(NIGHT)
    for expected in ("color-scheme: light dark", "@media print", "(max-width: 760px)", "tabular-nums"):
        assert expected in html
    assert ("meta", {"name": "color-scheme", "content": "light dark"}) in read(NIGHT).seen
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in read(NIGHT).seen
    assert ("html", {"lang": "en"}) in read(NIGHT).seen


def test_charts_and_tables_can_be_read_aloud() -> None:
    """Every chart has a text alternative, and every table has a caption."""
    reader = read(NIGHT)
    alternatives = [attributes["aria-label"] for _, attributes in reader.seen if attributes.get("role") == "img"]
    assert len(alternatives) >= 7
    assert all(alternative and len(alternative) > 15 for alternative in alternatives)
    tags = [tag for tag, _ in reader.seen]
    assert tags.count("table") == tags.count("caption") > 5
    scopes = {attributes.get("scope") for tag, attributes in reader.seen if tag == "th"}
    assert scopes == {"row", "col", "colgroup"}


def test_a_whole_night_has_all_parts() -> None:
    """A complete run has all sections of the menu, in the same order."""
    sections = [attributes["id"] for tag, attributes in read(NIGHT).seen if tag == "section"]
    assert sections == list(MENU)


def test_missing_parts_are_named() -> None:
    """An empty run, and a run blocked before training, say in each section what is missing."""
    text = " ".join(read(EMPTY).text)
    for sentence in (
        "This run has no features (build_features), no student (distill), no measurements (evaluate), no recommendations (recommend)",
        "No gates were judged",
        "no rows were counted",
        "were not measured",
        "No model was trained",
        "no item statistics",
        "no lists to show",
    ):
        assert sentence in text
    blocked = " ".join(read(blocked_before_training()).text)
    assert "Blocked by a gate: history length is 40.4, allowed 5 to 20." in blocked
    assert "1,000 rows read = 900 kept + 40 duplicate + 60 quarantined" in blocked
    assert "no features" not in blocked
