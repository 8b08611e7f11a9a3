"""How well teachers know what users did next; the ensemble's weights make the validation items most likely.

Shapes: N teachers, R rows, B rows of a batch, V items.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch.nn import functional as F

from kdlib.data.folds import fold_of
from kdlib.data.windows import EvaluationRows, evaluation_rows, take_slices
from kdlib.models.encode import last_hidden
from kdlib.models.files import load_model
from kdlib.models.sequence import SequenceModel


@torch.inference_mode()
def target_log_probs(
    models: Sequence[SequenceModel], rows: EvaluationRows, *, device: torch.device, batch_size: int = 256
) -> np.ndarray:
    """Log-probability that each model gives each row's true next item: float64 [models, rows]."""
    found = np.empty((len(models), len(rows)))
    by_length = np.argsort(np.diff(rows.offsets), kind="stable")
    for model_number, model in enumerate(models):
        matrix, bias = model.head()
        for start in range(0, len(rows), batch_size):
            which = by_length[start : start + batch_size]
            lengths = np.diff(rows.offsets)[which]
            flat = take_slices(rows.offsets[which], lengths)
            hidden_BW = last_hidden(model, rows.items[flat], rows.context[flat], lengths, device=device)
            logits_BV = F.linear(hidden_BW, matrix, bias).float()
            losses_B = F.cross_entropy(logits_BV, torch.from_numpy(rows.targets[which]).to(device), reduction="none")
            found[model_number, which] = -losses_B.double().cpu().numpy()
    return found


def mixture_weights(log_probs_NR: np.ndarray, *, iterations: int = 500, tolerance: float = 1e-6) -> np.ndarray:
    """Weights of the mixture of probabilities with the highest likelihood: float64 [teachers], positive, of sum 1.

    The problem is concave in the weights; expectation–maximisation climbs it without a step size (Dempster, Laird &
    Rubin 1977, section 4.3: mixtures with known components).

    Args:
      log_probs_NR: see `target_log_probs`; finite.
      iterations: at most.
      tolerance: stop when no weight changes by more.

    Raises:
      ValueError: no rows, or a log-probability is not finite.
    """
    if log_probs_NR.shape[1] == 0 or not np.isfinite(log_probs_NR).all():
        raise ValueError(f"needs finite log-probabilities of at least one row, found shape {log_probs_NR.shape}")
    likely_NR = np.exp(log_probs_NR - log_probs_NR.max(axis=0))
    weights_N = np.full(len(likely_NR), 1.0 / len(likely_NR))
    for _ in range(iterations):
        share_NR = weights_N[:, None] * likely_NR
        updated_N = (share_NR / share_NR.sum(axis=0)).mean(axis=1)
        if np.abs(updated_N - weights_N).max() < tolerance:
            return updated_N
        weights_N = updated_N
    return weights_N


def last_training_rows(histories: pa.Table) -> EvaluationRows:
    """Each user's last training position, to be predicted from the items before it, as if it were a held-out one.

    Args:
      histories: rows of `tables.HISTORIES`; users with fewer than two training items give no row.
    """
    num_train = histories["num_train"].to_numpy()
    last = pa.array(num_train - 1, pa.int32(), mask=num_train < 2)
    return evaluation_rows(histories.append_column("last", last), position_column="last")


def judge_teachers(
    teachers: Sequence[Sequence[str]], histories: pa.Table, *, threads: int
) -> tuple[np.ndarray, np.ndarray]:
    """How likely each teacher thinks what users did at their last training position, and at their validation position.

    A teacher that learnt users' histories by heart is far surer of the first: its targets there repeat the data instead
    of adding to it. One that is cross-fitted is judged, as it teaches, by the model that did not see the user.

    Args:
      teachers: one list of model folders a teacher: one, or one a fold.
      histories: rows of `tables.HISTORIES` with a validation position.
      threads: of PyTorch.

    Returns:
      Log-probabilities in nats, float64 [teachers, rows], on training and on validation rows, on a GPU if there is one.
    """
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    both = last_training_rows(histories), evaluation_rows(histories, position_column="validation_position")
    found = np.empty((len(teachers), len(both[0]))), np.empty((len(teachers), len(both[1])))
    for number, folders in enumerate(teachers):
        models = [load_model(Path(folder))[0].to(device) for folder in folders]
        for log_probs_NR, rows in zip(found, both, strict=True):
            by_model = target_log_probs(models, rows, device=device)
            log_probs_NR[number] = by_model[fold_of(rows.user_ids, len(models)), np.arange(len(rows))]
    return found
