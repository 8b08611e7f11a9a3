"""The documents say what is so: results are on file, the printed config loads, links lead somewhere, the runbook is whole."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from jobs.__main__ import main
from kdlib import errors
from kdlib.config.load import load_config

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "tests" / "benchmarks" / "results"
NUMBER = re.compile(r"(?<![\w.])[+−-]?(?:\d{1,3}(?:,\d{3})+|\d*\.\d+|\d+)(?:%|(?![\w.]|,\d))")
SCALES = {"%": 100.0, "MB": 1e-6, "kB": 1e-3, "k": 1e-3, "": 1.0}
QUOTING = {"README.md": ("What distillation is worth", "Results"), "tests/benchmarks/README.md": None}
"""Document → headings of the parts that quote results; None: every part does."""
ROOMS = ("jobs", "kdlib", "cluster", "tests")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.md"))])


def sections() -> dict[str, str]:
    """`document: heading` → text, of the parts that quote results."""
    found = {}
    for document, headings in QUOTING.items():
        parts = re.split(r"^(##+ .*)$", (ROOT / document).read_text(), flags=re.MULTILINE)
        quotes = headings is None
        for heading, body in zip(parts[1::2], parts[2::2], strict=True):
            if heading.startswith("## ") and headings is not None:
                quotes = heading.removeprefix("## ") in headings
            if quotes:
                found[f"{document}: {heading.lstrip('# ')}"] = body
    return found


def numbers(text: str) -> Iterator[tuple[str, str]]:
    """Each figure of the text with its unit: those with a decimal point, a per cent sign or a thousands' comma.

    The level of the intervals, 95%, is no result.
    """
    text = text.replace("95%", "")
    text = re.sub(r"`[^`]*`|\]\([^)]*\)|https?://\S+", " ", text)
    for match in NUMBER.finditer(text):
        figure = match.group()
        unit = "%" if figure.endswith("%") else (re.match(r"\s*(MB|kB|k)\b", text[match.end() :]) or [""])[0].strip()
        if unit or "." in figure or "," in figure:
            yield figure.rstrip("%"), unit


def on_file(value: object) -> Iterator[float]:
    """Every number of a JSON document; those in its texts too."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from on_file(key)
            yield from on_file(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from on_file(inner)
    elif isinstance(value, str):
        yield from (float(one) for one in re.findall(r"-?\d+\.?\d*", value.replace(",", "")))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def intervals_on_file(value: object) -> Iterator[tuple[float, float, float]]:
    """Every (value, low, high) of a JSON document: `figures` beside `intervals`, `x` beside `x_interval`, [x, [low, high]]."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key.startswith("intervals") and isinstance(inner, dict):
                figures = value[key.replace("intervals", "figures", 1)]
                yield from (
                    (figures.get(name, math.nan), *bounds) for name, bounds in inner.items() if isinstance(bounds, list)
                )
            elif f"{key}_interval" in value:
                yield (inner, *value[f"{key}_interval"])
            else:
                yield from intervals_on_file(inner)
    elif isinstance(value, list) and len(value) == 2 and isinstance(value[1], list):
        yield (value[0], *value[1])
    elif isinstance(value, list):
        for inner in value:
            yield from intervals_on_file(inner)


def intervals(text: str) -> Iterator[tuple[str, str, str, str]]:
    """Each `value [low, high]` of the text with its unit; the value is empty where words stand between."""
    number = r"[+−-]?\d*\.?\d+"
    for found in re.finditer(rf"(?:({number})(%?)\**\s)?\[({number})(%?), ({number})%?\]", text):
        value, _, low, unit, high = found.groups()
        yield value or "", low, high, unit


def is_quoted_from(figure: str, unit: str, known: list[float]) -> bool:
    """Whether a file's number is the figure, to the figure's last digit; signs count."""
    plain = figure.replace(",", "").replace("−", "-").replace("+", "")
    digits = len(plain.partition(".")[2])
    return any(abs(float(plain) - SCALES[unit] * one) <= 0.5001 * 10**-digits for one in known)


@pytest.mark.parametrize("heading", sections())
def test_every_number_of_the_results_is_on_file(heading: str) -> None:
    """A figure with a decimal point, a per cent sign or a comma stands in one of the files that its section names."""
    text = sections()[heading]
    files = sorted(set(re.findall(r"`(\w+\.json)`", text)))
    assert files, "a section of results names its files"
    known = [one for name in files for one in on_file(json.loads((RESULTS / name).read_text()))]
    missing = [figure + unit for figure, unit in numbers(text) if not is_quoted_from(figure, unit, known)]
    assert missing == []


@pytest.mark.parametrize("heading", sections())
def test_every_interval_belongs_to_its_value(heading: str) -> None:
    """A value and the bounds beside it are those of one metric in one of the files that the section names."""
    text = sections()[heading]
    files = sorted(set(re.findall(r"`(\w+\.json)`", text)))
    known = [one for name in files for one in intervals_on_file(json.loads((RESULTS / name).read_text()))]
    for value, low, high, unit in intervals(text):
        quoted = [(one, at) for at, one in enumerate((value, low, high)) if one]
        assert any(all(is_quoted_from(one, unit, [metric[at]]) for one, at in quoted) for metric in known), (
            value,
            low,
            high,
        )


def test_bounds_of_another_metric_are_found() -> None:
    """Values are read beside their bounds, in each form that a file and a text have them."""
    assert list(intervals("**.06** [.05, .07], 53% [24%, 83%], difference [−.01, +.02]")) == [
        (".06", ".05", ".07", ""),
        ("53", "24", "83", "%"),
        ("", "−.01", "+.02", ""),
    ]
    document = {"figures": {"a": 1}, "intervals": {"a": [0, 2]}, "b": 3, "b_interval": [2, 4], "a - b": [5, [4, 6]]}
    assert list(intervals_on_file(document)) == [(1, 0, 2), (3, 2, 4), (5, 4, 6)]


def test_a_number_that_is_on_no_file_is_found() -> None:
    """Signs, thousands, per cent and megabytes are read as a person reads them; another digit is another number."""
    text = "**.0656** [+.0012, −.0051], 53%, 22,363 users, 3.3 MB, `0.99`, and 12 of RecTools 0.19"
    assert list(numbers(text)) == [
        (".0656", ""),
        ("+.0012", ""),
        ("−.0051", ""),
        ("53", "%"),
        ("22,363", ""),
        ("3.3", "MB"),
        ("0.19", ""),
    ]
    known = [0.06558, 0.0012, -0.0051, 0.5279, 22363, 3_300_000]
    assert all(is_quoted_from(figure, unit, known) for figure, unit in list(numbers(text))[:-1])
    for figure, unit in ((".0657", ""), ("+.0051", ""), ("54", "%"), ("22,364", ""), ("3.4", "MB")):
        assert not is_quoted_from(figure, unit, known)


def words_between(text: str, start: str, end: str) -> str:
    """The text after the first `start` up to the next `end`."""
    return text.partition(start)[2].partition(end)[0]


def test_the_readme_takes_three_minutes() -> None:
    """It has at most 200 lines and 14 kB."""
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 200
    assert len(text.encode()) <= 14_000


def test_the_readmes_run_config_is_what_init_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`init` finds in the printed rows what the printed run config says, up to the split, and the run config loads."""
    text = (ROOT / "README.md").read_text()
    printed = words_between(text, "```yaml\n", "```")
    header, row = re.findall(r"^    (\S+;\S+)$", text, flags=re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    rows = [header, row]
    for user in range(50):
        for step, action in enumerate(("seen", "seen", "basket", "paid")):
            rows.append(f"c{user};sku-{(user + step) % 40:02}-01;{action};{1795341938801 - 10**6 * (user + 60 * step)}")
    Path("clicks").mkdir()
    Path("clicks", "a.csv").write_text("\n".join(rows) + "\n")
    titles = "".join(f"sku-{number:02}-01,Product {number},yes\n" for number in range(40))
    Path("products.csv").write_text(f"sku,name,in_stock\nsku-34-03,Another,no\n{titles}")
    assert main(["init", "clicks", "products.csv", "--out", "my_shop.yaml"]) == 0
    written = yaml.safe_load(Path("my_shop.yaml").read_text().replace(f"{tmp_path}/", ""))
    expected = yaml.safe_load(printed)
    assert {key: written[key] for key in expected} == expected
    Path("printed.yaml").write_text(printed)
    assert load_config("printed.yaml").input.catalogue is not None


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """A relative link names a file or folder that exists, and a heading of the document it names."""
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match(r"\w+://", target):
            continue
        place, _, anchor = target.partition("#")
        path = (document.parent / place).resolve() if place else document
        assert path.exists(), f"{document.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", one).lower().replace(" ", "-") for one in headings}, target


def test_the_runbook_has_every_exit_status_and_alert() -> None:
    """An operator finds each status that a run can end with, each error behind it, and each alert."""
    book = (ROOT / "cluster" / "README.md").read_text().partition("## Runbook")[2]
    faults = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.DistilrecError)]
    faults.remove(errors.DistilrecError)
    for status in sorted({0, 1, 2, 130, 143} | {one.exit_status for one in faults}):
        assert f"| **{status}** |" in book, f"status {status} has no entry"
    assert [one.__name__ for one in faults if f"`{one.__name__}`" not in book] == []
    rules = yaml.safe_load((ROOT / "cluster" / "monitoring" / "rules.yaml").read_text())
    alerts = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    assert [alert for alert in alerts if f"**{alert}**" not in book] == []
