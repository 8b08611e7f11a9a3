"""What one DeepSpeed engine trains: a student alone, a student with cached teachers, or teacher and student together."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdlib.data.batches import Batch
from kdlib.losses.chunked import Divergence, chunked, divergences
from kdlib.losses.distillation import hidden_cosine, kl_divergence
from kdlib.losses.next_item import LossSums, Scored, Teachers, cross_entropy_and_kl
from kdlib.losses.sampled import draw_negatives, sampled_ranking, sampled_softmax_and_sampled_kl
from kdlib.losses.sparse import Draws, cross_entropy_and_sampled_kl
from kdlib.models.sequence import SequenceModel

SELDOM = 1e-6
"""The share of its weight with which an item that should be no negative is drawn: its logarithm must be a number."""


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
    """The loss on the data, whichever it is."""
    kl: Tensor
    """The divergence from the teachers, whichever it is."""
    teacher_ce: Tensor
    correct: Tensor


class Ranking(NamedTuple):
    """A sampled loss on the data, in place of the cross-entropy over all items."""

    loss: str
    """`sampled_softmax`, `gbce` or `binary_cross_entropy`."""
    negatives: int
    """Drawn anew each step, shared by the step's positions."""
    gbce_calibration: float
    item_weights_V: Tensor | None
    """What negatives are drawn by, float [items] on the model's device; None draws uniformly."""


class Distillation(NamedTuple):
    """A way to follow the teachers other than the KL between whole distributions."""

    loss: str
    """A name of `kdlib.losses.chunked.divergences`."""
    top_items: int
    jensen_shannon_beta: float
    hidden_weight: float
    """Weight of `1 − cos(projected student state, teacher's state)`, the mean over the teachers; 0 leaves it out."""
    auxiliary_head: bool
    """The teachers are followed by a second projection of the student's state, not by the one that serves."""


