"""Ranks of targets, and the Markov baseline."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from kdlib.data.windows import evaluation_rows
from kdlib.inference import baselines
from kdlib.inference.baselines import count_transitions
from kdlib.inference.ranks import ranks_of_models, ranks_of_scores, target_ranks
from kdlib.models.sequence import SequenceModel
from tests.data.test_windows import histories


def test_ties_go_to_the_smaller_index_and_seen_items_do_not_count() -> None:
    """For scores (5, 7, 5, 9), target 2 has rank 3: items 3, 1 and, by the tie, 0 are ahead. With item 3 seen it has rank 2."""
    scores = torch.tensor([[5.0, 7.0, 5.0, 9.0], [5.0, 7.0, 5.0, 9.0]])
    ranks = target_ranks(scores, torch.tensor([2, 2]), seen_rows=torch.tensor([1]), seen_items=torch.tensor([3]))
    assert ranks.tolist() == [3, 2]


def test_a_target_that_is_ruled_out_stands_behind_the_others_alone() -> None:
    """A target of score −inf, unknown to an earlier model, ranks behind the unseen items but not behind the seen ones."""
    scores = torch.tensor([[5.0, 4.0, 3.0, -torch.inf, -torch.inf]]).repeat(2, 1)
    seen = {"seen_rows": torch.tensor([0, 0, 0]), "seen_items": torch.tensor([0, 0, 1])}
    assert target_ranks(scores, torch.tensor([3, 4]), **seen).tolist() == [1, 4]


def test_the_best_items_are_unseen_and_equal_ones_go_by_index() -> None:
    """Of 70 items with the same score, the unseen ones with the smallest indices come first, then −1."""
    prefixes = evaluation_rows(
        histories([([4, 0, 69], [0] * 3, 1, None, 2), ([*range(66), 68], [0] * 67, 1, None, 66)]),
        position_column="test_position",
    )
    found = ranks_of_scores(
        lambda which: torch.zeros(len(which), 70, dtype=torch.float64),
        prefixes,
        num_items=70,
        device=torch.device("cpu"),
        top=6,
    )
    assert found.best.tolist() == [[1, 2, 3, 5, 6, 7], [66, 67, 68, 69, -1, -1]]
    assert found.ranks.tolist() == [67, 2]


def test_nan_scores_are_an_error() -> None:
    """A NaN in the scores is an error, not a rank."""
    nothing = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="NaN"):
        target_ranks(torch.tensor([[float("nan"), 1.0]]), torch.tensor([1]), seen_rows=nothing, seen_items=nothing)


def test_ranks_of_an_ensemble_average_scores() -> None:
    """An ensemble ranks by its weighted mean score, for histories shorter and longer than the model's window."""
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    rows = [
        (generator.permutation(60)[:length].tolist(), [0] * length, 1, None, length - 1) for length in (2, 15, 6, 9, 3)
    ]
    prefixes = evaluation_rows(histories(rows), position_column="test_position")
    options: dict[str, Any] = {"kind": "gru", "dim": 8, "max_length": 5, "session_flag": True, "inputs": ["time_gap"]}
    models = [SequenceModel(num_items=60, **options).eval() for _ in range(2)]
    ranks, best, confidence = ranks_of_models(
        models, [1.0, 3.0], prefixes, device=torch.device("cpu"), top=4, confidence_k=3, batch_size=2
    )
    for row, (items, *_) in enumerate(rows):
        shown = torch.tensor([items[:-1][-5:]])
        context = torch.from_numpy(prefixes.context[prefixes.offsets[row] : prefixes.offsets[row + 1]][-5:])[None]
        first, second = (model(shown, context)[0, -1] @ model.head()[0].T for model in models)
        scores = 0.25 * first + 0.75 * second
        scores[items[:-1]] = -torch.inf
        assert confidence[row] == pytest.approx(scores.softmax(0).topk(3).values.sum().item(), rel=1e-5)
        assert ranks[row] == (scores > scores[items[-1]]).sum()
        assert best[row].tolist() == scores.topk(4).indices.tolist()


