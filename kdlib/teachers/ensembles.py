"""Judge teachers by the users' true next items, and choose the weights that rank these best.

Shapes: N teachers, R rows, B rows of a batch, M rows of a batch with the same fold, V items, C candidates.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional as F

from kdlib.data.batches import store_from_tables
from kdlib.data.folds import fold_of
from kdlib.data.windows import EvaluationRows, evaluation_rows, take_slices, training_windows
from kdlib.inference.ranks import ranks_of_models
from kdlib.metrics.ranking import ndcg, weighted_mean
from kdlib.models.encode import rows_at_a_time, scorer
from kdlib.models.files import Predictor, load_predictor
from kdlib.models.rules import SequentialRules
from kdlib.teachers.rules import RulesAtPositions

CANDIDATES = 50
"""Number of each teacher's best items among which the teachers together choose their first ten."""


@torch.inference_mode()
def target_log_probs(
    models: Sequence[Predictor], rows: EvaluationRows, *, device: torch.device, batch_size: int | None = None
) -> np.ndarray:
    """Each model's log-probability of each row's true next item: float64 [models, rows].

    Args:
      models: on the device.
      rows: histories and targets.
      device: of the models.
      batch_size: rows at a time; None: a number whose scores fit the cache.
    """
    found = np.empty((len(models), len(rows)))
    batch_size = batch_size or rows_at_a_time(models[0].num_items, device)
    by_length = np.argsort(np.diff(rows.offsets), kind="stable")
    for model_number, model in enumerate(models):
        score = scorer(model, device=device)
        for start in range(0, len(rows), batch_size):
            which = by_length[start : start + batch_size]
            lengths = np.diff(rows.offsets)[which]
            flat = take_slices(rows.offsets[which], lengths)
            logits_BV = score(rows.items[flat], rows.context[flat], lengths)
            losses_B = F.cross_entropy(logits_BV, torch.from_numpy(rows.targets[which]).to(device), reduction="none")
            found[model_number, which] = -losses_B.double().cpu().numpy()
    return found


@torch.inference_mode()
def candidates(
    teachers: Sequence[Sequence[Predictor]],
    rows: EvaluationRows,
    *,
    device: torch.device,
    top: int = CANDIDATES,
) -> tuple[Tensor, Tensor]:
    """Each teacher's log-probability of each row's true next item, and of the best unseen items of all teachers.

    Args:
      teachers: the models of each teacher: one model, or one per fold. A user's fold selects the model that was trained
        without this user.
      rows: histories and targets.
      device: of the models.
      top: number of each teacher's best items that become candidates.

    Returns:
      Log-probabilities of the target, float32 [teachers, rows], and of the candidates, float32 [teachers, rows, C]. A
      candidate has −inf if it is the target or a repeated candidate.
    """
    scorers = [[scorer(model, device=device) for model in models] for models in teachers]
    by_length = np.argsort(np.diff(rows.offsets), kind="stable")
    num_items = teachers[0][0].num_items
    top, batch_size = min(top, num_items), rows_at_a_time(num_items, device)
    true_NR = torch.empty(len(teachers), len(rows))
    others_NRC = torch.empty(len(teachers), len(rows), len(teachers) * top)
    for start in range(0, len(rows), batch_size):
        which = by_length[start : start + batch_size]
        logs_NBV = torch.empty(len(teachers), len(which), num_items, device=device)
        for number, of_teacher in enumerate(scorers):
            fold_B = fold_of(rows.user_ids[which], len(of_teacher))
            for fold, score in enumerate(of_teacher):
                mine = np.flatnonzero(fold_B == fold)
                if len(mine):
                    lengths = np.diff(rows.offsets)[which[mine]]
                    flat = take_slices(rows.offsets[which[mine]], lengths)
                    logits_MV = score(rows.items[flat], rows.context[flat], lengths)
                    logs_NBV[number, torch.from_numpy(mine).to(device)] = torch.log_softmax(logits_MV, 1)
        lengths = np.diff(rows.offsets)[which]
        seen = np.repeat(np.arange(len(which)), lengths), rows.items[take_slices(rows.offsets[which], lengths)]
        logs_NBV[:, torch.from_numpy(seen[0]).to(device), torch.from_numpy(seen[1]).to(device)] = -torch.inf
        targets_B1 = torch.from_numpy(rows.targets[which]).to(device)[:, None]
        best_BC = logs_NBV.topk(top, 2).indices.transpose(0, 1).flatten(1).sort(1).values
        double_BC = best_BC == targets_B1
        double_BC[:, 1:] |= best_BC[:, 1:] == best_BC[:, :-1]
        found = [one.gather(1, best_BC).masked_fill(double_BC, -torch.inf) for one in logs_NBV]
        others_NRC[:, which] = torch.stack(found).cpu()
        true_NR[:, which] = logs_NBV.gather(2, targets_B1.expand(len(teachers), -1, -1))[..., 0].cpu()
    return true_NR, others_NRC


