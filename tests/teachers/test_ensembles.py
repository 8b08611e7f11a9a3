"""Ensemble weights, and the judgement of teachers on training positions and held-out positions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from kdlib.data.folds import fold_of
from kdlib.data.windows import EvaluationRows, evaluation_rows, training_windows
from kdlib.models.encode import scorer
from kdlib.models.files import load_model, save_model, save_rules
from kdlib.models.rules import RuleSettings
from kdlib.models.sequence import SequenceModel
from kdlib.teachers.ensembles import (
    candidates,
    judge_teachers,
    last_training_rows,
    ranking_weights,
    target_log_probs,
)
from kdlib.teachers.rules import count_rules
from tests.data.test_windows import histories


def test_log_probs_are_the_models_own() -> None:
    """Each entry is the log-softmax of the model's scores at the row's target, for any batch size."""
    torch.manual_seed(1)
    models = [SequenceModel(num_items=20, kind="gru", dim=6, inputs=["event_type"]).eval() for _ in range(2)]
    rows = EvaluationRows(
        user_ids=np.array(["a", "b", "c"]),
        items=np.array([1, 2, 3, 4, 5, 6]),
        context=np.arange(18).reshape(6, 3).astype(np.int8) % 4,
        offsets=np.array([0, 3, 4, 6]),
        targets=np.array([7, 8, 9]),
        target_types=np.zeros(3, np.int8),
        repeats=0,
    )
    found = target_log_probs(models, rows, device=torch.device("cpu"), batch_size=2)
    for number, model in enumerate(models):
        for row in range(3):
            prefix = torch.from_numpy(rows.items[rows.offsets[row] : rows.offsets[row + 1]])[None]
            context = torch.from_numpy(rows.context[rows.offsets[row] : rows.offsets[row + 1]])[None]
            with torch.inference_mode():
                hidden = model(prefix, context)[0, -1]
                want = F.log_softmax(hidden @ model.head()[0].T, -1)[rows.targets[row]]
            assert found[number, row] == pytest.approx(want.item(), abs=1e-5)


def _saved(folder: Path, seed: int) -> str:
    torch.manual_seed(seed)
    model = SequenceModel(num_items=20, kind="gru", dim=6)
    folder.mkdir()
    save_model(folder, model, model.state_dict(), {})
    return str(folder)


def test_last_training_rows_stop_before_the_held_out_items() -> None:
    """A row predicts the last training item from the items before it. Fewer than two training items give no row."""
    table = histories([([3, 4, 5, 6], [0] * 4, 3, 3, None), ([7, 8], [0] * 2, 1, 1, None)])
    rows = last_training_rows(table)
    assert (rows.user_ids.tolist(), rows.items.tolist(), rows.targets.tolist()) == (["u0"], [3, 4], [5])


def test_a_teacher_is_judged_on_both_kinds_of_position(tmp_path: Path) -> None:
    """Each teacher has one row of log-probabilities. A cross-fitted teacher uses the model trained without the user."""
    folders = [[_saved(tmp_path / "a", 1)], [_saved(tmp_path / "b0", 2), _saved(tmp_path / "b1", 3)]]
    table = histories([([user, 9, 10, 11 + user], [0] * 4, 3, 3, None) for user in range(6)])
    found = judge_teachers(folders, table, max_length=50, threads=1)
    models = [load_model(Path(folder))[0] for of_teacher in folders for folder in of_teacher]
    fold = fold_of(table["user_id"].to_pylist(), 2)
    assert set(fold) == {0, 1}
    both = last_training_rows(table), evaluation_rows(table, position_column="validation_position")
    for got, rows in zip(found, both, strict=True):
        want = target_log_probs(models, rows, device=torch.device("cpu"))
        np.testing.assert_allclose(got[0], want[0])
        np.testing.assert_allclose(got[1], want[1 + fold, np.arange(6)])


def test_rules_are_judged_without_the_user_s_own_counts(tmp_path: Path) -> None:
    """At the last training position, rules use all windows but this one, also for a history with several windows."""
    users = [[0, 1, 2, 3, 1], [4, 0, 1, 2, 5], [2, 3, 0, 1]]
    table = histories([(items, [0] * len(items), len(items) - 1, len(items) - 1, None) for items in users])
    num_train = np.bincount(np.concatenate([items[:-1] for items in users]), minlength=6)
    settings, windows = RuleSettings(3, 0.5, 0.5, 0.5, 1.0), training_windows(table, max_length=2)
    save_rules(tmp_path, count_rules([windows], settings, num_train_V=num_train), {})
    trained, held_out = judge_teachers([[str(tmp_path)]], table, max_length=2, threads=1)
    rows = last_training_rows(table)
    last = {user: number for number, user in enumerate(windows["user_id"].to_pylist())}
    for user, found in zip(rows.user_ids, trained[0], strict=True):
        others = windows.take([number for number in range(len(windows)) if number != last[user]])
        *history, target = windows["items"][last[user]].as_py()
        score = scorer(count_rules([others], settings, num_train_V=num_train), device=torch.device("cpu"))
        context = np.zeros((len(history), 3), np.int8)
        log_probs = score(np.array(history), context, np.array([len(history)])).log_softmax(1)
        assert found == pytest.approx(float(log_probs[0, target]), rel=1e-4)
    assert np.isfinite(held_out).all()


def _ndcg(weights: np.ndarray, true_NR: torch.Tensor, others_NRC: torch.Tensor) -> float:
    shares = torch.tensor(weights, dtype=torch.float32)
    ahead = (torch.tensordot(shares, others_NRC, 1) >= (shares @ true_NR)[:, None]).sum(1).numpy()
    return float(np.where(ahead < 10, 1 / np.log2(ahead + 2), 0).mean())


def test_ranking_weights_rank_better_than_any_teacher() -> None:
    """With a sharp, often wrong teacher and a vague one, the found weights rank nearly as well as the best of a grid."""
    generator = np.random.default_rng(5)
    rows, items = 400, 30
    target = generator.integers(0, items, rows)
    vague = generator.dirichlet(np.full(items, 2.0), rows)
    vague[np.arange(rows), target] *= 1.5
    sharp = generator.random((rows, items)) * 1e-4
    guess = np.where(generator.random(rows) < 0.3, target, generator.integers(0, items, rows))
    sharp[np.arange(rows), guess] = 1.0
    probs = np.stack([one / one.sum(1, keepdims=True) for one in (vague, sharp)])
    others_NRC = torch.tensor(np.log(probs), dtype=torch.float32)
    true_NR = others_NRC[:, torch.arange(rows), torch.from_numpy(target)].clone()
    others_NRC[:, torch.arange(rows), torch.from_numpy(target)] = -torch.inf
    found = ranking_weights(true_NR, others_NRC)
    assert found.sum() == pytest.approx(1.0)
    reached = _ndcg(found, true_NR, others_NRC)
    grid = max(_ndcg(np.array([w, 1 - w]), true_NR, others_NRC) for w in np.linspace(0.005, 0.995, 199))
    assert reached >= grid - 0.002
    assert reached >= max(_ndcg(np.array(w), true_NR, others_NRC) for w in ([0.5, 0.5], [0.999, 0.001], [0.001, 0.999]))


def test_ranking_weights_follow_the_objective() -> None:
    """Of two teachers that are each right about one half of the rows, the one whose rows weigh more gets the larger share."""
    true_NR = torch.tensor([[-1.0, -3.0] * 20, [-3.0, -1.0] * 20])
    others_NRC = torch.linspace(-2.9, -1.1, 20).repeat_interleave(2)[None, :, None].expand(2, 40, 10)
    for heavy in (0, 1):
        weights_R = np.where(np.arange(40) % 2 == heavy, 10.0, 1.0)
        found = ranking_weights(true_NR, others_NRC, weights_R=weights_R)
        assert found[heavy] > 0.9


@torch.inference_mode()
def test_candidates_hold_what_the_teachers_put_first() -> None:
    """Candidates are the teachers' best unseen items, each once and without the target.

    A cross-fitted teacher uses the model that was trained without the user.
    """
    torch.manual_seed(2)
    plain, zero, one = (SequenceModel(num_items=12, kind="gru", dim=4).eval() for _ in range(3))
    users = [([user, (user + 3) % 12, (user + 5) % 12, (user + 7) % 12], [0, 0, 1, 1], 2, 2, 3) for user in range(8)]
    rows = evaluation_rows(histories(users), position_column="test_position")
    true_NR, others_NRC = candidates([[plain], [zero, one]], rows, device=torch.device("cpu"), top=3)
    folds = fold_of(rows.user_ids, 2)
    assert set(folds) == {0, 1}
    for row, target in enumerate(rows.targets.tolist()):
        seen = slice(rows.offsets[row], rows.offsets[row + 1])
        scorers = [scorer(model, device=torch.device("cpu")) for model in (plain, (zero, one)[folds[row]])]
        history = rows.items[seen], rows.context[seen], np.diff(rows.offsets)[row : row + 1]
        logs_NV = torch.cat([score(*history) for score in scorers]).log_softmax(1)
        torch.testing.assert_close(true_NR[:, row], logs_NV[:, target])
        logs_NV[:, torch.from_numpy(rows.items[seen])] = -torch.inf
        best = sorted(set(logs_NV.topk(3).indices.flatten().tolist()) - {target})
        for found_C, expected_V in zip(others_NRC[:, row], logs_NV, strict=True):
            assert sorted(found_C[found_C > -torch.inf].tolist()) == pytest.approx(sorted(expected_V[best].tolist()))
