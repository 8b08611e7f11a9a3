"""Packages that only some run configs need."""

from importlib.util import find_spec

from kdlib.errors import ConfigError, extra_hint

SEARCH = ("bm25s", "Stemmer", "rapidfuzz", "transformers")
EXPLORE = ("nicegui", "duckdb")


def check_search_extra() -> None:
    """Raise ConfigError where a package of the extra `search` is missing."""
    if missing := [name for name in SEARCH if find_spec(name) is None]:
        raise ConfigError(f"product search needs {', '.join(missing)}, not installed here: {extra_hint('search')}")


def check_explore_extra() -> None:
    """Raise ConfigError where a package of the extra `explore` is missing."""
    if missing := [name for name in EXPLORE if find_spec(name) is None]:
        raise ConfigError(
            f"`distilrec explore` needs {' and '.join(missing)}, not installed here: `pip install 'distilrec[explore]'`"
        )
