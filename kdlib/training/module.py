"""What one DeepSpeed engine trains: a student alone, a student with cached teachers, or teacher and student together.

Shapes: B sequences, L length, T real positions, W scoring width, V items, K bytes of cached targets a position, N teachers or
negatives, C items that compete.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdlib.data.batches import Batch
from kdlib.losses.chunked import Divergence, chunked
from kdlib.losses.dispatch import cross_entropy_and_kl, cross_entropy_and_sampled_kl
from kdlib.losses.distillation import hidden_cosine, kl_divergence
from kdlib.losses.sampled import (
    draw_negatives,
    sampled_divergence,
    sampled_ranking,
    sampled_softmax_and_sampled_kl,
)
from kdlib.losses.scored import LossSums, Scored, Teachers, pool, total_of
from kdlib.losses.sparse import Draws
from kdlib.models.sequence import SequenceModel

SELDOM = 1e-6
"""Factor on the sampling weight of an item that should be no negative. It is not 0, because its logarithm must be finite."""


class CachedTeachers:
    """The heads of finished teachers, whose hidden states come with the batch. They are no parameters of the engine.

    Args:
      heads: one (matrix float [items, width], bias float [items] or None) for each teacher.
      weights: one positive number for each teacher, its share in their weighted mean.
    """

    def __init__(self, heads: Sequence[tuple[Tensor, Tensor | None]], weights: Sequence[float]) -> None:
        self.widths = [matrix.shape[1] for matrix, _ in heads]
        # states of ones: what remains of them is each teacher's share, a column of its width
        self._head = pool(
            [Scored(matrix.new_ones(1, matrix.shape[1]), matrix, bias) for matrix, bias in heads], weights
        )

    def keep_in(self, dtype: torch.dtype) -> None:
        """Keep matrix and bias in the dtype of the logits. Otherwise each step would cast them, which takes a second copy."""
        weight_VW, bias_V = self._head.weight_VW.to(dtype), self._head.bias_V
        self._head = self._head._replace(weight_VW=weight_VW, bias_V=None if bias_V is None else bias_V.to(dtype))

    def scored(self, batch: Batch) -> Scored:
        """The teachers' prediction at the real positions of the batch (`kdlib.losses.scored.pool`)."""
        assert batch.hidden_TK is not None
        assert batch.scales_TN is not None
        widths = torch.tensor(self.widths, device=batch.scales_TN.device)
        scales_TW = batch.scales_TN[:, : len(widths)].repeat_interleave(widths, 1)
        hidden_TW = batch.hidden_TK[:, : scales_TW.shape[1]].float() * scales_TW * self._head.hidden_TW
        return self._head._replace(hidden_TW=hidden_TW)


class StepLoss(NamedTuple):
    """Sums over the real positions of a step, each times its weight. Only `total` carries a gradient."""

    total: Tensor
    student_ce: Tensor
    """The student's loss on the data: cross-entropy or sampled softmax."""
    kl: Tensor
    """The divergence from the teachers."""
    teacher_ce: Tensor
    correct: Tensor
    """Number of positions whose target has the student's best score, whatever their weight."""


class Ranking(NamedTuple):
    """The sampled softmax as the loss on the data, instead of the cross-entropy over all items."""

    negatives: int
    """Number of negatives of a step. They are sampled anew each step, and its positions share them."""
    item_weights_V: Tensor | None
    """Sampling weights of the negatives, float [items] on the model's device. None: uniform."""


