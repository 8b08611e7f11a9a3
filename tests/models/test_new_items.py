"""Items without training interactions get the mean vector of the items with the nearest titles."""

import torch

from kdlib.models.new_items import NEIGHBOURS, SHARPNESS, nearest_items, with_new_items


def test_neighbours_are_the_nearest_items_of_known_items() -> None:
    """Neighbours, their weights and the mean vector agree with a plain loop over cosines."""
    generator = torch.Generator().manual_seed(1)
    titles_VE, known_V = torch.randn(90, 6, generator=generator), torch.arange(90) % 3 > 0
    vectors_VD = torch.randn(90, 4, generator=generator)
    nearest = nearest_items(known_V, titles_VE)
    assert nearest.new_N.tolist() == list(range(0, 90, 3))
    made_VD = with_new_items(vectors_VD, nearest)
    assert torch.equal(made_VD[known_V], vectors_VD[known_V])
    for row, item in enumerate(nearest.new_N.tolist()):
        cosines = torch.cosine_similarity(titles_VE[item], titles_VE, dim=1)
        best = sorted(known_V.nonzero()[:, 0].tolist(), key=lambda other: -float(cosines[other]))[:NEIGHBOURS]
        assert nearest.neighbours_NK[row].tolist() == best
        shares = torch.exp(SHARPNESS * cosines[best])
        expected_D = (shares[:, None] * vectors_VD[best]).sum(0) / shares.sum()
        torch.testing.assert_close(made_VD[item], expected_D)


def test_few_titles_or_none() -> None:
    """All known items are neighbours if they are few. Without titles, an item keeps its vector."""
    titles_VE = torch.eye(5)
    titles_VE[1] = 0.0  # known, untitled
    titles_VE[4] = 0.0  # new, untitled
    known_V = torch.tensor([True, True, True, False, False])
    vectors_VD = torch.arange(10.0).view(5, 2)
    made_VD = with_new_items(vectors_VD, nearest_items(known_V, titles_VE))
    torch.testing.assert_close(made_VD[3], (vectors_VD[0] + vectors_VD[2]) / 2)
    for same in (0, 1, 2, 4):
        assert torch.equal(made_VD[same], vectors_VD[same])
    untitled_VD = with_new_items(vectors_VD, nearest_items(torch.arange(5) == 1, titles_VE))
    assert torch.equal(untitled_VD, vectors_VD)
    everything = nearest_items(torch.ones(5, dtype=torch.bool), titles_VE)
    assert torch.equal(with_new_items(vectors_VD, everything), vectors_VD)


def test_blocks_do_not_show(monkeypatch) -> None:
    """Computing the cosines in parts changes nothing."""
    titles_VE, known_V = torch.randn(70, 6, generator=torch.Generator().manual_seed(2)), torch.arange(70) < 40
    whole = nearest_items(known_V, titles_VE)
    monkeypatch.setattr("kdlib.models.new_items._CELLS", 90)
    for one, other in zip(whole, nearest_items(known_V, titles_VE), strict=True):
        torch.testing.assert_close(one, other)