def ranking_weights(true_NR: Tensor, others_NRC: Tensor, *, weights_R: np.ndarray | None = None) -> np.ndarray:
    """Weights of the teachers' scores that rank the targets best by NDCG@10: float64 [teachers], with sum 1.

    NDCG has no gradient in the weights. The function therefore scales one weight at a time up and down, as long as NDCG
    grows (coordinate ascent: Metzler & Croft 2007). It starts from equal weights, and from half of the sum for each
    teacher in turn.

    Args:
      true_NR: from `candidates`.
      others_NRC: from `candidates`.
      weights_R: weights of the rows. None: all are equal.
    """
    number = len(true_NR)

    def ndcg_of(weights_N: np.ndarray) -> float:
        shares = torch.tensor(weights_N / weights_N.sum(), dtype=torch.float32)
        # ≥, so that a tie counts against the target
        ahead_R = (torch.tensordot(shares, others_NRC, 1) >= (shares @ true_NR)[:, None]).sum(1)
        found_R = torch.where(ahead_R < 10, 1.0 / torch.log2(ahead_R + 2.0), 0.0)
        if weights_R is not None:
            return weighted_mean(found_R.double().numpy(), weights_R)
        return float(found_R.mean(dtype=torch.float64))

    halves = np.full((number, number), 1.0 / max(number - 1, 1)) * (1 - np.eye(number)) + np.eye(number)
    best_N, best = np.ones(number), -1.0
    for start in (np.ones(number), *halves):
        weights_N, reached, step = start / start.sum(), ndcg_of(start), 4.0
        while step > 1.05:
            improved = False
            for teacher in range(number):
                for factor in (step, 1.0 / step):
                    tried_N = weights_N.copy()
                    tried_N[teacher] *= factor
                    if (score := ndcg_of(tried_N)) > reached:
                        weights_N, reached, improved = tried_N / tried_N.sum(), score, True
            step = step if improved else step**0.5
        if reached > best:
            best_N, best = weights_N, reached
    return best_N / best_N.sum()


def last_training_rows(histories: pa.Table) -> EvaluationRows:
    """Each user's last training position as a target, in the form of a held-out position.

    Args:
      histories: rows of `tables.HISTORIES`. Users with fewer than two training items give no row.
    """
    num_train = histories["num_train"].to_numpy()
    last = pa.array(num_train - 1, pa.int32(), mask=num_train < 2)
    return evaluation_rows(histories.append_column("last", last), position_column="last")


def choose_weights(
    teachers: Sequence[Sequence[str]],
    histories: pa.Table,
    *,
    threads: int,
    event_weights: Sequence[float] | None = None,
) -> np.ndarray:
    """`ranking_weights` on the histories' validation positions. For the arguments see `judge_teachers`.

    Args:
      event_weights: weights of the rows by the type of the target's event. None: all are equal.
    """
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models = [[load_predictor(Path(folder))[0].to(device) for folder in folders] for folders in teachers]
    rows = evaluation_rows(histories, position_column="validation_position")
    return ranking_weights(*candidates(models, rows, device=device), weights_R=rows.weights(event_weights))


