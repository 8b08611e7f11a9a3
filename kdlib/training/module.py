"""What one DeepSpeed engine trains: a student alone, a student with cached teachers, or teacher and student together.

Shapes: T real positions, W scoring width, V items, K sum of the teachers' widths, N teachers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdlib.data.batches import Batch
from kdlib.losses.next_item import Scored, cross_entropy, cross_entropy_and_kl
from kdlib.models.sequence import SequenceModel


@dataclass(frozen=True)
class CachedTeachers:
    """The heads of finished teachers whose hidden states come with the batch; not parameters of the engine."""

    heads: Sequence[tuple[Tensor, Tensor | None]]
    """One (matrix float [V, W], bias float [V] or None) a teacher."""
    weights: Sequence[float]

    def scored(self, batch: Batch) -> list[Scored]:
        assert batch.hidden_TK is not None
        assert batch.scales_TN is not None
        result, start = [], 0
        for number, (matrix, bias) in enumerate(self.heads):
            width = matrix.shape[1]
            hidden_TW = batch.hidden_TK[:, start : start + width].float() * batch.scales_TN[:, number, None]
            result.append(Scored(hidden_TW, matrix, bias))
            start += width
        return result


@dataclass(frozen=True)
class StepLoss:
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
      kl_weight: λ; at 0, or without any teacher, the student learns from the data alone.
      temperature: T.
    """

    def __init__(
        self,
        student: SequenceModel,
        *,
        teacher: SequenceModel | None = None,
        cached: CachedTeachers | None = None,
        kl_weight: float = 0.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.cached = cached
        self.kl_weight = kl_weight
        self.temperature = temperature

    def forward(self, batch: Batch) -> StepLoss:
        student = _scored(self.student, batch)
        nothing = torch.zeros((), device=batch.targets_T.device)
        if self.teacher is not None:
            teacher = _scored(self.teacher, batch)
            teacher_ce, _ = cross_entropy(teacher, batch.targets_T)
            teachers, weights = [teacher], [1.0]
        else:
            teacher_ce = nothing
            teachers, weights = (self.cached.scored(batch), self.cached.weights) if self.cached else ([], [])
        ce, kl, correct = cross_entropy_and_kl(
            student, batch.targets_T, teachers=teachers, weights=weights, temperature=self.temperature
        )
        total = ce + self.kl_weight * kl + teacher_ce
        return StepLoss(total, ce.detach(), kl.detach(), teacher_ce.detach(), correct)


def _scored(model: SequenceModel, batch: Batch) -> Scored:
    vectors_VD = model.item_vectors()
    hidden_BLW = model(batch.items_BL, batch.new_session_BL, item_vectors_VD=vectors_VD)
    return Scored(hidden_BLW.flatten(0, 1)[batch.positions_T], *model.head(vectors_VD))