@pytest.mark.parametrize("merge_pairs", [1 << 22, 0])
def test_markov_counts_training_pairs_only(tmp_path, monkeypatch, merge_pairs) -> None:
    """Followers are counted at training positions of all files. Items that never followed are ranked by popularity."""
    monkeypatch.setattr(baselines, "MERGE_PAIRS", merge_pairs)
    first = histories([([1, 2, 1, 2, 3], [0] * 5, 4, None, 4), ([2, 0], [0, 0], 1, None, 1)])
    second = histories([([1, 3], [0, 0], 2, None, None)])
    pq.write_table(first, tmp_path / "a.parquet")
    pq.write_table(second, tmp_path / "b.parquet")
    popularity = np.array([0, 3, 3, 1, 9])
    markov = count_transitions([str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")], popularity)
    scores = markov.scores(np.array([1, 2, 0]))
    assert scores.floor().tolist() == [[0, 0, 2, 1, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert scores[2].argsort(descending=True, stable=True).tolist() == [4, 1, 2, 3, 0]
    rows = evaluation_rows(first, position_column="test_position")
    ranks, *_ = ranks_of_scores(
        lambda which: markov.scores(rows.items[rows.offsets[1:] - 1][which]),
        rows,
        num_items=5,
        device=torch.device("cpu"),
    )
    assert ranks.tolist() == [1, 3]


def test_a_history_that_an_earlier_model_cannot_read_is_ranked_by_popularity() -> None:
    """As in batch inference: the ranks are the same with and without readable histories in the batch."""
    torch.manual_seed(0)
    earlier = SequenceModel(num_items=4, kind="gru", dim=8, max_length=5).eval()
    rows = [([4, 5, 2], [0] * 3, 1, None, 2), ([5, 3], [0] * 2, 1, None, 1), ([0, 1, 5, 2], [0] * 4, 1, None, 3)]
    popularity = np.array([5.0, 9.0, 7.0, 6.0, 100.0, 0.0])  # items that the model does not know stay last
    for kept in (rows[:2], rows):
        found = ranks_of_models(
            [earlier],
            [1.0],
            evaluation_rows(histories(kept), position_column="test_position"),
            device=torch.device("cpu"),
            num_items=6,
            popularity_V=popularity,
            top=3,
            confidence_k=1,
        )
        assert found.ranks[:2].tolist() == [1, 2]
        assert found.confidence[:2].tolist() == pytest.approx([9 / 27, 9 / 27])


@pytest.mark.parametrize("inputs", [[], ["time_gap"]])
def test_an_earlier_model_reads_a_history_as_when_it_serves(inputs: list[Any]) -> None:
    """Items newer than the model are read as if they were not there: flags and gaps are those between known items."""
    torch.manual_seed(0)
    earlier = SequenceModel(num_items=4, kind="gru", dim=8, session_flag=True, inputs=inputs).eval()
    whole = [
        [(0, 0, 0), (4, 0, 9), (1, 1, 99), (5, 1, 200), (2, 2, 300)],
        [(3, 0, 0), (5, 0, 5), (4, 0, 900), (0, 0, 901)],
    ]
    known = [[mark for mark in row if mark[0] < 4] for row in whole]
    sure = []
    for rows in (whole, known):
        items, sessions, seconds = ([[mark[part] for mark in row] for row in rows] for part in range(3))
        table = histories([(*row, 1, None, len(row[0]) - 1) for row in zip(items, sessions, strict=True)])
        times = pa.array([[1_000_000 * one for one in row] for row in seconds], pa.list_(pa.int64()))
        field = table.schema.field("event_times")
        table = table.drop_columns("event_times").append_column(field, times.cast(field.type))
        found = ranks_of_models(
            [earlier],
            [1.0],
            evaluation_rows(table, position_column="test_position", with_marks=True),
            device=torch.device("cpu"),
            num_items=6,
            top=1,
            confidence_k=1,
        )
        sure.append(found.confidence.tolist())
    assert sure[0] == pytest.approx(sure[1], abs=1e-7)
