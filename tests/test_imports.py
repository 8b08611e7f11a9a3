"""Imports point down: cluster → jobs → jobs/runtime → rooms of kdlib → store, config, errors.

A room imports only its own engines.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.pipeline import STAGES
from jobs.runtime.stage import Stage

HOME = Path(__file__).parent.parent
ENGINES = {
    "torch",
    "pyspark",
    "ray",
    "deepspeed",
    "transformers",
    "pyarrow",
    "safetensors",
    "triton",
    "nicegui",
    "duckdb",
    "mlflow",
    "openlineage",
    "onnx",
    "onnxscript",
    "onnxruntime",
}
ALLOWED_ENGINES = {
    "features": {"pyspark", "pyarrow"},
    "data": {"torch", "pyarrow"},
    "models": {"torch", "safetensors"},
    "losses": {"torch", "triton"},
    "metrics": {"pyarrow"},
    "simulation": {"pyarrow"},
    "encoders": {"torch", "pyarrow", "transformers"},
    "teachers": {"torch", "pyarrow"},
    "training": {"torch", "deepspeed", "pyarrow", "safetensors", "transformers"},
    "inference": {"torch", "pyarrow"},
    "experiments": {"pyarrow"},
    "lists": {"torch", "pyarrow"},
    "search": {"torch", "pyarrow", "safetensors"},
    "export": {"torch", "pyarrow", "safetensors", "onnx", "onnxruntime"},
    "report": {"pyarrow"},
    "explore": {"torch", "pyarrow", "nicegui", "duckdb"},
    "config": set(),
    "store": {"pyarrow"},
    "release": {"pyarrow"},
    "privacy": {"pyarrow"},
    "onboarding": {"pyarrow"},
    "serving": {"pyarrow"},
    "notebook": {"torch", "pyarrow"},
    "errors": set(),
    "__init__": set(),
}
ALLOWED_ROOMS = {
    "config": {"privacy"},
    "store": {"config"},
    "privacy": {"store"},
    "release": {"config", "privacy", "store"},
    "data": {"store"},
    "features": {"config", "data", "privacy", "store"},
    "models": {"store"},
    "losses": set(),
    "metrics": {"store"},
    "simulation": {"config"},
    "inference": {"config", "data", "experiments", "losses", "models", "store"},
    "experiments": {"config", "onboarding"},
    "lists": {"data", "inference", "store"},
    "encoders": {"config", "models", "store"},
    "teachers": {"data", "encoders", "inference", "losses", "metrics", "models", "store"},
    "training": {"config", "data", "encoders", "inference", "losses", "metrics", "models", "store", "teachers"},
    "search": {"config", "data", "encoders", "losses", "teachers", "training"},
    "export": {"config", "inference", "metrics", "models", "store"},
    "report": {"config", "metrics", "release", "store"},
    "onboarding": {"config", "store"},
    "explore": {"config", "data", "inference", "models", "release", "report", "search", "store"},
    "serving": {"config", "data", "inference", "privacy", "release", "search", "store"},
    "notebook": {"config", "data", "inference", "losses", "metrics", "privacy", "release", "store"},
    "errors": set(),
    "__init__": set(),
}
"""Room → rooms that it may import; a file beside the rooms counts as one. Every room may import `errors`."""


def _imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


FILES = sorted((HOME / "kdlib").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(HOME)) for path in FILES])
def test_library_imports_point_down(path: Path) -> None:
    """A library file imports no job, only the rooms that it may import, and only the engines of its room."""
    parts = path.relative_to(HOME / "kdlib").parts
    room = parts[0].removesuffix(".py")
    for name in _imports(path):
        package = name.split(".")[0]
        assert package not in {"jobs", "tests"}, f"{path} imports {name}"
        if package in ENGINES:
            assert package in ALLOWED_ENGINES[room], f"{path} imports the engine {name}"
        if package == "kdlib":
            target = name.split(".")[1]
            if target in ALLOWED_ROOMS and target != "errors":
                assert target == room or target in ALLOWED_ROOMS[room], f"{path} imports {name}"


def test_rooms_are_listed() -> None:
    """Every room of the library is listed above."""
    rooms = {path.name for path in (HOME / "kdlib").iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms | {path.stem for path in (HOME / "kdlib").glob("*.py")} == set(ALLOWED_ROOMS)


STAGE_MODULES = {stage.module for stage in STAGES}


def _path(module: str) -> Path:
    return HOME.joinpath(*module.split(".")).with_suffix(".py")


def _stages_in(path: Path) -> set[str]:
    """The stages' modules that a file imports, at its top or in a function, but for itself."""
    found = {name for one in _imports(path) for name in (one, one.rpartition(".")[0])}
    return {module for module in STAGE_MODULES & found if _path(module) != path}


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_stages_are_short_and_by_themselves(stage: Stage) -> None:
    """Every stage has a module of at most 150 lines, which imports no other stage."""
    path = _path(stage.module)
    assert len(path.read_text().splitlines()) <= 150
    assert _stages_in(path) == set()


def test_the_runtime_imports_no_stage() -> None:
    """The runner gets the stages from `jobs.pipeline`, which names their modules."""
    runtime = sorted((HOME / "jobs" / "runtime").rglob("*.py"))
    assert runtime
    assert {path.name: found for path in [*runtime, HOME / "jobs" / "pipeline.py"] if (found := _stages_in(path))} == {}


@pytest.mark.parametrize("module", ["jobs.pipeline", "jobs.__main__"])
def test_the_list_of_stages_and_the_help_load_no_engine(module: str) -> None:
    """A scheduler reads the list of stages, and `distilrec --help` prints it: both within a moment."""
    program = f"import sys, {module}; print(*sorted(name.split('.')[0] for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=HOME, text=True, capture_output=True, check=True)
    loaded = set(done.stdout.split())
    assert ("click" in loaded) == (module == "jobs.__main__")
    assert not loaded & (ENGINES | {"pydantic", "yaml", "numpy", "pandas", "jinja2", "tqdm"})
