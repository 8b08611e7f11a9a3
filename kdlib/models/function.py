"""A teacher of the user's own: a callable that scores all items, named by a dotted path in the run config.

`teachers: [{name: mine, function: "my_shop.scores:score"}]` names a function or a class of a Python module. The module
must be installed, or importable from the folder where distilrec is started. Each process that needs scores calls `score`
with all item ids. The result is a second callable, which scores histories:

    def score(item_ids):  # list of str: item i has the id item_ids[i]
        model = load_my_model()

        def score_histories(histories):  # list of lists of item indices, oldest first
            return model.log_probabilities(histories)  # floats [len(histories), len(item_ids)]

        return score_histories

A class does the same with `__init__(self, item_ids)` and `__call__(self, histories)`.

- A history has 1 to `training.max_length` item indices, and no user id.
- Scores are a numpy array, a tensor on the CPU, or lists, with a real number for each item. Higher is better. The scores
  are logits: their softmax over all items is the teacher's prediction. So give log-probabilities, or the logarithm of
  counts.
- −inf rules an item out. Each row has at least one finite score. NaN and +inf are errors.
- A history gets the same scores in every call, whatever other histories are in the call.
- A call has at most 16 histories, or more while histories times items is at most 2²² (2²⁶ with a GPU).

A teacher that was fitted on the same interactions repeats what it memorised at training positions. The setting `folds`
cannot help, because distilrec does not fit the teacher. `cache-teacher` prints how much surer each teacher is of its
training positions.
"""

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdlib.errors import ConfigError, ModelError

RULED_OUT = 1000.0
"""A score of −inf becomes the row's smallest finite score minus this number. The item's probability is then 0 and its
log-probability is finite. So a mean of several teachers' scores is never −inf for all items."""
MOST_NAMES = 8
"""An error lists at most this many names of a module."""


def load_function(function: str) -> Callable[[list[str]], Any]:
    """The callable that a dotted path names.

    Args:
      function: `my_shop.scores:score`, a module and a name in it.

    Raises:
      ConfigError: the module does not exist or cannot be imported, or it has no callable of this name.
    """
    found = find_named(function, what="teacher function")
    if not callable(found):
        raise ConfigError(
            f"the teacher function {function} must be a function or a class that takes the item ids, found a"
            f" {type(found).__name__}"
        )
    return found


def find_named(function: str, *, what: str) -> Any:
    """The object that a dotted path names.

    Args:
      function: `my_shop.scores:score`, a module and a name in it.
      what: its use, for an error's text.

    Raises:
      ConfigError: the module does not exist or cannot be imported, or it has nothing of this name.
    """
    module_name, _, name = function.partition(":")
    if (here := os.getcwd()) not in sys.path:  # `python -m` adds this folder, the console script does not
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):
            raise ConfigError(
                f"the {what} {function} needs the module {module_name}, but there is no {missing} in {here} or"
                " among the installed packages. Start distilrec in the folder that has it, or install it"
            ) from None
        raise ConfigError(f"the module of the {what} {function} cannot be imported: {said(error)}") from error
    if not hasattr(module, name):
        names = [one for one, value in vars(module).items() if callable(value) and not one.startswith("_")]
        found = ", ".join(names[:MOST_NAMES]) or "none"
        raise ConfigError(
            f"the {what} {function} does not exist: {module.__file__} has no {name}. Its callables: {found}"
        )
    return getattr(module, name)


