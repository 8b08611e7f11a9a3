"""Teachers of the user's own: their source, what is sent along, what is checked early, what an edit makes stale."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import train_teacher
from jobs.pipeline import stage_named
from jobs.plan import Step
from jobs.plan import plan as plan_of
from jobs.runtime import runner
from jobs.runtime.names import FEATURES
from jobs.runtime.own_teachers import check_functions, check_sources, local_code, source_of
from jobs.runtime.stage import Job
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError, ModelError
from kdlib.models.files import save_function, save_model
from kdlib.models.function import ScoringFunction
from kdlib.models.sequence import SequenceModel
from kdlib.store import partitions
from tests import stages
from tests.own_modules import NEXT, write_modules

DS = "2024-05-01"
SHOP = {
    "my_shop/__init__.py": "from my_shop import names\n",
    "my_shop/names.py": "NAME = 1\n",
    "my_shop/scores/__init__.py": "",
    "my_shop/scores/last.py": "from ..weights import DECAY\nfrom . import other\nimport numpy\nimport kdlib.errors\n"
    + NEXT,
    "my_shop/scores/other.py": "def late():\n    import beside\n",
    "my_shop/weights.py": "DECAY = 0.5\n",
    "my_shop/unused.py": "X = 1\n",
    "beside.py": "X = 1\n",
    "unused.py": "X = 1\n",
}
FUNCTION = "my_shop.scores.last:score"


def config_of(folder: Path, **changes: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "small",
            "ds": DS,
            "output_dir": str(folder / "out"),
            "input": {"simulate": {}},
            "teachers": [{"name": "mine", "function": FUNCTION}, {"name": "plain"}],
            "distillation": {"targets": "sampled"},
        }
        | changes
    )


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a package whose function scores, with a module beside it; the working folder."""
    write_modules(tmp_path, monkeypatch, SHOP)
    return tmp_path


def test_the_source_is_what_imports_lead_to(shop: Path) -> None:
    """The source is the module, the packages around it and what they import, without distilrec and installed code."""
    (shop / "kdlib").mkdir()
    (shop / "kdlib" / "errors.py").write_text("X = 1\n")
    assert set(source_of(FUNCTION)) == {
        "beside.py",
        "my_shop/__init__.py",
        "my_shop/names.py",
        "my_shop/scores/last.py",
        "my_shop/scores/other.py",
        "my_shop/weights.py",
    }


def test_an_edit_counts_and_a_comment_does_not(shop: Path) -> None:
    """An edit changes the hash in the same process; comments, docstrings and unused files do not."""
    before = source_of(FUNCTION)
    for path in ("my_shop/weights.py", "beside.py"):
        (shop / path).write_text(f'"""About it."""\n\n{SHOP[path]}  # why\n')
    (shop / "my_shop" / "unused.py").write_text("X = 2\n")
    assert source_of(FUNCTION) == before
    (shop / "my_shop" / "weights.py").write_text("DECAY = 0.6\n")
    assert {path for path, digest in source_of(FUNCTION).items() if digest != before[path]} == {"my_shop/weights.py"}