class NextItemTraining(nn.Module):
    """`L = CE(student) + λ·T²·KL(teacher ‖ student)`, plus the teacher's own CE if it is trained too.

    Args:
      student: the model to train.
      teacher: a second model, trained in the same engine (joint distillation). The KL gives it no gradient.
      cached: finished teachers instead.
      draws: the batches hold sampled targets of finished teachers (`kdlib.teachers.sparse`), and the student follows them:
        over all items, or with `ranking` over its negatives.
      kl_weight: λ.
      temperature: T.
      dtype: of the logits and their gradients, see `cross_entropy_and_kl`, and of the text vectors that are projected.
      ranking: the sampled softmax as the student's loss on the data. The divergence then runs over its negatives. None: the
        cross-entropy over all items. A teacher that is trained too always has the cross-entropy.
      divergence: how the student follows the teachers. Without `ranking`, all but the KL take longer, see
        `kdlib.losses.chunked`. Sampled targets have the KL only.
      hidden_weight: weight of `1 − cos(projected student state, teacher's state)`, mean over the teachers. 0 leaves it out.
        The projection is a parameter of this module: it is trained and checkpointed, but not exported with the student.
    """

    def __init__(
        self,
        student: SequenceModel,
        *,
        teacher: SequenceModel | None = None,
        cached: CachedTeachers | None = None,
        draws: bool = False,
        kl_weight: float = 0.0,
        temperature: float = 1.0,
        dtype: torch.dtype = torch.float32,
        ranking: Ranking | None = None,
        divergence: Divergence = kl_divergence,
        hidden_weight: float = 0.0,
    ) -> None:
        super().__init__()
        for model in (student, teacher):
            if model is not None and model.text_projection is not None:  # it is projected in each step
                model.text_vectors_VE = model.get_buffer("text_vectors_VE").to(dtype)
        self.student = student
        self.teacher = teacher
        self.cached = cached
        if cached is not None:
            cached.keep_in(dtype)
        self.draws = draws
        self.kl_weight = kl_weight
        self.temperature = temperature
        self.dtype = dtype
        self.ranking = ranking
        self.divergence = divergence
        self.hidden_weight = hidden_weight
        self._restrict()
        self.projector: nn.Linear | None = None
        if hidden_weight and (widths := self._teacher_widths()):
            self.projector = nn.Linear(student.head()[0].shape[1], sum(widths), bias=False)

    def forward(self, batch: Batch) -> StepLoss:
        """The loss of one batch, summed over its real positions. A position's weight scales all terms, the teachers' too.

        For a model that reads titles or features and has no teacher, only the items of the training data compete. A new item
        would always be a negative, and the model would learn that its title means "never". A student with teachers learns from them how
        likely a new item is.
        """
        student, targets_T, weights_T = _scored(self.student, batch), batch.targets_T, batch.weights_T
        if self.restricted:
            student, targets_T = self._competing(student, targets_T)
        if self.teacher is not None:
            whole = _scored(self.teacher, batch)
            own, own_targets_T = whole, batch.targets_T
            if _scores_content(self.teacher):
                own, own_targets_T = self._competing(whole, batch.targets_T)
            teacher_loss = cross_entropy_and_kl(own, own_targets_T, weights_T=weights_T, dtype=self.dtype)
            detached = Scored(*(None if part is None else part.detach() for part in whole))  # type: ignore[arg-type]
            loss = self._student_loss(student, targets_T, self._teachers(detached), weights_T)
            return StepLoss(loss.total + teacher_loss.total, loss.ce, loss.kl, teacher_loss.ce, loss.correct)
        if self.draws:
            if self.ranking is None:
                loss = cross_entropy_and_sampled_kl(
                    student, targets_T, self._draws(batch), weights_T=weights_T, dtype=self.dtype
                )
            else:
                loss = sampled_softmax_and_sampled_kl(
                    student,
                    targets_T,
                    self._negatives(student),
                    self._draws(batch),
                    item_weights_V=self.ranking.item_weights_V,
                    weights_T=weights_T,
                )
            return StepLoss(loss.total, loss.ce, loss.kl, torch.zeros_like(loss.ce), loss.correct)
        teachers = None if self.cached is None else self._teachers(self.cached.scored(batch))
        loss = self._student_loss(student, targets_T, teachers, weights_T)
        return StepLoss(loss.total, loss.ce, loss.kl, torch.zeros_like(loss.ce), loss.correct)

    def _restrict(self) -> None:
        """Note which items the training data have, if a model scores items by their content and some items are new."""
        models = [model for model in (self.student, self.teacher) if model is not None]
        trained = [model.get_buffer("trained_V") for model in models if _scores_content(model)]
        trained_V = trained[0] if trained and not trained[0].all() else None
        self.candidates_C: Tensor | None
        self.place_V: Tensor | None
        self.register_buffer("candidates_C", None if trained_V is None else trained_V.nonzero()[:, 0], persistent=False)
        self.register_buffer("place_V", None if trained_V is None else trained_V.cumsum(0) - 1, persistent=False)
        untaught = self.teacher is None and self.cached is None and not self.draws
        alone = trained_V is not None and untaught
        self.restricted = alone and self.ranking is None
        self.spares_new = alone and self.ranking is not None
        if self.spares_new and self.ranking is not None and self.ranking.item_weights_V is not None:
            weights_V = self.ranking.item_weights_V
            seldom_V = torch.where(self.student.get_buffer("trained_V"), 1.0, SELDOM).to(weights_V)
            self.ranking = self.ranking._replace(item_weights_V=weights_V * seldom_V)

    def _competing(self, scored: Scored, targets_T: Tensor) -> tuple[Scored, Tensor]:
        """The same prediction and targets, restricted to the items of the training data."""
        if self.candidates_C is None or self.place_V is None:
            return scored, targets_T
        bias_C = None if scored.bias_V is None else scored.bias_V[self.candidates_C]
        return Scored(scored.hidden_TW, scored.weight_VW[self.candidates_C], bias_C), self.place_V[targets_T]

    def _student_loss(
        self, student: Scored, targets_T: Tensor, teachers: Teachers | None, weights_T: Tensor | None
    ) -> LossSums:
        """The loss on the data, with teachers also the divergence and the match of hidden states."""
        if self.ranking is not None:
            loss = self._sampled_loss(student, targets_T, teachers, weights_T, self.ranking)
        elif teachers is None or self.divergence is kl_divergence:
            loss = cross_entropy_and_kl(student, targets_T, teachers, weights_T=weights_T, dtype=self.dtype)
        else:
            loss = chunked(
                student, targets_T, teachers, divergence=self.divergence, weights_T=weights_T, dtype=self.dtype
            )
        if self.projector is not None and teachers is not None:
            apart = self._hidden_loss(student.hidden_TW, teachers.scored.hidden_TW, weights_T)
            loss = loss._replace(total=loss.total + self.hidden_weight * apart)
        return loss

    def _sampled_loss(
        self,
        student: Scored,
        targets_T: Tensor,
        teachers: Teachers | None,
        weights_T: Tensor | None,
        ranking: Ranking,
    ) -> LossSums:
        """The sampled softmax, and the divergence from the teachers over the same negatives."""
        negatives_N, num_items = self._negatives(student), self._num_drawn_from(student)
        sampling: dict[str, Any] = {"item_weights_V": ranking.item_weights_V, "num_items": num_items}
        sampling |= {"weights_T": weights_T, "dtype": self.dtype}
        if teachers is None or self.divergence is kl_divergence:
            return sampled_ranking(student, targets_T, negatives_N, teachers, **sampling)
        data = sampled_ranking(student, targets_T, negatives_N, **sampling)
        apart = sampled_divergence(student, negatives_N, teachers, divergence=self.divergence, **sampling)
        return LossSums(data.total + teachers.kl_weight * apart, data.ce, apart.detach(), data.correct)

    def _negatives(self, student: Scored) -> Tensor:
        """The negatives of this step, int64 [negatives]."""
        assert self.ranking is not None
        negatives_N = draw_negatives(
            self.ranking.negatives,
            num_items=self._num_drawn_from(student),
            item_weights_V=self.ranking.item_weights_V,
            device=student.weight_VW.device,
        )
        if self.candidates_C is None or not self.spares_new or self.ranking.item_weights_V is not None:
            return negatives_N
        return self.candidates_C[negatives_N]

    def _num_drawn_from(self, student: Scored) -> int:
        """Number of items that the negatives are sampled from."""
        return len(self.candidates_C) if self.spares_new and self.candidates_C is not None else len(student.weight_VW)

    def _hidden_loss(self, student_TW: Tensor, teachers_TW: Tensor, weights_T: Tensor | None) -> Tensor:
        """`1 − cos`, mean over the teachers, whose states lie side by side; summed over positions."""
        assert self.projector is not None
        widths = self._teacher_widths()
        both = self.projector(student_TW).split(widths, 1), teachers_TW.split(widths, 1)
        apart = [hidden_cosine(own, other) for own, other in zip(*both, strict=True)]
        return total_of(torch.stack(apart).mean(0), weights_T)

    def _teacher_widths(self) -> list[int]:
        if self.teacher is not None:
            return [self.teacher.head()[0].shape[1]]
        return [] if self.cached is None else self.cached.widths

    def _draws(self, batch: Batch) -> Draws:
        assert batch.hidden_TK is not None
        assert batch.scales_TN is not None
        return Draws(batch.hidden_TK.view(torch.int32), batch.scales_TN[:, 0], self.kl_weight, self.temperature)

    def _teachers(self, scored: Scored) -> Teachers:
        return Teachers(scored, self.kl_weight, self.temperature)


def _scores_content(model: SequenceModel) -> bool:
    """Whether the title or the features of an item are part of its scoring vector."""
    return model.tied and model.reads_content


def _scored(model: SequenceModel, batch: Batch) -> Scored:
    vectors_VD = model.item_vectors()
    hidden_BLW = model(batch.items_BL, batch.context_BLC, lengths_B=batch.lengths_B, item_vectors_VD=vectors_VD)
    return Scored(hidden_BLW.flatten(0, 1)[batch.positions_T], *model.head(vectors_VD))
