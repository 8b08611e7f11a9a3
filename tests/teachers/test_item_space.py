"""A student's item table that starts from its teachers' item vectors."""

import torch
from torch.nn import functional as F

from kdlib.models.sequence import SequenceModel
from kdlib.teachers.item_space import start_item_table


def student(dim: int, kind: str = "gru") -> SequenceModel:
    torch.manual_seed(3)
    return SequenceModel(num_items=40, kind=kind, dim=dim, hidden=6)  # type: ignore[arg-type]


def test_items_that_are_alike_to_the_teacher_are_alike_to_the_student() -> None:
    """With enough directions the student's table has the teacher's centred cosines, and other weights do not change."""
    matrix = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    for kind in ("gru", "lstm", "transformer"):
        model, before = student(8, kind), student(8, kind).state_dict()
        start_item_table(model, [(matrix, None)], [1.0], torch.ones(40, dtype=torch.bool), seed=1)
        own, theirs = model.item_embedding.detach(), matrix - matrix.mean(0)
        torch.testing.assert_close(F.normalize(own) @ F.normalize(own).T, F.normalize(theirs) @ F.normalize(theirs).T)
        changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
        assert changed == ["item_embedding"]


def test_a_narrow_student_keeps_the_widest_directions() -> None:
    """If a teacher's third and fourth directions hardly vary, two directions keep nearly all of its distances."""
    matrix = torch.randn(40, 4, generator=torch.Generator().manual_seed(2)) * torch.tensor([3.0, 2.0, 0.01, 0.01])
    model = student(2)
    start_item_table(model, [(matrix, None)], [1.0], torch.ones(40, dtype=torch.bool), seed=1)
    distances = torch.cdist(model.item_embedding.detach(), model.item_embedding.detach())
    torch.testing.assert_close(distances, torch.cdist(matrix, matrix), atol=0.1, rtol=0.02)
    assert model.item_embedding.requires_grad
