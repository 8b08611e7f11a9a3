"""Modules of the user's own, for tests of teachers that are functions."""

import importlib
import sys
from pathlib import Path

import pytest

NEXT = '''"""Scores by the last item: the items after it in the vocabulary, nearest first."""

import numpy as np


def score(item_ids):
    number = np.arange(len(item_ids))

    def score_histories(histories):
        return np.stack([-((number - history[-1] - 1) % len(item_ids)) for history in histories]).astype(np.float64)

    return score_histories
'''
"""A module whose `score` expects the item after the last one of the history, then the one after that."""


def write_modules(folder: Path, monkeypatch: pytest.MonkeyPatch, modules: dict[str, str]) -> None:
    """Write files of Python source, path → text, and make their folder the working folder of the test.

    Modules of these names are imported again.
    """
    for path, text in modules.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    tops = {path.partition("/")[0].removesuffix(".py") for path in modules}
    for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(folder)
    importlib.invalidate_caches()
