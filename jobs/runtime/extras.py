"""Checks that the packages of an extra are installed. A check imports none of them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from kdlib.errors import ConfigError, extra_hint

if TYPE_CHECKING:
    from kdlib.config.operations import TrackingConfig

SEARCH = ("bm25s", "Stemmer", "rapidfuzz", "transformers")
EXPORT = ("onnx", "onnxscript", "onnxruntime")
EXPLORE = ("nicegui", "duckdb")
SERVE = ("starlette", "uvicorn")
MLFLOW = ("mlflow", "sqlalchemy", "alembic")
OPENLINEAGE = ("openlineage",)


def check_search_extra() -> None:
    """Raise ConfigError where a package of the extra `search` is missing."""
    _check("product search", "search", SEARCH)


def check_export_extra() -> None:
    """Raise ConfigError where a package of the extra `onnx` is missing."""
    _check("the section export", "onnx", EXPORT)


def check_explore_extra() -> None:
    """Raise ConfigError where a package of the extra `explore` is missing."""
    _check("`distilrec explore`", "explore", EXPLORE)


def check_tracking_extras(tracking: TrackingConfig) -> None:
    """Raise ConfigError where a package of an extra is missing that the section needs."""
    if tracking.mlflow:
        _check("tracking.mlflow", "mlflow", MLFLOW)
    if tracking.openlineage:
        _check("tracking.openlineage", "openlineage", OPENLINEAGE)


def check_serve_extra() -> None:
    """Raise ConfigError where a package of the extra `serve` is missing."""
    _check("`distilrec serve`", "serve", SERVE)


def _check(what: str, extra: str, packages: tuple[str, ...]) -> None:
    if missing := [name for name in packages if find_spec(name) is None]:
        raise ConfigError(f"{what} needs {', '.join(missing)}, not installed here: install {extra_hint(extra)}")
