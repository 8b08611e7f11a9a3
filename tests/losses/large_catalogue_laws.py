"""Laws of every form of the loss over a large catalogue. They compare it with the references in whole logits."""

import pytest
import torch

from kdlib.losses import sparse
from kdlib.losses.next_item import reference
from kdlib.losses.scored import LossSums, Scored, Teachers, pool

POSITIONS, ITEMS, WIDTH = 37, 101, 12


class LargeCatalogueLaws:
    """A form overrides `loss`, `sampled` and, if it needs one, `device`. Its tests make tiles smaller than the shapes here."""

    device = "cpu"

    def loss(
        self,
        student: Scored,
        targets_T: torch.Tensor,
        teachers: Teachers | None,
        dtype: torch.dtype = torch.float32,
        weights_T: torch.Tensor | None = None,
    ) -> LossSums:
        raise NotImplementedError

    def sampled(
        self,
        student: Scored,
        targets_T: torch.Tensor,
        draws: sparse.Draws,
        dtype: torch.dtype = torch.float32,
        weights_T: torch.Tensor | None = None,
    ) -> LossSums:
        raise NotImplementedError

    def _draws(self, temperature: float, items: int = ITEMS) -> sparse.Draws:
        """Samples among the first items, so that with few items most are sampled more than once."""
        torch.manual_seed(4)
        items_TS = torch.randint(0, items, (POSITIONS, 8), dtype=torch.int32).sort(1).values
        return sparse.Draws(items_TS.to(self.device), -torch.rand(POSITIONS).to(self.device), 0.7, temperature)

    def _student(self, positions: int = POSITIONS, items: int = ITEMS, width: int = WIDTH, *, bias: bool) -> Scored:
        torch.manual_seed(1)
        tensors = [torch.randn(positions, width), torch.randn(items, width), *([torch.randn(items)] if bias else [])]
        return Scored(*(tensor.to(self.device).requires_grad_() for tensor in tensors))

    def _teachers(
        self, number: int, temperature: float, kl_weight: float = 0.7, student: Scored | None = None
    ) -> Teachers | None:
        positions, items = (POSITIONS, ITEMS) if student is None else (len(student.hidden_TW), len(student.weight_VW))
        torch.manual_seed(2)
        scored = [
            Scored(torch.randn(positions, 17 + n), torch.randn(items, 17 + n) / 2, torch.randn(items) if n else None)
            for n in range(number)
        ]
        if not number:
            return None
        pooled = pool(scored, [1.0, 2.5, 0.5][:number])
        on_device = Scored(*(None if part is None else part.to(self.device) for part in pooled))  # type: ignore[arg-type]
        return Teachers(on_device, kl_weight, temperature)

    def _targets(self, positions: int = POSITIONS, items: int = ITEMS) -> torch.Tensor:
        torch.manual_seed(3)
        return torch.randint(0, items, (positions,)).to(self.device)

    def _weights(self) -> torch.Tensor:
        """Weights of a purchase objective, one of them 0."""
        return torch.tensor([0.3, 0.0, 0.9, 3.0]).repeat(POSITIONS)[:POSITIONS].to(self.device)

    def _assert_reference(
        self,
        student: Scored,
        targets_T: torch.Tensor,
        teachers: Teachers | None,
        weights_T: torch.Tensor | None = None,
    ) -> None:
        ours = self.loss(student, targets_T, teachers, weights_T=weights_T)
        plain = reference(student, targets_T, teachers, weights_T=weights_T)
        for name in ("total", "ce", "kl", "correct"):
            torch.testing.assert_close(getattr(ours, name).float(), getattr(plain, name).float(), rtol=1e-5, atol=1e-4)
        for mine, theirs in zip(
            _gradients(ours.total * 0.3, student), _gradients(plain.total * 0.3, student), strict=True
        ):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("bias", [False, True])
    @pytest.mark.parametrize("temperature", [1.0, 2.0, 2.5])
    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_equals_reference(self, number: int, temperature: float, bias: bool) -> None:
        """Loss parts and all gradients agree with whole logits, for no teacher, one, or two of different widths."""
        self._assert_reference(self._student(bias=bias), self._targets(), self._teachers(number, temperature))

    @pytest.mark.parametrize("number", [0, 2])
    def test_weights_of_the_positions(self, number: int) -> None:
        """A position's weight scales its cross-entropy, its divergence and its part of all gradients."""
        student, teachers = self._student(bias=True), self._teachers(number, 2.5)
        self._assert_reference(student, self._targets(), teachers, self._weights())

    @pytest.mark.parametrize("bias", [False, True])
    @pytest.mark.parametrize("temperature", [1.0, 2.0, 2.5])
    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("items", [3, ITEMS])
    def test_sampled_targets_equal_reference(
        self, monkeypatch: pytest.MonkeyPatch, items: int, weighted: bool, temperature: float, bias: bool
    ) -> None:
        """With sampled targets, loss parts and all gradients agree with whole logits, a few positions at a time."""
        monkeypatch.setattr(sparse, "SAMPLED_POSITIONS", 10)
        student, draws = self._student(bias=bias), self._draws(temperature, items)
        weights = self._weights() if weighted else None
        ours = self.sampled(student, self._targets(), draws, weights_T=weights)
        plain = sparse.reference(student, self._targets(), draws, weights_T=weights)
        for name in ("total", "ce", "kl", "correct"):
            torch.testing.assert_close(getattr(ours, name).float(), getattr(plain, name).float(), rtol=1e-5, atol=1e-4)
        for mine, theirs in zip(
            _gradients(ours.total * 0.3, student), _gradients(plain.total * 0.3, student), strict=True
        ):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)

    def test_sampled_targets_in_bfloat16_are_near(self) -> None:
        """bfloat16 factors give the loss and gradients of sampled targets, within their precision."""
        student, draws = self._student(bias=True), self._draws(2.0)
        low = self.sampled(student, self._targets(), draws, torch.bfloat16)
        exact = sparse.reference(student, self._targets(), draws)
        assert low.total.item() == pytest.approx(exact.total.item(), rel=1e-2)
        for ours, theirs in zip(_gradients(low.total, student), _gradients(exact.total, student), strict=True):
            assert torch.linalg.norm(ours - theirs) < 3e-2 * torch.linalg.norm(theirs)

    def test_weights_of_one_change_no_bit(self) -> None:
        """The loss and the gradients with weights of 1 are those without weights, bit for bit."""
        student, targets, teachers = self._student(bias=True), self._targets(), self._teachers(1, 2.0)
        ones = torch.ones(POSITIONS, device=self.device)
        plain, weighted = self.loss(student, targets, teachers), self.loss(student, targets, teachers, weights_T=ones)
        assert torch.equal(plain.total, weighted.total)
        for one, other in zip(_gradients(plain.total, student), _gradients(weighted.total, student), strict=True):
            assert torch.equal(one, other)

    def test_weights_in_bfloat16_are_near(self) -> None:
        """bfloat16 factors give the weighted float32 gradients, within their precision."""
        student, targets, teachers = self._student(bias=True), self._targets(), self._teachers(1, 2.0)
        low = self.loss(student, targets, teachers, torch.bfloat16, self._weights())
        exact = reference(student, targets, teachers, weights_T=self._weights())
        for ours, theirs in zip(_gradients(low.total, student), _gradients(exact.total, student), strict=True):
            assert torch.linalg.norm(ours - theirs) < 3e-2 * torch.linalg.norm(theirs)

    @pytest.mark.parametrize("kl_weight", [0.0, 5.0])
    def test_weight_of_the_divergence(self, kl_weight: float) -> None:
        """λ scales the divergence in the total and in the gradient. With 0 the gradient is that of the cross-entropy."""
        self._assert_reference(self._student(bias=True), self._targets(), self._teachers(1, 2.0, kl_weight))

    @pytest.mark.parametrize(("positions", "items", "width"), [(1, 2, 1), (16, 32, 16), (33, 65, 20), (48, 31, 33)])
    def test_awkward_sizes(self, positions: int, items: int, width: int) -> None:
        """Shapes of one more than a tile, one less, exactly one, and a single position agree with whole logits."""
        student = self._student(positions, items, width, bias=True)
        self._assert_reference(student, self._targets(positions, items), self._teachers(1, 2.0, student=student))

    def test_a_frozen_part_gets_no_gradient(self) -> None:
        """The gradient of the other part stays the same if the matrix or the hidden states are frozen."""
        whole, targets, teachers = self._student(bias=False), self._targets(), self._teachers(1, 2.0)
        wanted = _gradients(self.loss(whole, targets, teachers).total, whole)
        for number, part in enumerate(("hidden_TW", "weight_VW")):
            frozen = Scored(*(tensor.detach() for tensor in whole if tensor is not None))
            learning = getattr(frozen, part).requires_grad_()
            (gradient,) = torch.autograd.grad(self.loss(frozen, targets, teachers).total, learning)
            torch.testing.assert_close(gradient, wanted[number])

    def test_kl_is_zero_when_the_student_is_the_teacher(self) -> None:
        """A student equal to its teacher has a KL of 0 and the gradient of the cross-entropy alone."""
        student, targets = self._student(bias=True), self._targets()
        teacher = Scored(*(tensor.detach() for tensor in student if tensor is not None))
        both = self.loss(student, targets, Teachers(teacher, 5.0, 2.0))
        alone = self.loss(student, targets, None)
        assert abs(both.kl.item()) < 1e-3
        for ours, theirs in zip(_gradients(both.total, student), _gradients(alone.total, student), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("number", [1, 2])
    def test_an_item_that_the_teacher_rules_out(self, number: int) -> None:
        """A teacher's bias of −inf gives the item probability 0. Loss and gradient stay finite."""
        student, teachers = self._student(bias=False), self._teachers(number, 2.0)
        assert teachers is not None
        ruled_out = torch.zeros(ITEMS, device=self.device)
        ruled_out[5] = -torch.inf
        teachers = teachers._replace(scored=teachers.scored._replace(bias_V=ruled_out))
        self._assert_reference(student, self._targets(), teachers)

    def test_no_positions_is_zero(self) -> None:
        """The loss of a batch without real positions is 0, not NaN."""
        student = self._student(0, bias=True)
        loss = self.loss(student, self._targets(0), self._teachers(1, 2.0, student=student))
        assert loss.total.item() == 0
        assert all(gradient.abs().sum() == 0 for gradient in _gradients(loss.total, student))

    def test_bfloat16_is_near(self) -> None:
        """bfloat16 factors give the float32 loss and gradients, within their precision."""
        student, targets, teachers = self._student(bias=True), self._targets(), self._teachers(2, 2.0)
        low, exact = self.loss(student, targets, teachers, torch.bfloat16), reference(student, targets, teachers)
        assert low.total.item() == pytest.approx(exact.total.item(), rel=1e-2)
        for ours, theirs in zip(_gradients(low.total, student), _gradients(exact.total, student), strict=True):
            assert torch.linalg.norm(ours - theirs) < 3e-2 * torch.linalg.norm(theirs)

    def test_extreme_logits_stay_finite(self) -> None:
        """Hidden states of ±1000 give the loss of the reference and a finite gradient."""
        student = self._student(bias=False)
        student = student._replace(hidden_TW=(student.hidden_TW * 1000).detach().requires_grad_())
        targets, teachers = torch.zeros_like(self._targets()), self._teachers(2, 2.0)
        loss = self.loss(student, targets, teachers)
        torch.testing.assert_close(loss.total, reference(student, targets, teachers).total, rtol=1e-4, atol=0.0)
        assert all(torch.isfinite(gradient).all() for gradient in _gradients(loss.total, student))


def _gradients(loss: torch.Tensor, student: Scored) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [tensor for tensor in student if tensor is not None]))
