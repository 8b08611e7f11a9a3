"""The query encoder: its tokens, its files and its training."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from kdlib.errors import ModelError
from kdlib.losses.rank_distillation import margin_mse
from kdlib.search.distil import held_out, search_distillation, train_epoch
from kdlib.search.student import (
    STUDENT_FILE,
    WEIGHTS,
    QueryEncoder,
    QueryTokens,
    encode_queries,
    load_student,
    save_student,
)


@pytest.fixture(scope="module")
def tokenizer() -> str:
    """A WordPiece tokenizer with a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = ["[PAD]", "[UNK]", "red", "blue", "boots", "lamp", "lap", "##top", "4"]
    made = Tokenizer(models.WordPiece({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made.to_str()


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
def test_a_query_has_one_vector_whatever_stands_beside_it(kind: str, tokenizer: str) -> None:
    """Padding does not change a vector, vectors have length 1, and every text has one, even without letters."""
    torch.manual_seed(1)
    model, tokens = QueryEncoder(vocabulary=9, width=8, out=6, kind=kind).eval(), QueryTokens(tokenizer)  # type: ignore[arg-type]
    queries = ["red boots", "laptop", "lamp " * 500, "😀", "", "'; DROP TABLE products; --"]
    together = encode_queries(model, tokens, queries)
    alone = torch.cat([encode_queries(model, tokens, [query]) for query in queries])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(len(queries)))


def test_tokens_know_what_they_do_not_know(tokenizer: str) -> None:
    """Tokens know a query's share of unknown sub-words and the teacher's words."""
    tokens = QueryTokens(tokenizer, ["lamp"])
    assert tokens.unknown_share("red 😀") == 0.5
    assert tokens.unknown_share("") == 0.0
    assert tokens.is_word("lamp")
    assert not tokens.is_word("laptop")


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
def test_the_student_starts_as_the_teachers_embeddings(kind: str) -> None:
    """At the teacher's full width, a query of one token starts near the direction of the token's embedding."""
    torch.manual_seed(1)
    embeddings = torch.randn(9, 8)
    model = QueryEncoder(vocabulary=9, width=8, out=8, kind=kind).eval()  # type: ignore[arg-type]
    model.start_from(embeddings)
    torch.testing.assert_close(model.projection(model.tokens.weight), embeddings, atol=1e-4, rtol=1e-3)
    found_QE = model(torch.arange(9)[:, None], torch.ones(9, dtype=torch.int64))
    assert F.cosine_similarity(found_QE, embeddings).min() > 0.5


def test_a_student_may_start_from_fewer_sub_words_than_its_width() -> None:
    """A tiny shop has few sub-words. The start is then exact."""
    embeddings = torch.randn(5, 12, generator=torch.Generator().manual_seed(1))
    model = QueryEncoder(vocabulary=5, width=8, out=12)
    model.start_from(embeddings)
    torch.testing.assert_close(model.projection(model.tokens.weight), embeddings, atol=1e-4, rtol=1e-3)


def test_loss_is_zero_at_the_teacher_and_teaches_the_student_alone() -> None:
    """All three parts are zero at equality, and no gradient reaches the teacher."""
    torch.manual_seed(1)
    teacher = F.normalize(torch.randn(4, 6), dim=1).requires_grad_()
    products = F.normalize(torch.randn(10, 6), dim=1)
    assert search_distillation(teacher.detach(), teacher, products).item() == pytest.approx(0.0, abs=1e-6)
    student = F.normalize(torch.randn(4, 6), dim=1).requires_grad_()
    loss = search_distillation(student, teacher, products)
    loss.backward()
    assert loss.item() > 0
    assert student.grad is not None
    assert teacher.grad is None


def test_loss_is_the_weighted_sum_of_its_three_parts() -> None:
    """The parts are 1 − cosine, the divergence of the lists, and the squared differences of the margins."""
    torch.manual_seed(1)
    student, teacher, products = (F.normalize(torch.randn(count, 6), dim=1) for count in (4, 4, 10))
    ours, theirs = student @ products.T, teacher @ products.T
    q, p = ((scores / 0.1).softmax(1) for scores in (ours, theirs))
    margins = ours[:, :5] - ours[:, 5:] - (theirs[:, :5] - theirs[:, 5:])
    apart, listwise = 1 - (student * teacher).sum(1), (p * (p / q).log()).sum(1)
    found = search_distillation(student, teacher, products, temperature=0.1, listwise_weight=2.0, margin_weight=3.0)
    torch.testing.assert_close(found, (apart + 2.0 * listwise + 3.0 * margins.square().mean(1)).mean())


def test_margin_mse_by_hand() -> None:
    """Margins 1 and 3 against 2 and 3 give (1 + 0) / 2, and no margins give 0."""
    assert margin_mse(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 3.0])).item() == 0.5
    assert margin_mse(torch.zeros(2, 0), torch.zeros(2, 0)).tolist() == [0.0, 0.0]


