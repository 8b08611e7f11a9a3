"""Search in an index of a few products: the answers and their notes."""

import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional as F

from jobs.runtime.product_search import _ndcg, _without_unavailable
from kdlib.search.fusion import Weights
from kdlib.search.index import SearchIndex, build_index, load_index
from kdlib.search.student import QueryEncoder, encode_queries, save_student

TITLES = ["printer printer printer", "red printer stand", "printer cable, two metres long", "desk lamp", "lamp", "sofa"]
PRODUCTS = pa.table(
    {
        "item_id": [f"p{number}" for number in range(6)],
        "title": TITLES,
        "description": pa.nulls(6, pa.string()),
        "category": ["office", "office", "cable", "light", "light", "sofa"],
        "available": [False, True, True, True, True, False],
    }
)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SearchIndex:
    """An index that scores by words and histories only, with an untrained student."""
    folder, student = tmp_path_factory.mktemp("index"), tmp_path_factory.mktemp("student")
    torch.manual_seed(1)
    made = Tokenizer(models.WordPiece({"[PAD]": 0, "[UNK]": 1, "bright": 2, "!": 3}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    model = QueryEncoder(vocabulary=4, width=8, out=6).eval()
    facts = {"teacher": "t", "history_weight": 2.0}
    save_student(student, model.options, model.state_dict(), made.to_str(), ["bright"], facts)
    vectors = F.normalize(torch.randn(6, 6), dim=1)
    build_index(folder, PRODUCTS, vectors, language="english", weights=Weights(0.0, 0.0), seed=1, facts=facts)
    return load_index(folder, student)


def test_only_what_may_be_shown_decides(index: SearchIndex) -> None:
    """The best available product has lexical score 1, also within a category.

    A word that only unavailable products have counts as a word of no product.
    """
    first, second = index.answer(["printer", "sofa"], k=9)
    assert first.places.tolist()[:2] == [1, 2]
    assert first.scores[0] == 1.0 > first.scores[1] > first.scores[2] == 0.0
    assert not second.places.size
    assert second.note.startswith("not understood")
    (cables,) = index.answer(["printer"], k=9, category="cable")
    assert (cables.places.tolist(), cables.scores.tolist(), cables.note) == ([2], [1.0], "")
    (bright,) = index.answer(["bright"], k=9, category="light")
    assert (set(bright.places.tolist()), bright.note[:28]) == ({3, 4}, "no product has these words: ")


def test_where_there_is_nothing_to_search_or_to_show_it_is_said(index: SearchIndex) -> None:
    """A query without letters and digits, and a category without available products, get an empty answer with a note."""
    for answer in index.answer(["!!!", "😀", "", " "], k=3):
        assert not answer.places.size
        assert answer.note == "nothing to search for: the query has no letters or digits"
    (sold_out,) = index.answer(["sofa"], k=3, category="sofa")
    assert (sold_out.places.size, sold_out.note) == (0, "none of the products is available")


def test_odd_queries_get_an_ordinary_answer(index: SearchIndex) -> None:
    """Full-width letters, mixed scripts, emoji beside words, SQL and very long texts neither fail nor lose the known word."""
    queries = [
        "ｐｒｉｎｔｅｒ",
        "printer打印机",
        "🖨️ printer 😀",
        "'; DROP TABLE printer; --",
        "printer " * 2_000,
        "pri\u200bnter\0",
    ]
    for answer in index.answer(queries, k=3):
        assert answer.places[0] == 1, answer.query
    (long,) = index.answer(["x" * 10_000], k=3)
    assert not long.places.size
    assert long.note.startswith("not understood")


def test_clicks_judge_what_is_answered(index: SearchIndex) -> None:
    """A misspelt query is judged in its corrected form, and only on available products."""
    clicks = {"pritner": {0: 9.0, 1: 1.0}, "sofa": {5: 2.0}}
    gains = _without_unavailable(clicks, PRODUCTS)
    assert gains == {"pritner": {1: 1.0}}
    assert _ndcg(index, gains, Weights(0.0, 0.0)) == 1.0
    assert _ndcg(index, {"pritner": {4: 1.0}}, Weights(0.0, 0.0)) < 0.5


def test_other_weights_stand_in_for_the_index_s_own(index: SearchIndex) -> None:
    """With a weight for the vector, the score adds the weighted cosines to the lexical part."""
    lexical_QV, found_QV = index.scores(["printer"], weights=Weights(3.0, 0.0))
    cosines_QV = encode_queries(index._model, index._tokens, ["printer"]) @ index._vectors_VE.T
    torch.testing.assert_close(found_QV, lexical_QV + 3.0 * cosines_QV)


def test_a_history_ranks_the_first_products_again(index: SearchIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """The likeness to the viewed items is added to the score. Later products do not overtake, unknown items do not count."""
    (plain,) = index.answer(["printer"], k=4)
    (found,) = index.answer(["printer"], k=4, history=["p4", "gone", "p0"])
    profile_E = F.normalize(index._vectors_VE[4] + index._vectors_VE[0], dim=0)
    liked = dict(zip(plain.places.tolist(), plain.scores, strict=True))
    liked = {place: score + 2.0 * float(index._vectors_VE[place] @ profile_E) for place, score in liked.items()}
    assert found.places.tolist() == sorted(liked, key=lambda place: -liked[place]) != plain.places.tolist()
    assert found.scores.tolist() == pytest.approx(sorted(liked.values(), reverse=True))
    monkeypatch.setattr("kdlib.search.index.RERANKED", 2)
    (first_two,) = index.answer(["printer"], k=2, history=["p4"])
    assert set(first_two.places.tolist()) == {1, 2}
    (unknown,) = index.answer(["printer"], k=4, history=["gone"])
    assert (unknown.places.tolist(), unknown.scores.tolist()) == (plain.places.tolist(), plain.scores.tolist())
