"""The same losses outside recommendation: a text classifier and a fraud model are distilled with few labels.

Classes take the place of items. Teachers give log-probabilities, students give logits.
"""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdlib.losses.distillation import kl_divergence, pooled_log_probs
from kdlib.losses.ranking import cross_entropy

TEMPERATURE = 2.0


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Tensors this small are faster with one thread, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _fit(
    student: nn.Module,
    labelled: tuple[Tensor, Tensor],
    *,
    unlabelled: Tensor | None = None,
    teacher_log_probs: Tensor | None = None,
    steps: int = 150,
    learning_rate: float = 0.02,
) -> nn.Module:
    """Cross-entropy on the labelled rows plus, with a teacher, the KL on the unlabelled ones."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=learning_rate, weight_decay=1e-3)
    for _ in range(steps):
        total = cross_entropy(student(labelled[0]), labelled[1]).mean()
        if unlabelled is not None and teacher_log_probs is not None:
            total = total + kl_divergence(student(unlabelled), teacher_log_probs, temperature=TEMPERATURE).mean()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return student.eval()


@torch.no_grad()
def _targets(teachers: list[nn.Module], rows: Tensor) -> Tensor:
    return pooled_log_probs([teacher(rows) for teacher in teachers], [1.0] * len(teachers), temperature=TEMPERATURE)


# a small language of reviews: "not" turns an opinion round, and each kind has many words, so that a dozen labels show few
GOOD = [
    "great",
    "lovely",
    "superb",
    "excellent",
    "delightful",
    "charming",
    "brilliant",
    "wonderful",
    "handy",
    "sturdy",
    "elegant",
    "reliable",
    "neat",
    "fresh",
]
BAD = [
    "awful",
    "dreadful",
    "broken",
    "useless",
    "shabby",
    "horrid",
    "flimsy",
    "annoying",
    "dull",
    "nasty",
    "faulty",
    "crude",
    "stale",
    "poor",
]
THINGS = [
    "lamp",
    "shoe",
    "kettle",
    "novel",
    "jacket",
    "phone",
    "chair",
    "brush",
    "tent",
    "clock",
    "mirror",
    "camera",
    "basket",
    "guitar",
]
FILLERS = ["really", "quite", "honestly", "perhaps", "today", "again", "somehow", "always", "clearly", "simply"]
WORDS = ["the", "is", "was", "i", "think", "not", *GOOD, *BAD, *THINGS, *FILLERS]
INDEX = {word: number for number, word in enumerate(WORDS)}
SENTENCE = 9


def _reviews(number: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Sentences as word indices [sentences, words], and labels: 1 for praise, 0 for blame."""
    generator = np.random.default_rng(seed)
    rows, labels = [], []
    for _ in range(number):
        praise, negated = generator.random() < 0.5, generator.random() < 0.25
        opinions = GOOD if praise != negated else BAD
        core = ["the", generator.choice(THINGS), generator.choice(["is", "was"]), *(["not"] if negated else [])]
        words = [*core, generator.choice(opinions), "and", generator.choice(opinions)]
        fill = generator.choice(FILLERS, SENTENCE - len(words) + 1)
        words = [word for word in words if word != "and"]
        rows.append([INDEX[word] for word in [*fill, *words]])
        labels.append(int(praise))
    return torch.tensor(rows), torch.tensor(labels)


class _Reader(nn.Module):
    """The larger text model: embeddings, a bidirectional GRU, the last states."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS), 24)
        self.layers = nn.GRU(24, 24, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 2)

    def forward(self, words_BL: Tensor) -> Tensor:
        return self.head(self.layers(self.embedding(words_BL))[0].amax(1))


class _BagOfEmbeddings(nn.Module):
    """The small text model: the mean of narrow word vectors and one hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS), 6)
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, words_BL: Tensor) -> Tensor:
        return self.layers(self.embedding(words_BL).mean(1))


def _accuracy(model: nn.Module, rows: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return (model(rows).argmax(1) == labels).float().mean().item()


def test_a_small_text_classifier_learns_from_a_larger_one() -> None:
    """With 16 labelled sentences, distillation improves a bag of embeddings by more than 25 points, for every seed."""
    torch.manual_seed(0)
    teacher = _fit(_Reader(), _reviews(300, seed=1), steps=30)
    unlabelled, _ = _reviews(400, seed=2)
    test = _reviews(1_000, seed=3)  # one standard error of an accuracy here is 1.6 points at most
    assert _accuracy(teacher, *test) > 0.95
    targets = _targets([teacher], unlabelled)
    for seed in range(3):
        few = _reviews(16, seed=10 + seed)
        torch.manual_seed(seed)
        plain = _accuracy(_fit(_BagOfEmbeddings(), few, steps=100), *test)
        torch.manual_seed(seed)
        taught = _fit(_BagOfEmbeddings(), few, unlabelled=unlabelled, teacher_log_probs=targets, steps=100)
        assert _accuracy(taught, *test) > plain + 0.25
        assert _accuracy(taught, *test) > 0.95


def _payments(number: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Payments as features [payments, 6] and labels. Fraud is large and at night, or from a new device far away."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(number, 6, generator=generator)
    amount, hour, device, distance = rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3]
    score = 2.5 * torch.minimum(amount, hour) + 2.5 * torch.minimum(device, distance) + 0.5
    return rows, (torch.sigmoid(2 * score) > torch.rand(number, generator=generator)).long()


class _Sigmoid(nn.Module):
    """A binary model with one logit, as two-class logits: softmax([0, s]) is (1 − σ(s), σ(s))."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def forward(self, rows: Tensor) -> Tensor:
        return F.pad(self.layers(rows), (1, 0))


def _log_loss(model: nn.Module, rows: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return cross_entropy(model(rows), labels).mean().item()


def test_two_class_logits_are_the_sigmoid() -> None:
    """The cross-entropy of the two-class logits is the binary cross-entropy of the one logit."""
    torch.manual_seed(0)
    model = _Sigmoid(6, 4)
    rows, labels = _payments(50, seed=0)
    binary = F.binary_cross_entropy_with_logits(model.layers(rows)[:, 0], labels.float())
    torch.testing.assert_close(cross_entropy(model(rows), labels).mean(), binary)


@pytest.fixture(scope="module")
def teachers(_one_thread: None) -> list[nn.Module]:
    """Two larger fraud models."""
    fitted = []
    for seed in range(2):
        torch.manual_seed(seed)
        fitted.append(_fit(_Sigmoid(6, 32, 32), _payments(3_000, seed=1 + seed), steps=80))
    return fitted


def test_a_small_fraud_model_learns_from_two_larger_ones(teachers: list[nn.Module]) -> None:
    """With 40 labelled payments, distillation from two teachers gives a far lower held-out log-loss."""
    unlabelled, _ = _payments(2_000, seed=5)
    test = _payments(4_000, seed=6)
    few = _payments(40, seed=7)
    torch.manual_seed(9)
    plain = _fit(_Sigmoid(6, 16), few)
    torch.manual_seed(9)
    taught = _fit(_Sigmoid(6, 16), few, unlabelled=unlabelled, teacher_log_probs=_targets(teachers, unlabelled))
    # the standard error of the plain model's log-loss, the larger one, is about 0.04
    assert _log_loss(taught, *test) < _log_loss(plain, *test) - 0.4
    assert _log_loss(taught, *test) < _log_loss(teachers[0], *test) + 0.15
    assert _accuracy(taught, *test) > _accuracy(plain, *test) + 0.05