def test_of_an_installed_package_only_its_own_modules_count(
    shop: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source of an installed function is its own package, and no other installed package."""
    monkeypatch.syspath_prepend(str(shop))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    found = source_of(FUNCTION)
    assert "my_shop/weights.py" in found
    assert "beside.py" not in found
    assert local_code(config_of(shop)) == []


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no_such_shop:score", "no Python source of the module no_such_shop .* in .* or install it"),
        ("my_shop.no_such:score", "no Python source of the module my_shop.no_such "),
        ("math:sqrt", "no Python source of the module math "),
        ("wrong:score", "source of the teacher function wrong:score cannot be read: .*wrong.py, line 1"),
    ],
)
def test_a_function_without_readable_source_is_told(shop: Path, function: str, message: str) -> None:
    """The error names the function and says where its module was looked for."""
    (shop / "wrong.py").write_text("def score(:\n")
    with pytest.raises(ConfigError, match=message):
        source_of(function)


def test_what_is_sent_along_is_local_and_whole(shop: Path) -> None:
    """Only the function's package and the modules beside it that it imports are sent."""
    assert local_code(config_of(shop)) == [shop / "beside.py", shop / "my_shop"]
    assert local_code(config_of(shop, teachers=[{"name": "plain"}])) == []
    readers = [{"name": "plain", "text": {"encoder": "my_shop.weights:encode"}}]
    assert local_code(config_of(shop, teachers=readers)) == [shop / "my_shop"]
    assert local_code(config_of(shop, teachers=[{"name": "plain"}], search={"text": {"encoder": "beside:encode"}})) == [
        shop / "beside.py"
    ]


def test_functions_are_imported_before_any_work(shop: Path) -> None:
    """A misspelt name is an error at the start, and a run without events imports no function."""
    check_functions(config_of(shop))
    teachers = [{"name": "mine", "function": "my_shop.scores.last:skore"}]
    with pytest.raises(ConfigError, match=r"last.py has no skore. Its callables: score"):
        check_functions(config_of(shop, teachers=teachers))
    alone = {"input": {"catalogue": {"path": "c.csv", "format": "csv", "item": "i"}}, "search": {}}
    check_functions(config_of(shop, teachers=teachers, **alone))


def plan(config: RunConfig) -> dict[str, Step]:
    """What a run would do with the stages after the features."""
    pipeline = [stage_named(name) for name in ("train-teacher", "cache-teacher")]
    return {step.stage.name: step for step in plan_of(config, pipeline)}


@pytest.fixture
def made(shop: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunConfig, list[str]]:
    """A run config, and the teachers that `train-teacher` makes, in order, while it calls no Ray."""
    config, done = config_of(shop), list[str]()
    facts = {"validation": {"accuracy@1": 0.0, "recall@10": 0.0, "ndcg@10": 0.0}}

    def try_function(job: Job) -> None:
        done.append("mine")
        save_function(job.output, ScoringFunction(FUNCTION, ["a"], max_length=3), facts, version=job.found)

    def train(jobs: list[Job], runs: Any, **folds: int) -> None:
        done.extend(job.part.subject[0].name for job in jobs)
        for job in jobs:
            model = SequenceModel(num_items=1, kind="gru", dim=4)
            save_model(job.output, model, model.state_dict(), facts)

    monkeypatch.setattr(train_teacher, "_try_function", try_function)
    monkeypatch.setattr(train_teacher, "_train", train)
    monkeypatch.setattr(runner, "start_ray", lambda config: nullcontext())
    for name in FEATURES:
        staging = partitions.new_staging(config.root, name, DS)
        pq.write_table(pa.table({"item_index": [0], "item_id": ["a"]}), staging / "part-00000.parquet")
        partitions.publish(staging, config.root, name, DS, fingerprint="x")
    stages.run("train-teacher", config)
    return config, done


def test_an_edit_of_the_source_makes_the_teacher_stale(made: tuple[RunConfig, list[str]], shop: Path) -> None:
    """The plan names the edited file, and the stage tries only this function again."""
    config, done = made
    assert done == ["mine", "plain"]
    stages.run("train-teacher", config)
    assert done == ["mine", "plain"], "all up to date"
    (shop / "my_shop" / "weights.py").write_text("DECAY = 0.6\n")
    steps = plan(config)
    [reason] = steps["train-teacher"].reasons
    assert reason.startswith("input my_shop/weights.py: ")
    assert "train-teacher" in steps["cache-teacher"].after
    stages.run("train-teacher", config)
    assert done == ["mine", "plain", "mine"]
    assert not plan(config)["train-teacher"].runs


def test_what_the_model_does_not_depend_on_makes_nothing_stale(made: tuple[RunConfig, list[str]], shop: Path) -> None:
    """A function's teacher depends on its path and on the length of histories, not on seed, epochs and shares."""
    teachers = [{"name": "mine", "function": FUNCTION, "weight": 3.0}]

    def runs(**changes: Any) -> list[str]:
        config = config_of(shop, **({"teachers": teachers} | changes))
        return list(plan(config)["train-teacher"].reasons)

    assert runs(seed=7, training={"defaults": {"epochs": 3}}) == []
    assert runs(training={"max_length": 20}) == ["setting training.max_length: 50 → 20"]
    other = [{"name": "mine", "function": "my_shop.scores.last:other"}]
    assert runs(teachers=other) == [f"setting teachers.mine.function: {FUNCTION} → my_shop.scores.last:other"]


def test_targets_need_the_source_that_was_tried(made: tuple[RunConfig, list[str]], shop: Path) -> None:
    """A function that was edited after `train-teacher` is an error that says what to run."""
    config, _ = made
    folders = [[partitions.current(config.root, f"models/{name}", DS)] for name in ("mine", "plain")]
    check_sources(config, folders)
    (shop / "my_shop" / "weights.py").write_text("DECAY = 0.6\n")
    with pytest.raises(ModelError, match=r"source of the teacher function my_shop.* tried .*`distilrec train-teacher`"):
        check_sources(config, folders)
