"""Hashes of the code that a stage can reach."""

from pathlib import Path

import pytest

from jobs.pipeline import STAGES
from jobs.runtime.code import code_of


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small project: a stage, what it uses in a function, data beside that, and a module that it does not use."""
    files = {
        "jobs/__init__.py": "",
        "jobs/stage.py": "def build():\n    from kdlib.room.used import f\n    return f()\n",
        "kdlib/__init__.py": "",
        "kdlib/room/__init__.py": "",
        "kdlib/room/used.py": '"""Text."""\n\n\ndef f():\n    """More text."""\n    return 1  # why\n',
        "kdlib/room/templates/page.html": "<p>",
        "kdlib/config/__init__.py": "",
        "kdlib/other.py": "x = 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def code(tree: Path) -> dict[str, str]:
    """Hashes in a copy of the tree, because each file is read once."""
    copy = tree.with_name(f"{tree.name}_{len(list(tree.parent.iterdir()))}")
    for path in tree.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(tree)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return code_of("jobs.stage", home=copy)


def test_code_is_what_imports_lead_to(tree):
    """Imports inside functions count, and data files in the folders of the modules."""
    assert set(code(tree)) == {"jobs/stage.py", "kdlib/room/used.py", "kdlib/room/templates/page.html"}


@pytest.mark.parametrize(
    ("file", "before", "after", "counts"),
    [
        ("kdlib/room/used.py", "return 1", "return 2", True),
        ("kdlib/room/templates/page.html", "<p>", "<b>", True),
        ("kdlib/room/used.py", "# why", "# for another reason", False),
        ("kdlib/room/used.py", "More text.", "Other text.", False),
        ("kdlib/other.py", "x = 1", "x = 2", False),
    ],
)
def test_only_what_runs_counts(tree, file, before, after, counts):
    """Comments, docstrings and modules that nobody imports remake nothing."""
    first = code(tree)
    path = tree / file
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))
    changed = {name for name, digest in code(tree).items() if first.get(name) != digest}
    assert changed == ({file} if counts else set())


def test_settings_count_by_their_values(tree):
    """A new setting or validator in kdlib.config changes no hash; a method that computes does."""
    (tree / "kdlib/config/models.py").write_text("class A:\n    x: int = 1\n\n    def twice(self):\n        return 2\n")
    (tree / "jobs/stage.py").write_text("from kdlib.config.models import A\n")
    first = code(tree)
    text = (tree / "kdlib/config/models.py").read_text()
    (tree / "kdlib/config/models.py").write_text(text.replace("x: int = 1", "x: int = 1\n    y: int = 2"))
    assert code(tree) == first
    (tree / "kdlib/config/models.py").write_text(text.replace("return 2", "return 3"))
    assert code(tree) != first


def test_a_stage_does_not_reach_what_cannot_change_its_tables():
    """Models do not depend on the report, the command line, the console, or the list of stages."""
    for stage in STAGES:
        if not stage.acts and stage.name != "report":
            reached = code_of(stage.module)
            others = [name for name in reached if name.startswith("kdlib/report") or name in FRAME]
            assert not others, f"{stage.name} reaches {others}"


FRAME = ("jobs/__main__.py", "jobs/pipeline.py", "jobs/nightly.py", "jobs/runtime/console.py", "jobs/runtime/runner.py")


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("kdlib/losses/next_item.py", {"train-teacher", "distill", "refit"}),
        ("kdlib/search/distil.py", {"train-search"}),
        ("kdlib/inference/recommender.py", {"evaluate", "recommend", "recommend-lists", "export"}),
        ("kdlib/report/templates/style.css", {"report"}),
    ],
)
def test_a_file_reaches_the_stages_that_use_it(file, stages):
    """A loss remakes the models that are trained with it; the style sheet remakes the page alone."""
    assert {stage.name for stage in STAGES if not stage.acts and file in code_of(stage.module)} == stages
