"""Packages that only some run configs need."""

from importlib.util import find_spec

from kdlib.errors import ConfigError, extra_hint

SEARCH = ("bm25s", "Stemmer", "rapidfuzz", "transformers")


def check_search_extra() -> None:
    """Raise ConfigError where a package of the extra `search` is missing."""
    if missing := [name for name in SEARCH if find_spec(name) is None]:
        raise ConfigError(f"product search needs {', '.join(missing)}, not installed here: {extra_hint('search')}")
