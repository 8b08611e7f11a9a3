"""Sampled targets: samples are unbiased, depend only on the window, and come from the model trained without the user."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from kdlib.data.batches import batch_of, store_from_tables
from kdlib.data.folds import fold_of
from kdlib.data.windows import training_windows
from kdlib.losses.distillation import pooled_log_probs
from kdlib.losses.scored import Scored
from kdlib.losses.sparse import Draws, cross_entropy_and_sampled_kl
from kdlib.models.files import load_model, save_model
from kdlib.models.sequence import SequenceModel
from kdlib.teachers import sparse
from kdlib.teachers.sparse import SampledTargetWriter, sample_targets
from kdlib.teachers.targets import states_at
from kdlib.training.module import NextItemTraining
from tests.data.test_windows import histories

ITEMS, SAMPLES = 40, 16


def test_draws_are_unbiased_and_even() -> None:
    """An item is sampled `floor(S·p)` or `ceil(S·p)` times, and `S·p` times on average over all offsets."""
    torch.manual_seed(0)
    probs = torch.softmax(3 * torch.randn(1, 30), 1)
    offsets = (torch.arange(4_000) + 0.5) / 4_000
    items = sample_targets(probs.expand(4_000, -1), samples=7, offsets_T=offsets)
    counts = torch.stack([(items == item).sum(1) for item in range(30)], 1).double()
    torch.testing.assert_close(counts.mean(0), 7 * probs[0].double(), rtol=0, atol=1e-3)
    assert ((counts - 7 * probs).abs() < 1).all()
    assert items.dtype == torch.int32
    assert items.shape == (4_000, 7)


def test_an_impossible_item_is_never_drawn() -> None:
    """Items of probability 0 are never sampled, even at the smallest and the largest offset, for any scale."""
    probs = torch.tensor([[0.0, 0.3, 0.0, 0.7, 0.0]]) * 5
    for offset in (0.0, float(np.nextafter(1.0, 0.0))):
        items = sample_targets(probs, samples=10, offsets_T=torch.tensor([offset], dtype=torch.float64))
        assert set(items.flatten().tolist()) == {1, 3}


@pytest.mark.parametrize(("samples", "offset"), [(0, 0.5), (4, 1.0), (4, -0.1), (4, float("nan"))])
def test_what_cannot_be_drawn_is_refused(samples: int, offset: float) -> None:
    """No samples, or an offset outside [0, 1), is an error."""
    with pytest.raises(ValueError, match="at least one sample"):
        sample_targets(torch.ones(1, 3), samples=samples, offsets_T=torch.tensor([offset]))


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, list[list[Path]]]:
    """Windows of nine users, the folder of a plain teacher, and the folders of a teacher with two folds."""
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    table = histories([(generator.integers(0, ITEMS, 12).tolist(), [0] * 12, 12, None, None) for _ in range(9)])
    folders = [tmp_path_factory.mktemp(name) for name in ("plain", "fold0", "fold1")]
    for number, folder in enumerate(folders):
        model = SequenceModel(num_items=ITEMS, kind="gru", dim=8 + number)
        with torch.no_grad():
            model.head()[0].mul_(3)
        save_model(folder, model, model.state_dict(), {})
    return training_windows(table, max_length=5), [folders[:1], folders[1:]]


def _writer(folders: list[list[Path]], samples: int = SAMPLES, batch_size: int = 4) -> SampledTargetWriter:
    names = [[str(folder) for folder in of_teacher] for of_teacher in folders]
    return SampledTargetWriter(
        names, [1.0, 3.0], temperature=2.0, samples=samples, seed=1, threads=1, batch_size=batch_size
    )


def test_targets_come_from_all_teachers_without_the_users_own_fold(
    cached: tuple[pa.Table, list[list[Path]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many samples, their shares are what the plain teacher predicts together with the model of the user's fold."""
    windows, folders = cached
    monkeypatch.setattr(sparse, "CHUNK_PROBABILITIES", 3 * ITEMS)
    found = store_from_tables([_writer(folders, samples=1_000)(windows)], teachers=1)
    assert found.hidden is not None
    assert found.scales is not None
    models = [load_model(folder)[0].eval() for of_teacher in folders for folder in of_teacher]
    folds = fold_of(windows["user_id"].to_pylist(), 2)
    assert set(folds) == {0, 1}
    for window, fold in enumerate(folds):
        batch = batch_of(found, np.array([window]))
        assert batch.hidden_TK is not None
        assert batch.scales_TN is not None
        with torch.no_grad():
            logits = [states_at(model, batch) @ model.head()[0].T for model in (models[0], models[1 + fold])]
        probs = pooled_log_probs(logits, [0.25, 0.75], temperature=2.0).exp()
        draws = batch.hidden_TK.view(torch.int32).long()
        shares = torch.zeros_like(probs).scatter_add_(1, draws, torch.full(draws.shape, 1 / 1_000))
        assert (shares - probs).abs().max() < 1 / 1_000 + 1e-5
        torch.testing.assert_close(batch.scales_TN[:, 0], probs.log().gather(1, draws).mean(1), rtol=0, atol=1e-4)


def test_draws_do_not_depend_on_the_batch(cached: tuple[pa.Table, list[list[Path]]]) -> None:
    """A window gets the same samples in any batch, and different positions get different offsets."""
    windows, folders = cached
    whole = _writer(folders)(windows)
    parts = [_writer(folders, batch_size=2)(windows.slice(start, 5)) for start in range(0, len(windows), 5)]
    assert pa.concat_tables(parts)["hidden"].to_pylist() == whole["hidden"].to_pylist()
    offsets = sparse._offsets(windows, np.full(len(windows), 5), seed=1)
    assert len(set(offsets.round(6))) == len(offsets)
    assert not np.allclose(offsets, sparse._offsets(windows, np.full(len(windows), 5), seed=2))


def test_a_position_takes_at_most_300_bytes(cached: tuple[pa.Table, list[list[Path]]]) -> None:
    """64 samples and their mean log-probability take 260 bytes before compression, for any number of teachers."""
    windows, folders = cached
    table = _writer(folders, samples=64)(windows)
    stored = table["hidden"].combine_chunks().buffers()[2].size + table["scales"].combine_chunks().values.nbytes
    assert stored / 99 == 64 * 4 + 4


def test_a_student_learns_from_the_draws(cached: tuple[pa.Table, list[list[Path]]]) -> None:
    """The training module's loss is that of the batch's samples, and its gradient reaches the student."""
    windows, folders = cached
    store = store_from_tables([_writer(folders)(windows)], teachers=1)
    batch = batch_of(store, np.arange(len(store)))
    assert batch.hidden_TK is not None
    assert batch.scales_TN is not None
    student = SequenceModel(num_items=ITEMS, kind="gru", dim=6)
    module = NextItemTraining(student, draws=True, kl_weight=0.5, temperature=2.0)
    loss = module(batch)
    want = cross_entropy_and_sampled_kl(
        Scored(states_at(student, batch), *student.head()),
        batch.targets_T,
        Draws(torch.from_numpy(store.hidden).view(torch.int32), batch.scales_TN[:, 0], 0.5, 2.0),
    )
    torch.testing.assert_close(loss.total, want.total)
    assert loss.kl != 0
    loss.total.backward()
    assert student.head()[0].grad is not None
