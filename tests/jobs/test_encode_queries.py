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
from tests.search.dictd import write_dictionary

GERMAN = {"Drucker": "printer", "Maus": "mouse", "rot": "red", "Vogel": "bird", "Tintenmaus": "mouse, red"}


def _vector(text: str) -> np.ndarray:
    """A vector of length 1 for each text."""
    found = np.random.default_rng(int.from_bytes(text.encode()[:8], "big")).standard_normal(200)
    return (found / np.linalg.norm(found)).astype(np.float32)


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
    return calls


def _build(folder: Path, settings: SearchConfig) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    job: Any = SimpleNamespace(
        config=SimpleNamespace(search=settings, seed=1, name="shop"),
        input=lambda name: folder,
        inputs={},
        found="teacher",
        output=folder,
        outputs={"search_targets": folder},
    )
    details = encode_queries.build(job)["search_targets"]
    rows = pq.read_table(folder / "part-00000.parquet").to_pylist()
    assert len(rows) == sum(details.values())
    return {row["query"]: np.array(row["vector"], np.float32) for row in rows}, details


def test_queries_of_other_languages_have_the_vector_of_what_they_mean(
    tmp_path: Path, asked: list[tuple[str, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student also gets words of the dictionary, and translated queries. The teacher reads none of them."""
    pytest.importorskip("wordfreq")
    dictionary = write_dictionary(tmp_path / "dictionary", "german", GERMAN)
    monkeypatch.setattr(encode_queries, "typed_queries", lambda inputs: ["drucker", "red mouse", "prnter"])
    found, details = _build(tmp_path, SearchConfig(languages={"de": str(dictionary)}, catalogue_queries=40))
    assert details["typed"] == 2, "a typed word of the language has its meaning, too"
    rows = pq.read_table(tmp_path / "part-00000.parquet").to_pylist()
    foreign = {row["query"]: row["foreign"] for row in rows}
    assert foreign["drucker"]
    assert not any(foreign[query] for query in ("prnter", "red mouse", "acme printer", "ink"))
    for said, meant in (
        ("drucker", "printer"),
        ("maus", "mouse"),
        ("acme drucker", "acme printer"),
        ("norvik rot", "norvik red"),
    ):
        np.testing.assert_allclose(found[said], _vector(meant), atol=1e-6)
    both = 2 * _vector("mouse") + 4 * _vector("red")  # two products are mice, and four are red
    np.testing.assert_allclose(found["tintenmaus"], both / np.linalg.norm(both), atol=1e-6)
    assert "vogel" not in found, "no product is a bird"
    [(table, texts)] = asked
    assert table == "search_targets"
    assert not any("maus" in text or "drucker" in text for text in texts)
    assert details["foreign"] > 5


def test_without_other_languages_there_are_the_catalogues_queries(
    tmp_path: Path, asked: list[tuple[str, list[str]]]
) -> None:
    """Then no foreign word is learnt."""
    found, details = _build(tmp_path, SearchConfig(catalogue_queries=40))
    assert "printer" in found
    np.testing.assert_array_equal(found["printer"], _vector("printer"))
    assert "drucker" not in found
    assert details["foreign"] == 0
    assert [table for table, _ in asked] == ["search_targets"]