class _Engine:
    """The part of DeepSpeed's engine that `train_epoch` needs."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.optimizer = model, torch.optim.AdamW(model.parameters(), lr=0.01)

    def train(self) -> None:
        self.model.train()

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model(*inputs)

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()


def test_the_student_learns_the_teachers_answers(tokenizer: str) -> None:
    """After some epochs on a few queries, the student's vectors are near the teacher's."""
    torch.manual_seed(1)
    queries = ["red", "blue", "boots", "lamp", "red boots", "blue boots", "red lamp", "blue lamp"]
    teacher = F.normalize(torch.randn(len(queries), 6), dim=1)
    products = F.normalize(torch.randn(30, 6), dim=1)
    model, tokens = QueryEncoder(vocabulary=9, width=8, out=6), QueryTokens(tokenizer)
    engine = _Engine(model)
    losses = [
        train_epoch(
            engine,
            queries,
            teacher.numpy(),
            products,
            tokens,
            batch_size=4,
            products_per_step=20,
            misspelt_fraction=0.0,
            learning_rate=lambda step: 0.01,
            first_step=0,
            seed=epoch,
            device=torch.device("cpu"),
        )["loss"]
        for epoch in range(60)
    ]
    assert losses[-1] < 0.3 * losses[0]
    cosines = F.cosine_similarity(encode_queries(model.eval(), tokens, queries), teacher)
    assert cosines.mean() > 0.9


def test_files_give_the_same_answers_and_a_damaged_one_is_refused(tmp_path: Path, tokenizer: str) -> None:
    """A saved and loaded student gives the same vectors, and changed weights are an error because of their version."""
    torch.manual_seed(1)
    model = QueryEncoder(vocabulary=9, width=8, out=6).eval()
    save_student(tmp_path, model.options, model.state_dict(), tokenizer, ["lamp"], {"teacher": "t"})
    loaded, tokens, facts = load_student(tmp_path)
    torch.testing.assert_close(
        encode_queries(loaded, tokens, ["red boots"]), encode_queries(model, QueryTokens(tokenizer), ["red boots"])
    )
    assert tokens.is_word("lamp")
    assert facts["parameters"] == sum(one.numel() for one in model.parameters())
    assert json.loads((tmp_path / STUDENT_FILE).read_text())["teacher"] == "t"
    raw = bytearray((tmp_path / WEIGHTS).read_bytes())
    raw[-1] ^= 1
    (tmp_path / WEIGHTS).write_bytes(bytes(raw))
    with pytest.raises(ModelError, match=r"search student in .* is damaged or incomplete.*train-search"):
        load_student(tmp_path)


def test_one_query_in_fifty_is_held_out() -> None:
    """The choice depends only on the query's text, so every worker holds out the same queries."""
    assert 10 < sum(held_out(f"query {number}") for number in range(1_000)) < 35
    assert [number for number in range(200) if held_out(f"query {number}")] == [109, 148, 180, 183, 195]
