"""Encoders of the user's own."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from kdlib.encoders.encoder import TextVectors, hugging_face_folder, known_width, open_encoder
from kdlib.errors import ConfigError, ModelError
from tests.own_modules import write_modules

MODULE = """
import numpy as np
CALLS = []
def encode(texts):
    CALLS.append(len(texts))
    return np.array([[len(text), text.count("a"), 2] for text in texts], np.float64)
class Both:
    def query(self, texts):
        return [[3.0, 4.0]] * len(texts)
    def passage(self, texts):
        return [[0, 2]] * len(texts)
class Half:
    def query(self, texts):
        return [[3.0, 4.0]] * len(texts)
class Broken:
    def __init__(self):
        raise RuntimeError("no model here")
def nothing(texts):
    return [[0.0, 0.0]] * len(texts)
def raises(texts):
    raise KeyError("model")
def flat(texts):
    return [1.0] * len(texts)
def words(texts):
    return [["a", "b"]] * len(texts)
def fewer(texts):
    return [[1.0, 2.0]] * (len(texts) - 1)
def ragged(texts):
    return [[1.0] * (1 + number) for number, _ in enumerate(texts)]
def wider(texts):
    return [[1.0] * len(texts)] * len(texts)
def nan(texts):
    return [[1.0, float("nan")]] + [[1.0, 1.0]] * (len(texts) - 1)
NUMBER = 3
"""


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder, with a module of encoders."""
    write_modules(tmp_path, monkeypatch, {"my_shop.py": MODULE})


def opened(name: str, *, batch_size: int = 2):
    return open_encoder(f"my_shop:{name}", max_tokens=2, batch_size=batch_size)


def test_a_function_encodes_in_batches_to_length_1() -> None:
    """Texts are cut at 4 characters a token, and go to the function `batch_size` at a time."""
    encoder = opened("encode")
    vectors = encoder.passages(["aa", "b" * 100, "ca"])
    np.testing.assert_allclose(vectors, [[0.577, 0.577, 0.577], [0.970, 0, 0.243], [0.667, 0.333, 0.667]], atol=1e-3)
    assert vectors.dtype == np.float32
    assert encoder.width == 3
    assert np.array_equal(encoder.queries(["ca"]), vectors[2:])
    assert encoder.queries([]).shape == (0, 3)
    import my_shop  # pyright: ignore[reportMissingImports]

    assert my_shop.CALLS == [2, 1, 1]


def test_an_object_reads_queries_and_passages_in_two_ways() -> None:
    """A class with `query` and `passage` is made once. A vector of zeros stays zero."""
    encoder = opened("Both")
    np.testing.assert_allclose(encoder.queries(["a"]), [[0.6, 0.8]])
    assert encoder.passages(["a"]).tolist() == [[0, 1]]
    assert opened("nothing").queries(["a"]).tolist() == [[0, 0]]


def test_items_without_a_title_never_reach_the_function() -> None:
    """The actor gives them zeros, also in a batch without any title."""
    actor = TextVectors("my_shop:Both", "queries", max_tokens=8, batch_size=4, threads=1)
    table = actor(pa.table({"item_index": pa.array([0, 1, 2], pa.int32()), "title": ["a", None, " "]}))
    np.testing.assert_allclose(table["vector"].to_pylist(), [[0.6, 0.8], [0, 0], [0, 0]], rtol=1e-6)
    table = actor(pa.table({"item_index": pa.array([3], pa.int32()), "title": [""]}))
    assert table["vector"].to_pylist() == [[0, 0]]


def test_a_function_has_no_folder_and_no_known_width() -> None:
    """Its name says nothing about weights."""
    assert hugging_face_folder("my_shop:encode") is None
    assert known_width("my_shop:encode") is None


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("encoed", ConfigError, r"encoder function my_shop:encoed does not exist: .*my_shop.py has no encoed"),
        ("NUMBER", ConfigError, r"my_shop:NUMBER must be a function of texts, or a class .* found a int"),
        ("Half", ConfigError, r"my_shop:Half must be .* with the methods query and passage, found a Half"),
        ("Broken", ModelError, r"my_shop:Broken failed without arguments: RuntimeError: no model here .*my_shop.py"),
        ("raises", ModelError, r"my_shop:raises failed with 2 texts: KeyError: 'model' .*my_shop.py, line \d+"),
        ("flat", ModelError, r"my_shop:flat must return real numbers of the shape \[2, 'any width'\] .* shape \[2\]"),
        ("words", ModelError, r"my_shop:words must return real numbers .*, found <U1"),
        ("fewer", ModelError, r"my_shop:fewer must return real numbers .* of the shape \[1, 2\]"),
        ("ragged", ModelError, r"my_shop:ragged must return vectors of one width for 2 texts"),
        ("wider", ModelError, r"my_shop:wider must return vectors of the width 2, as before, found the width 1"),
        ("nan", ModelError, r"my_shop:nan must return finite numbers, found NaN or infinity in .* 1 of 2 texts"),
    ],
)
def test_what_is_wrong_is_told(name: str, error: type[Exception], message: str) -> None:
    """The error names the function, what was expected and what was found."""
    with pytest.raises(error, match=message):
        opened(name).queries(["a", "b", "c"])


def test_a_module_that_is_not_there_is_told() -> None:
    """The error says where the module was looked for."""
    with pytest.raises(ConfigError, match=r"encoder function no_shop:encode needs the module no_shop, but there is no"):
        open_encoder("no_shop:encode", max_tokens=2, batch_size=2).queries(["a"])
