"""What one DeepSpeed engine trains: a student alone, a student with cached teachers, or teacher and student together."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdlib.data.batches import Batch
from kdlib.losses.next_item import Scored, Teachers, cross_entropy_and_kl
from kdlib.models.sequence import SequenceModel


class CachedTeachers(NamedTuple):
    """The heads of finished teachers whose hidden states come with the batch; not parameters of the engine."""

    heads: Sequence[tuple[Tensor, Tensor | None]]
    """One (matrix float [items, width], bias float [items] or None) a teacher."""
    weights: Sequence[float]

    def scored(self, batch: Batch) -> list[Scored]:
        """The teachers at the batch's real positions."""
        assert batch.hidden_TK is not None
        assert batch.scales_TN is not None
        result, start = [], 0
        for number, (matrix, bias) in enumerate(self.heads):
            width = matrix.shape[1]
            hidden_TW = batch.hidden_TK[:, start : start + width].float() * batch.scales_TN[:, number, None]
            result.append(Scored(hidden_TW, matrix, bias))
            start += width
        return result


class StepLoss(NamedTuple):
    """Sums over a step's real positions; `total` alone carries a gradient."""

    total: Tensor
    student_ce: Tensor
    kl: Tensor
    teacher_ce: Tensor
    correct: Tensor


class NextItemTraining(nn.Module):
    """`L = CE(student) + λ·T²·KL(teacher ‖ student)`, plus the teacher's own CE when it learns along.

    Args:
      student: the model to train.
      teacher: a second model trained in the same engine (joint distillation); no gradient reaches it through the KL.
      cached: finished teachers instead.
      kl_weight: λ.
      temperature: T.
      dtype: of the logits and their gradients, see `cross_entropy_and_kl`.
    """

    def __init__(
        self,
        student: SequenceModel,
        *,
        teacher: SequenceModel | None = None,
        cached: CachedTeachers | None = None,
        kl_weight: float = 0.0,
        temperature: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.cached = cached
        self.kl_weight = kl_weight
        self.temperature = temperature
        self.dtype = dtype

    def forward(self, batch: Batch) -> StepLoss:
        """The loss of one batch, summed over its real positions."""
        student = _scored(self.student, batch)
        if self.teacher is not None:
            teacher = _scored(self.teacher, batch)
            teacher_loss = cross_entropy_and_kl(teacher, batch.targets_T, dtype=self.dtype)
            detached = Scored(*(None if part is None else part.detach() for part in teacher))  # type: ignore[arg-type]
            loss = cross_entropy_and_kl(student, batch.targets_T, self._teachers([detached], [1.0]), dtype=self.dtype)
            return StepLoss(loss.total + teacher_loss.total, loss.ce, loss.kl, teacher_loss.ce, loss.correct)
        teachers = None if self.cached is None else self._teachers(self.cached.scored(batch), self.cached.weights)
        loss = cross_entropy_and_kl(student, batch.targets_T, teachers, dtype=self.dtype)
        return StepLoss(loss.total, loss.ce, loss.kl, torch.zeros_like(loss.ce), loss.correct)

    def _teachers(self, scored: list[Scored], weights: Sequence[float]) -> Teachers:
        return Teachers(scored, weights, self.kl_weight, self.temperature)


def _scored(model: SequenceModel, batch: Batch) -> Scored:
    vectors_VD = model.item_vectors()
    hidden_BLW = model(batch.items_BL, batch.new_session_BL, item_vectors_VD=vectors_VD)
    return Scored(hidden_BLW.flatten(0, 1)[batch.positions_T], *model.head(vectors_VD))
