"""The stand-ins for the teachers are what their names say."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from kdlib.data.batches import WindowStore, batch_of
from kdlib.losses.distillation import kl_divergence
from kdlib.models.sequence import SequenceModel
from kdlib.training.module import NextItemTraining
from kdlib.training.stand_ins import (
    COUNT_FLOOR,
    permute_teacher_states,
    popularity_teacher,
    stateless_teacher,
    uniform_teacher,
)
from kdlib.training.student_setup import item_counts

CPU = torch.device("cpu")


def _store(positions: int = 40) -> WindowStore:
    """Windows of 4 positions; two teachers of width 3 and 2, whose states name their position."""
    number = np.arange(positions)
    return WindowStore(
        inputs=number.astype(np.int32),
        targets=(number + 1).astype(np.int32),
        context=np.zeros((positions, 3), np.int8),
        offsets=np.arange(0, positions + 1, 4),
        hidden=np.repeat(number[:, None], 5, axis=1).astype(np.int8),
        scales=np.repeat(number[:, None], 2, axis=1).astype(np.float32),
    )


def test_permuted_is_a_permutation_of_whole_rows() -> None:
    """Every state occurs once, nearly all at another place, hidden rows and scales of all teachers together."""
    store = _store()
    mixed = permute_teacher_states(store, seed=3)
    assert mixed.hidden is not None
    assert mixed.scales is not None
    assert sorted(mixed.hidden[:, 0].tolist()) == list(range(40))
    assert (mixed.hidden == mixed.hidden[:, :1]).all()
    assert (mixed.scales == mixed.hidden[:, :2]).all()
    assert (mixed.hidden[:, 0] != np.arange(40)).mean() > 0.8


def test_permuted_leaves_the_data_and_repeats_itself() -> None:
    """Items, targets and the given store stay as they are; a seed fixes the exchange and another seed changes it."""
    store = _store()
    mixed, again, other = (permute_teacher_states(store, seed=seed) for seed in (3, 3, 4))
    assert store.hidden is not None
    assert store.hidden[:, 0].tolist() == list(range(40))
    assert (mixed.inputs == store.inputs).all()
    assert (mixed.targets == store.targets).all()
    rows, same, different = (np.array(one.hidden)[:, 0].tolist() for one in (mixed, again, other))
    assert rows == same
    assert rows != different


def test_permuted_needs_teacher_states() -> None:
    """Windows without cached states are an error, not a stand-in that does nothing."""
    bare = WindowStore(*(np.zeros(1, np.int32) for _ in range(4)))
    with pytest.raises(ValueError, match="needs cached teacher states"):
        permute_teacher_states(bare, seed=1)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_uniform_gives_equal_probabilities(temperature: float) -> None:
    """At each position every item has the probability 1 / V, whatever the cached states are."""
    teacher = uniform_teacher(7, device=CPU)
    scored = teacher.scored(batch_of(_store(), np.arange(3)))
    probs_TV = (scored.logits() / temperature).softmax(1)
    assert probs_TV.shape == (12, 7)
    assert torch.allclose(probs_TV, torch.full((12, 7), 1 / 7))


def test_popularity_equals_the_counts() -> None:
    """At temperature 1 the probabilities are the shares of the counts; an item without any counts as the floor."""
    counts = np.array([6, 0, 1, 3])
    teacher = popularity_teacher(counts, device=CPU)
    scored = teacher.scored(batch_of(_store(), np.array([2])))
    probs_TV = scored.logits().softmax(1)
    floored = np.array([6, COUNT_FLOOR, 1, 3])
    assert probs_TV.numpy() == pytest.approx(np.tile(floored / floored.sum(), (4, 1)), rel=1e-5)


@pytest.mark.parametrize("counts", [[1, -1], [0, 0], []])
def test_popularity_needs_counts(counts: list[int]) -> None:
    """Negative or missing counts are an error that says what was expected."""
    with pytest.raises(ValueError, match="counts of training interactions"):
        popularity_teacher(np.array(counts, np.int64), device=CPU)


@pytest.mark.parametrize("stand_in", ["uniform", "popularity"])
def test_a_stand_in_replaces_the_cached_teachers_in_training(stand_in: str, tmp_path: Path) -> None:
    """The KL is between the stand-in's distribution and the student's, whatever states the batch has."""
    counts = np.arange(1, 42)
    statistics = {"item_index": pa.array(np.arange(41)[::-1], pa.int32()), "num_train": counts[::-1]}
    statistics["num_in_windows"] = np.zeros(41, np.int64)
    pq.write_table(pa.table(statistics), tmp_path / "part-00000.parquet")
    counts_V, _ = item_counts(str(tmp_path))
    assert counts_V.tolist() == counts.tolist()
    teacher = stateless_teacher(stand_in, counts_V, device=CPU)
    assert teacher is not None
    torch.manual_seed(0)
    student = SequenceModel(num_items=41, kind="gru", dim=8).eval()
    batch = batch_of(_store(), np.arange(4))
    found = NextItemTraining(student, cached=teacher, kl_weight=1.0, temperature=1.0)(batch)
    hidden_BLW = student(batch.items_BL, batch.context_BLC)
    logits_TV = hidden_BLW.flatten(0, 1)[batch.positions_T] @ student.head()[0].T
    shares_V = torch.full((41,), 1 / 41) if stand_in == "uniform" else torch.from_numpy(counts / counts.sum()).float()
    expected = kl_divergence(logits_TV, shares_V.log().expand_as(logits_TV)).sum()
    assert found.kl.item() == pytest.approx(expected.item(), rel=1e-4)
    assert expected > 0.01
