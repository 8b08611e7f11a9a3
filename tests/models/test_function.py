"""Functions of the user's own: what they get, what they may return, and what an error says."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kdlib.errors import ConfigError, ModelError
from kdlib.models.encode import scorer
from kdlib.models.files import load_model, load_predictor, save_function, serves
from kdlib.models.function import RULED_OUT, ScoringFunction, load_function
from tests.own_modules import NEXT, write_modules

IDS = ["a", "b", "c", "d"]
CPU = torch.device("cpu")


def returning(result: str) -> str:
    """Source of a module whose `score` makes a function that returns an expression of `histories` and `item_ids`."""
    return f"import numpy as np\nimport torch\n\n\ndef score(item_ids):\n    return lambda histories: {result}\n"


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a module `scores` and gives its `score` as a model."""

    def of(source: str, max_length: int = 50) -> ScoringFunction:
        write_modules(tmp_path, monkeypatch, {"scores.py": source})
        return ScoringFunction("scores:score", IDS, max_length=max_length)

    return of


def test_it_gets_the_item_ids_and_the_last_items_of_each_history(make) -> None:
    """The callable gets all item ids once, and the second one at most the last `max_length` items of a history."""
    source = """
calls = []


def score(item_ids):
    calls.append(item_ids)

    def score_histories(histories):
        calls.append(histories)
        return [[float(history[0] == item) for item in range(len(item_ids))] for history in histories]

    return score_histories
"""
    score = scorer(make(source, max_length=2), device=CPU)
    items, context, lengths = np.array([3, 2, 1, 0]), np.zeros((4, 3), np.int8), np.array([3, 1])
    found = [score(items, context, lengths) for _ in range(2)]
    import scores  # type: ignore[import-not-found]

    assert scores.calls == [IDS, [[2, 1], [0]], [[2, 1], [0]]]
    assert {type(item) for history in scores.calls[1] for item in history} == {int}
    assert found[0].tolist() == found[1].tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]


def test_a_class_is_a_callable_too(make) -> None:
    """A class takes the item ids in `__init__` and the histories in `__call__`."""
    model = make(
        "class score:\n    def __init__(self, item_ids):\n        self.n = len(item_ids)\n\n"
        "    def __call__(self, histories):\n        return [[len(history)] * self.n for history in histories]\n"
    )
    assert model.logits([[1, 2], [3]]).tolist() == [[2.0] * 4, [1.0] * 4]


@pytest.mark.parametrize(
    "result",
    [
        "np.ones((len(histories), 4), np.float64)",
        "np.ones((len(histories), 4), np.float16)",
        "np.ones((len(histories), 4), np.int64)",
        "torch.ones(len(histories), 4)",
        "torch.nn.Parameter(torch.ones(len(histories), 4)) * 1",
        "[[1, 1, 1, 1] for _ in histories]",
        "np.broadcast_to(np.float32(1), (len(histories), 4))",
    ],
)
def test_any_real_numbers_are_float32_scores(make, result: str) -> None:
    """Arrays, tensors on the CPU and lists of any real type give float32 scores that can be changed."""
    found = make(returning(result)).logits([[0], [1]])
    assert found.dtype == torch.float32
    assert found.add_(1).tolist() == [[2.0] * 4] * 2


def test_the_functions_own_array_stays_as_it_is(make) -> None:
    """A change of the scores does not change the function's own array."""
    model = make(returning("KEPT") + "\n\nKEPT = np.zeros((1, 4), np.float32)\n")
    model.logits([[0]]).fill_(-torch.inf)
    assert model.logits([[0]]).tolist() == [[0.0] * 4]


