"""The training queries of the search student, without Ray and without an encoder."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import encode_queries
from kdlib.config.operations import SearchConfig

MEANINGS = {"printer": "drucker", "mouse": "maus", "red": "rot"}


def _vector(text: str) -> np.ndarray:
    """The same vector for a word and its translation, beside a number that says the language."""
    spoken = {german: english for english, german in MEANINGS.items()}
    seed = int.from_bytes(spoken.get(text, text).encode()[:8], "big")
    return np.append(np.random.default_rng(seed).standard_normal(200), 30.0 * (text in spoken)).astype(np.float32)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """The table and the texts of each call of the encoder, which answers with `_vector`."""
    calls: list[tuple[str, list[str]]] = []

    def encode(
        config: Any, text: Any, encoder: str, texts: Sequence[str], kind: str, *, table: str, max_tokens: int
    ) -> Any:
        calls.append((table, list(texts)))
        return pa.array([_vector(one) for one in texts], pa.list_(pa.float32()))

    titles = ["Acme red printer X200", "Norvik red mouse", "Acme printer red", "Norvik mouse red"]
    products = pa.table({"title": titles, "description": [None] * 4, "category": ["Printer", "Mouse", None, None]})
    monkeypatch.setattr(encode_queries, "encode", encode)
    monkeypatch.setattr(encode_queries, "read_products", lambda folder: products)
    monkeypatch.setattr(encode_queries, "words_file", lambda encoder: encoder)
    monkeypatch.setattr(encode_queries, "known_words", lambda file: ["ink"])
    monkeypatch.setattr(encode_queries, "frequent_words", lambda language: [*MEANINGS.values(), "vogel", "haus"])
    return calls


def _build(folder: Path, settings: SearchConfig) -> tuple[list[str], dict[str, Any]]:
    job: Any = SimpleNamespace(
        config=SimpleNamespace(search=settings, seed=1, name="shop"),
        input=lambda name: folder,
        inputs={},
        found="teacher",
        output=folder,
        outputs={"search_targets": folder},
    )
    details = encode_queries.build(job)
    table = pq.read_table(folder / "part-00000.parquet")
    assert all(np.array_equal(row["vector"], _vector(row["query"])) for row in table.to_pylist())
    return table["query"].to_pylist(), details


def test_queries_of_other_languages_follow_the_catalogues(tmp_path: Path, asked: list[tuple[str, list[str]]]) -> None:
    """The student also gets the frequent words of each language, and queries that the teacher's vectors translate."""
    queries, details = _build(tmp_path, SearchConfig(languages=("de",), catalogue_queries=40))
    assert {"printer", "acme printer", "drucker", "vogel"} <= set(queries)
    assert {"acme drucker", "norvik maus"} <= set(queries)
    assert len(queries) == len(set(queries)) == details["search_targets"]["made_up"]
    assert [table for table, _ in asked] == ["search_targets", "search_targets_translated"]


def test_without_other_languages_there_are_the_catalogues_queries(
    tmp_path: Path, asked: list[tuple[str, list[str]]]
) -> None:
    """Then the teacher is asked once, and no foreign word is learnt."""
    queries, _ = _build(tmp_path, SearchConfig(catalogue_queries=40))
    assert "printer" in queries
    assert "drucker" not in queries
    assert [table for table, _ in asked] == ["search_targets"]
