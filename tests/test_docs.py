"""The API reference can be built from the docstrings."""

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from jobs.pipeline import STAGES, stages_table
from kdlib import notebook
from kdlib.config.base import Section

HOME = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built as `make docs` builds them. A warning ends the build."""
    folder = tmp_path_factory.mktemp("docs")
    (HOME / "output").mkdir(exist_ok=True)
    (HOME / "output" / "stages.md").write_text(stages_table())
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", "kdlib/docs/mkdocs.yml"]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [*command, "--site-dir", str(folder)], cwd=HOME, env=quiet, check=False, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_pages_have_what_they_promise(site: Path) -> None:
    """The pages have the notebook calls with their arguments, the settings with their defaults, and every stage."""
    calls = (site / "notebook.html").read_text()
    for name in ("load_run", "read_table", "recommend", "history", "evaluate", "Student.similar"):
        assert f'id="kdlib.notebook.{name}"' in calls
        assert eval(name, dict(vars(notebook))).__doc__
    assert re.search(r"<code>overrides</code>.*?texts <code>section.key=value</code>", calls, re.DOTALL)
    settings = (site / "config" / "features.html").read_text()
    assert 'id="kdlib.config.features.FeaturesConfig.session_gap_seconds"' in settings
    assert "A longer gap between two events of a user starts a new session" in settings
    stages = (site / "stages.html").read_text()
    assert all(f"<td><code>{stage.name}</code></td>" in stages for stage in STAGES)
    assert (site / "notebooks" / "read_a_run.ipynb").read_text().startswith("{")
    assert not list(site.rglob("*.py"))


def test_every_section_of_the_run_config_has_a_place(site: Path) -> None:
    """The reference has each section of the run config that the package `kdlib.config` declares."""
    pages = "".join(page.read_text() for page in (site / "config").glob("*.html"))
    modules = [import_module(f"kdlib.config.{path.stem}") for path in (HOME / "kdlib" / "config").glob("[a-z]*.py")]
    sections = {one for module in modules for one in vars(module).values() if isinstance(one, type)}
    named = {f"{one.__module__}.{one.__name__}" for one in sections if issubclass(one, Section) and one is not Section}
    assert len(named) > 30
    assert {name for name in named if f'id="{name}"' not in pages} == set()


def test_pages_need_no_other_host(site: Path) -> None:
    """No page, style or font is loaded from another host."""
    pages = [*site.rglob("*.html")]
    assert len(pages) > 10
    loads = r"""<(?:link|script|img|iframe)[^>]+(?:src|href)=["']?(?:https?:)?//[^>]*"""
    assert {str(page): found for page in pages if (found := re.findall(loads, page.read_text()))} == {}
    styles = "".join(style.read_text() for style in site.rglob("*.css"))
    assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", styles)