def validation_ndcg(
    models: Sequence[tuple[str, float]],
    histories: pa.Table,
    *,
    threads: int,
    event_weights: Sequence[float] | None = None,
) -> float:
    """NDCG@10 of models together, on the histories' validation positions.

    Args:
      models: (folder, weight) of each.
      histories: as in `judge_teachers`.
      threads: of PyTorch.
      event_weights: as in `choose_weights`.
    """
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaded = [load_predictor(Path(folder))[0].to(device) for folder, _ in models]
    rows = evaluation_rows(histories, position_column="validation_position")
    ranks = ranks_of_models(loaded, [weight for _, weight in models], rows, device=device).ranks
    return weighted_mean(ndcg(ranks, 10), rows.weights(event_weights))


@torch.inference_mode()
def left_out_log_probs(
    rules: SequentialRules, histories: pa.Table, user_ids: np.ndarray, *, max_length: int
) -> np.ndarray:
    """Log-probability of each user's last training item by the rules of all other windows: float64 [users].

    Args:
      rules: counted over windows that include the histories' training windows.
      histories: rows of `tables.HISTORIES`.
      user_ids: users that have a training window.
      max_length: of a window.
    """
    windows = training_windows(histories, max_length=max_length)
    last = {user: number for number, user in enumerate(windows["user_id"].to_pylist())}  # keeps a user's last window
    chosen = np.array([last[user] for user in user_ids], np.int64)
    store, found = store_from_tables([windows]), np.empty(len(chosen))
    batch_size = rows_at_a_time(rules.num_items, rules.popularity_V.device)
    for start in range(0, len(chosen), batch_size):
        which = chosen[start : start + batch_size]
        ends = torch.from_numpy(np.cumsum(np.diff(store.offsets)[which]) - 1)
        targets = torch.from_numpy(store.targets[store.offsets[which + 1] - 1].astype(np.int64))
        log_probs = RulesAtPositions(rules, store, which).logits_at(ends.to(rules.popularity_V.device))
        found[start : start + batch_size] = log_probs.cpu().gather(1, targets[:, None])[:, 0].double().numpy()
    return found


def judge_teachers(
    teachers: Sequence[Sequence[str]], histories: pa.Table, *, max_length: int, threads: int
) -> tuple[np.ndarray, np.ndarray]:
    """Each teacher's log-probability of the item at each user's last training position and validation position.

    A teacher that memorises the histories is far surer of the training items. Its targets then repeat the data and add
    little. Neither kind of position tells the teacher whether the item opens a session. A cross-fitted teacher is judged
    by the model that was trained without the user, as in teaching. Rules are judged without the counts of the user's own
    window.

    Runs on a GPU if the machine has one.

    Args:
      teachers: the model folders of each teacher: one folder, or one per fold.
      histories: rows of `tables.HISTORIES` with a validation position.
      max_length: of a training window.
      threads: of PyTorch.

    Returns:
      Log-probabilities in nats of the training rows and of the validation rows, both float64 [teachers, rows].
    """
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    both = last_training_rows(histories), evaluation_rows(histories, position_column="validation_position")
    found = np.empty((len(teachers), len(both[0]))), np.empty((len(teachers), len(both[1])))
    for number, folders in enumerate(teachers):
        models = [load_predictor(Path(folder))[0].to(device) for folder in folders]
        for place, rows in enumerate(both):
            if place == 0 and isinstance(models[0], SequentialRules):
                found[0][number] = left_out_log_probs(models[0], histories, rows.user_ids, max_length=max_length)
                continue
            by_model = target_log_probs(models, rows, device=device)
            found[place][number] = by_model[fold_of(rows.user_ids, len(models)), np.arange(len(rows))]
    return found