class ScoringFunction:
    """A function of the user's own as a model that can teach.

    Args:
      function: `my_shop.scores:score`. It is imported and called when the first scores are needed.
      item_ids: of all items, in index order.
      max_length: most items of a history that the function gets.
      device: where the scores are put. The function itself may compute anywhere.
    """

    def __init__(
        self, function: str, item_ids: list[str], *, max_length: int, device: torch.device | None = None
    ) -> None:
        self.function, self.item_ids, self.max_length = function, item_ids, max_length
        self._device = device or torch.device("cpu")

    @property
    def num_items(self) -> int:
        return len(self.item_ids)

    def to(self, device: torch.device) -> "ScoringFunction":
        """The same function with its scores on a device."""
        return ScoringFunction(self.function, self.item_ids, max_length=self.max_length, device=device)

    @cached_property
    def _score(self) -> Callable[[list[list[int]]], Any]:
        make = load_function(self.function)
        try:
            score = make(list(self.item_ids))
        except Exception as error:
            raise ModelError(f"the teacher function {self.function} failed with the item ids: {said(error)}") from error
        if not callable(score):
            raise ModelError(
                f"the teacher function {self.function} takes the item ids, and must return a callable that scores"
                f" histories, found a {type(score).__name__}. See kdlib/models/function.py for an example"
            )
        return score

    def logits(self, histories: list[list[int]]) -> Tensor:
        """Finite scores of all items after each history: float32 [histories, items] on the device.

        Args:
          histories: item indices, oldest first, 1 to `max_length` each.

        Raises:
          ConfigError: as for `load_function`.
          ModelError: the function failed, or its scores are not what this module's docstring asks for.
        """
        score = self._score
        try:
            with torch.no_grad():
                found = np.asarray(score(histories))
        except Exception as error:
            raise ModelError(
                f"the teacher function {self.function} failed with {len(histories)} histories: {said(error)}"
            ) from error
        scores_BV = torch.from_numpy(self._checked(found, len(histories))).to(self._device)
        out_BV = scores_BV == -torch.inf
        if not out_BV.any():
            return scores_BV
        least_B1 = scores_BV.masked_fill(out_BV, torch.inf).amin(1, keepdim=True)
        return torch.where(out_BV, least_B1 - RULED_OUT, scores_BV)

    def _checked(self, found: np.ndarray, rows: int) -> np.ndarray:
        """A copy of the scores as float32; ModelError where they are not scores of these histories."""
        shape = (rows, self.num_items)
        if found.dtype.kind not in "fiu" or found.shape != shape:
            raise ModelError(
                f"the teacher function {self.function} must return real numbers of the shape {list(shape)} (histories,"
                f" items), found {found.dtype} of the shape {list(found.shape)}"
            )
        with np.errstate(over="ignore"):
            scores = found.astype(np.float32)
        wrong = np.isnan(scores) | (scores == np.inf)
        wrong[(scores == -np.inf).all(1)] = True
        if wrong.any():
            row, item = np.argwhere(wrong)[0]
            raise ModelError(
                f"the teacher function {self.function} must return scores that are finite in float32, or −inf for some of the"
                f" items, found {found[row, item]} for item {self.item_ids[item]!r} after history {row} of {rows}"
                f" ({int(wrong.any(1).sum())} histories have wrong scores)"
            )
        return scores


def function_state(model: ScoringFunction) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The model as tensors and options for JSON. The function itself stays in its module."""
    ids = np.frombuffer(json.dumps(model.item_ids).encode(), np.uint8)
    options = {"kind": "function", "function": model.function, "max_length": model.max_length}
    return {"item_ids": torch.from_numpy(ids.copy())}, options


def function_from_state(tensors: dict[str, Tensor], options: dict[str, Any]) -> ScoringFunction:
    """The model from the result of `function_state`."""
    item_ids = json.loads(tensors["item_ids"].numpy().tobytes())
    return ScoringFunction(options["function"], item_ids, max_length=options["max_length"])


def said(error: Exception) -> str:
    """An error of the user's own code in one line: its type, its first line, and the last line of this folder's code."""
    first = (str(error).strip().splitlines() or ["no message"])[0]
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {first}"  # the text has file and line
    frames = [one for one in traceback.extract_tb(error.__traceback__) if one.filename != __file__]
    own = [one for one in frames if one.filename.startswith(os.getcwd()) and "site-packages" not in one.filename]
    where = "".join(f" ({one.filename}, line {one.lineno})" for one in (own or frames)[-1:])
    return f"{type(error).__name__}: {first}{where}"