class NextItemTraining(nn.Module):
    """`L = CE(student) + λ·T²·KL(teacher ‖ student)`, plus the teacher's own CE when it learns along.

    Args:
      student: the model to train.
      teacher: a second model trained in the same engine (joint distillation); no gradient reaches it through the KL.
      cached: finished teachers instead.
      draws: the batches hold draws from finished teachers (`kdlib.teachers.sparse`), and they are followed: over all items,
        or, with `ranking` `sampled_softmax`, over its negatives.
      kl_weight: λ.
      temperature: T.
      dtype: of the logits and their gradients, see `cross_entropy_and_kl`; and of the text vectors that are projected.
      ranking: a sampled loss on the data; None is the cross-entropy over all items. A teacher that learns along keeps
        the cross-entropy.
      distillation: another way to follow the teachers; None is the KL. Its projections are parameters of this module:
        they are trained and checkpointed, but not part of the student that is exported.
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
        distillation: Distillation | None = None,
    ) -> None:
        super().__init__()
        for model in (student, teacher):
            if model is not None and model.text_projection is not None:  # projected anew each step
                model.text_vectors_VE = model.get_buffer("text_vectors_VE").to(dtype)
        self.student = student
        self.teacher = teacher
        self.cached = cached
        self.draws = draws
        self.kl_weight = kl_weight
        self.temperature = temperature
        self.dtype = dtype
        self.ranking = ranking
        self.distillation = distillation
        self._restrict()
        self.projector: nn.Linear | None = None
        self.auxiliary: nn.Linear | None = None
        self.divergence: Divergence = partial(kl_divergence, temperature=temperature)
        if distillation is not None:
            self.divergence = divergences(
                temperature=temperature, top_items=distillation.top_items, beta=distillation.jensen_shannon_beta
            )[distillation.loss]
            width, widths = student.head()[0].shape[1], self._teacher_widths()
            if distillation.hidden_weight and widths:
                self.projector = nn.Linear(width, sum(widths), bias=False)
            if distillation.auxiliary_head and widths:
                self.auxiliary = nn.Linear(width, width, bias=False)
                nn.init.eye_(self.auxiliary.weight)  # it starts as the head that serves

    def forward(self, batch: Batch) -> StepLoss:
        """The loss of one batch, summed over its real positions.

        A model that reads titles and has no teacher competes against the items of the training data only: as an eternal
        negative a new item's text would be learnt to mean "never". A student hears from its teachers how likely it is.
        """
        student, targets_T = _scored(self.student, batch), batch.targets_T
        if self.restricted:
            student, targets_T = self._competing(student, targets_T)
        if self.teacher is not None:
            whole = _scored(self.teacher, batch)
            own, own_targets_T = whole, batch.targets_T
            if _scores_titles(self.teacher):
                own, own_targets_T = self._competing(whole, batch.targets_T)
            teacher_loss = cross_entropy_and_kl(own, own_targets_T, dtype=self.dtype)
            detached = Scored(*(None if part is None else part.detach() for part in whole))  # type: ignore[arg-type]
            loss = self._student_loss(student, targets_T, self._teachers([detached], [1.0]))
            return StepLoss(loss.total + teacher_loss.total, loss.ce, loss.kl, teacher_loss.ce, loss.correct)
        if self.draws:
            if self.ranking is None:
                loss = cross_entropy_and_sampled_kl(student, batch.targets_T, self._draws(batch), dtype=self.dtype)
            else:
                weights_V = self.ranking.item_weights_V
                loss = sampled_softmax_and_sampled_kl(
                    student, batch.targets_T, self._negatives(student), self._draws(batch), item_weights_V=weights_V
                )
            return StepLoss(loss.total, loss.ce, loss.kl, torch.zeros_like(loss.ce), loss.correct)
        teachers = None if self.cached is None else self._teachers(self.cached.scored(batch), self.cached.weights)
        loss = self._student_loss(student, targets_T, teachers)
        return StepLoss(loss.total, loss.ce, loss.kl, torch.zeros_like(loss.ce), loss.correct)

    def _restrict(self) -> None:
        """Note which items the training data have, where there are others and a model scores items by titles."""
        models = [model for model in (self.student, self.teacher) if model is not None]
        trained = [model.get_buffer("trained_V") for model in models if _scores_titles(model)]
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
        """The same among the items of the training data alone."""
        if self.candidates_C is None or self.place_V is None:
            return scored, targets_T
        bias_C = None if scored.bias_V is None else scored.bias_V[self.candidates_C]
        return Scored(scored.hidden_TW, scored.weight_VW[self.candidates_C], bias_C), self.place_V[targets_T]

    def _student_loss(self, student: Scored, targets_T: Tensor, teachers: Teachers | None) -> LossSums:
        how, together = self.distillation, self.ranking is None and self.auxiliary is None
        if teachers is None or (together and (how is None or how.loss == "kl")):
            # the fused form, unless the data is learnt from otherwise
            loss = self._data_loss(student, targets_T, teachers)
        else:
            follower = student
            if self.auxiliary is not None:
                follower = student._replace(hidden_TW=self.auxiliary(student.hidden_TW))
            loss = chunked(
                follower, targets_T, teachers, divergence=self.divergence, cross_entropy=together, dtype=self.dtype
            )
            if not together:
                data = self._data_loss(student, targets_T, None)
                correct = loss.correct if self.auxiliary is None else data.correct
                loss = LossSums(data.total + loss.total, data.ce, loss.kl, correct)
        if how is not None and self.projector is not None and teachers is not None:
            apart = self._hidden_loss(student.hidden_TW, [scored.hidden_TW for scored in teachers.scored])
            loss = loss._replace(total=loss.total + how.hidden_weight * apart)
        return loss

    def _data_loss(self, student: Scored, targets_T: Tensor, teachers: Teachers | None) -> LossSums:
        if self.ranking is None:
            return cross_entropy_and_kl(student, targets_T, teachers, dtype=self.dtype)
        loss, _, calibration, item_weights_V = self.ranking
        return sampled_ranking(
            student,
            targets_T,
            self._negatives(student),
            loss=loss,
            item_weights_V=item_weights_V,
            calibration=calibration,
            num_items=self._num_drawn_from(student),
        )

    def _negatives(self, student: Scored) -> Tensor:
        """This step's, int64 [negatives]."""
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
        """Of how many items the negatives are drawn."""
        return len(self.candidates_C) if self.spares_new and self.candidates_C is not None else len(student.weight_VW)

    def _hidden_loss(self, student_TW: Tensor, teachers_TW: list[Tensor]) -> Tensor:
        """Σ over positions of the mean over teachers of `1 − cos`."""
        assert self.projector is not None
        projected = self.projector(student_TW).split([hidden.shape[1] for hidden in teachers_TW], dim=1)
        apart = [hidden_cosine(own, other) for own, other in zip(projected, teachers_TW, strict=True)]
        return torch.stack(apart).mean(0).sum()

    def _teacher_widths(self) -> list[int]:
        if self.teacher is not None:
            return [self.teacher.head()[0].shape[1]]
        return [] if self.cached is None else [matrix.shape[1] for matrix, _ in self.cached.heads]

    def _draws(self, batch: Batch) -> Draws:
        assert batch.hidden_TK is not None
        assert batch.scales_TN is not None
        return Draws(batch.hidden_TK.view(torch.int32), batch.scales_TN[:, 0], self.kl_weight, self.temperature)

    def _teachers(self, scored: list[Scored], weights: Sequence[float]) -> Teachers:
        return Teachers(scored, weights, self.kl_weight, self.temperature)


def _scores_titles(model: SequenceModel) -> bool:
    """Whether an item's title is part of what scores it."""
    return model.tied and model.text_projection is not None


def _scored(model: SequenceModel, batch: Batch) -> Scored:
    vectors_VD = model.item_vectors()
    hidden_BLW = model(batch.items_BL, batch.context_BLC, lengths_B=batch.lengths_B, item_vectors_VD=vectors_VD)
    return Scored(hidden_BLW.flatten(0, 1)[batch.positions_T], *model.head(vectors_VD))
