"""Codes for a whole vocabulary: one vector space for all teachers, and titles for new items."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from kdlib.errors import ModelError
from kdlib.models.codes import compose
from kdlib.store import tables
from kdlib.teachers.item_codes import learn_item_codes, read_item_codes
from kdlib.teachers.item_space import item_space


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _gaps(vectors: torch.Tensor) -> torch.Tensor:
    """Inner products of centred vectors. They determine the differences of scores, and so every ranking."""
    centred = vectors - vectors.mean(0)
    return centred @ centred.T


def test_one_teacher_of_that_width_only_turns() -> None:
    """The vectors of a single teacher with the student's width are only centred and rotated."""
    matrix = _normal(50, 6) + 3.0
    space = item_space([(matrix, None)], [2.0], torch.ones(50, dtype=torch.bool), width=6, seed=1)
    torch.testing.assert_close(_gaps(space), _gaps(matrix), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(space.mean(0), torch.zeros(6), rtol=0, atol=1e-5)


def test_a_bias_counts_and_a_narrow_teacher_is_padded() -> None:
    """A teacher's bias is one more direction of its items, and a space wider than the teachers keeps everything."""
    matrix, bias = _normal(50, 4), 2.0 * _normal(50, seed=1)
    space = item_space([(matrix, bias)], [1.0], torch.ones(50, dtype=torch.bool), width=7, seed=1)
    torch.testing.assert_close(_gaps(space), _gaps(torch.cat([matrix, bias[:, None]], 1)), rtol=1e-4, atol=1e-4)


def test_teachers_count_by_weight_not_by_size() -> None:
    """Inner products are the weighted mean of the teachers' inner products at unit size, times the squared mean size."""
    small, large = 0.1 * _normal(60, 5), 10.0 * _normal(60, 9, seed=1)
    space = item_space([(small, None), (large, None)], [3.0, 1.0], torch.ones(60, dtype=torch.bool), width=14, seed=1)
    unit = [_gaps(part) / _gaps(part).diagonal().mean() for part in (small, large)]
    size = sum(w * _gaps(part).diagonal().mean().sqrt() for w, part in ((0.75, small), (0.25, large)))
    expected = size**2 * (0.75 * unit[0] + 0.25 * unit[1])
    torch.testing.assert_close(_gaps(space), expected, rtol=1e-3, atol=1e-3)


def test_a_narrow_space_keeps_the_widest_directions() -> None:
    """PCA drops the directions with the least variance, measured among the known items only."""
    matrix = _normal(400, 5) * torch.tensor([5.0, 4.0, 3.0, 0.1, 0.1])
    known = torch.arange(400) < 300
    matrix[~known, 4] = 1e3
    space = item_space([(matrix, None)], [1.0], known, width=3, seed=1)
    centred = (matrix - matrix[known].mean(0))[known, :3]
    torch.testing.assert_close(space[known] @ space[known].T, centred @ centred.T, rtol=0.02, atol=0.5)


def test_item_space_of_nothing_known_or_broken() -> None:
    """Without known items, or with a vector that is not finite, the space is an error."""
    with pytest.raises(ValueError, match="no item has a training interaction"):
        item_space([(_normal(5, 3), None)], [1.0], torch.zeros(5, dtype=torch.bool), width=3, seed=1)
    broken = _normal(5, 3)
    broken[2, 1] = torch.nan
    with pytest.raises(ModelError, match=r"not all finite.*Train the teacher again"):
        item_space([(broken, None)], [1.0], torch.ones(5, dtype=torch.bool), width=3, seed=1)


SETTINGS: dict[str, Any] = {"count": 4, "size": 16, "width": 6, "seed": 1}


@pytest.mark.parametrize("kind", ["residual", "product"])
def test_tables_come_back_as_learnt(tmp_path: Path, kind: str) -> None:
    """Both tables keep their contracts, also in several files out of order, and their codes rebuild the vectors."""
    matrix = _normal(80, 8)
    settings = SETTINGS | {"width": 8, "kind": kind}
    codes, books, facts = learn_item_codes([(matrix, None)], [1.0], torch.ones(80, dtype=torch.bool), None, **settings)
    for table, name in ((codes, "item_codes"), (books, "item_codebooks")):
        folder = tmp_path / name
        folder.mkdir()
        pq.write_table(table.slice(30), folder / "a.parquet")
        pq.write_table(table.slice(0, 30), folder / "b.parquet")
        assert tables.check_files(tables.ALL[name], folder) == len(table)
    codes_VM, tables_MSd = read_item_codes(tmp_path / "item_codes", tmp_path / "item_codebooks")
    assert codes_VM.dtype == torch.uint8
    assert tables_MSd.shape == (4, 16, 8 if kind == "residual" else 2)
    rebuilt = compose(tables_MSd, codes_VM, width=8)
    lost = (_gaps(rebuilt) - _gaps(matrix)).square().mean() / _gaps(matrix).square().mean()
    assert lost < 0.35
    assert facts["explained_variance"] > 0.6
    assert facts["items"] == {"teacher": 80, "title": 0, "none": 0}


def test_a_new_item_gets_the_codes_of_the_items_it_reads_like() -> None:
    """A new item gets the codes of items with similar titles, and without a title the codes of the mean."""
    group = torch.arange(120) % 3  # titles decide the item vectors: three groups
    titles = torch.nn.functional.normalize(5.0 * torch.eye(3)[group] + 0.3 * _normal(120, 3), dim=1)
    matrix = 4.0 * torch.eye(6)[group] + 0.1 * _normal(120, 6, seed=1)
    known = torch.ones(120, dtype=torch.bool)
    known[:9] = False
    matrix[:9] = 50.0  # never trained: must not count
    titles[6:9] = 0.0
    codes, books, facts = learn_item_codes(
        [(matrix, None)], [1.0], known, titles.numpy(), kind="residual", count=4, size=64, width=6, seed=1
    )
    assert facts["items"] == {"teacher": 111, "title": 6, "none": 3}
    assert codes["source"].to_pylist()[:10] == ["title"] * 6 + ["none"] * 3 + ["teacher"]
    tables_MSd = torch.from_numpy(np.stack(books["codeword"].to_pylist()).reshape(4, 64, 6)).float()
    vectors = compose(tables_MSd, torch.tensor(codes["codes"].to_pylist(), dtype=torch.uint8), width=6)
    means = torch.stack([vectors[9:][group[9:] == number].mean(0) for number in range(3)])
    assert torch.equal(torch.cdist(vectors[:6], means).argmin(1), group[:6])
    assert torch.cdist(vectors[:6], means).amin(1).max() < 1.0
    assert torch.equal(vectors[6:9], torch.zeros(3, 6))