def test_a_ruled_out_item_has_no_probability_and_a_finite_log_probability(make) -> None:
    """−inf becomes a number far below the row's finite scores, which keep their values."""
    model = make(returning("np.array([[0, -500, -np.inf, 1], [-np.inf, -np.inf, 2, -np.inf]])"))
    found = model.logits([[0], [1]])
    assert found[0].tolist() == [0, -500, -500 - RULED_OUT, 1]
    assert found.log_softmax(1).isfinite().all()
    assert found[1].softmax(0).tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("np.ones((len(histories), 3))", r"shape \[2, 4\] \(histories, items\), found float64 of the shape \[2, 3\]"),
        ("np.ones(4)", r"shape \[2, 4\] .*, found float64 of the shape \[4\]"),
        ("[None for _ in histories]", r"real numbers .*, found object"),
        ("np.full((2, 4), 'x')", r"real numbers .*, found <U1"),
        ("np.ones((2, 4)) * 1j", r"real numbers .*, found complex128"),
        ("np.ones((2, 4)) > 0", r"real numbers .*, found bool"),
        ("np.array([[0, 0, 0, 0], [0, np.nan, 0, 0]])", "found nan for item 'b' after history 1 of 2 .1 histories"),
        ("np.array([[0, 0, np.inf, 0]] * 2)", "found inf for item 'c' after history 0 of 2 .2 histories"),
        ("np.full((2, 4), 1e60)", r"finite in float32, .*found 1e\+60 for item 'a' after history 0"),
        ("np.full((2, 4), -np.inf)", "or −inf for some of the items, found -inf for item 'a'"),
        ("1 / 0", r"failed with 2 histories: ZeroDivisionError: division by zero \(.*scores.py, line 6\)"),
        ("[[1, 2, 3, 4], [1]]", "failed with 2 histories: ValueError: .*inhomogeneous"),
    ],
)
def test_what_are_no_scores_is_told(make, result: str, message: str) -> None:
    """The error names the function, what was expected and what was found, and the place of an exception."""
    with pytest.raises(ModelError, match=rf"teacher function scores:score .*{message}"):
        make(returning(result)).logits([[0], [1]])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def score(item_ids):\n    return 3\n", "must return a callable that scores histories, found a int"),
        (
            "def score(item_ids):\n    return item_ids.shape\n",
            r"failed with the item ids: AttributeError: .*shape.* \(.*scores.py, line 2\)",
        ),
    ],
)
def test_a_callable_that_makes_no_function_is_told(make, source: str, message: str) -> None:
    """A `score` that scores at once or fails is an error that says what it must return."""
    with pytest.raises(ModelError, match=message):
        make(source).logits([[0]])


@pytest.mark.parametrize(
    ("function", "source", "message"),
    [
        ("no_such_shop.scores:score", "", "no_such_shop.scores, but there is no no_such_shop in .* or install it"),
        ("scores.deep:score", "x = 1\n", "scores.deep, but there is no scores.deep"),
        ("scores:scor", NEXT, r"scores:scor does not exist: .*scores.py has no scor. Its callables: score$"),
        ("scores:score", "score = 3\n", "must be a function or a class that takes the item ids, found a int"),
        ("scores:score", "import no_such_library\n", r"cannot be imported: ModuleNotFoundError: .*scores.py, line 1"),
        ("scores:score", "1 / 0\n", r"cannot be imported: ZeroDivisionError: division by zero \(.*scores.py, line 1"),
        ("scores:score", "def score(:\n", r"cannot be imported: SyntaxError: .*scores.py, line 1"),
    ],
)
def test_a_path_that_leads_nowhere_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, source: str, message: str
) -> None:
    """The error says whether the module, the name or the import is wrong, and where."""
    write_modules(tmp_path, monkeypatch, {"scores.py": source})
    with pytest.raises(ConfigError, match=message):
        load_function(function)


def test_it_survives_its_files_and_does_not_serve(make, tmp_path: Path) -> None:
    """A loaded function gives the same scores, has unknown sizes and the source's version, and cannot be a student."""
    model = make(NEXT)
    facts = save_function(tmp_path, model, {"seed": None}, version="0123456789ab")
    loaded, read = load_predictor(tmp_path)
    assert read == facts
    assert facts["version"] == "0123456789ab"
    assert facts["options"] == {"kind": "function", "function": "scores:score", "max_length": 50}
    assert {facts[name] for name in ("parameters", "bytes", "item_table_bytes")} == {None}
    assert isinstance(loaded, ScoringFunction)
    assert loaded.item_ids == IDS
    assert loaded.logits([[2, 1]]).argmax() == model.logits([[2, 1]]).argmax() == 2
    assert not serves(tmp_path)
    with pytest.raises(
        ModelError, match=r"must be a sequence model, found the function scores:score. It can only teach"
    ):
        load_model(tmp_path)


def test_a_function_is_imported_when_scores_are_needed(make, tmp_path: Path) -> None:
    """A function's metadata can be read without its module."""
    save_function(tmp_path, make("1 / 0\n"), {}, version="v")
    assert load_predictor(tmp_path)[0].num_items == 4
