"""Comparison of recipes: values by hand, and the printed table."""

import numpy as np
import pytest

from kdlib.metrics.comparison import (
    bucketed_ndcg,
    compare,
    format_comparison,
    history_buckets,
    new_item_recall,
    popularity_buckets,
    realised,
)

MISS, FIRST, THIRD = 99, 0, 2  # NDCG@10 of 0, 1 and 1/2


def _ranks(first_of_ten: int, seeds: int = 2) -> np.ndarray:
    """Ranks of 100 users: of every ten, `first_of_ten` have their target first, the others miss."""
    return np.tile(np.where(np.arange(100) % 10 < first_of_ten, FIRST, MISS), (seeds, 1))


def _compare(student: int, plain: int, teacher: int):
    ranks = {"plain": _ranks(plain), "student": _ranks(student, seeds=3), "teacher_ensemble": _ranks(teacher, seeds=1)}
    return compare(
        realised(ranks),
        plain={"student": "plain"},
        gaps={"student": "gap_closed"},
        samples=200,
        seed=0,
    )


def test_means_differences_and_gap_by_hand() -> None:
    """With plain 0.2, student 0.5 and ensemble 0.6, the difference is 0.3 and the student closes 75% of the gap."""
    figures, intervals = _compare(student=5, plain=2, teacher=6)
    expected = {"plain": 0.2, "student": 0.5, "teacher_ensemble": 0.6, "student_minus_plain": 0.3}
    assert figures == pytest.approx(
        {f"{name}_ndcg10": value for name, value in expected.items()}
        | {f"{name}_hr10": value for name, value in expected.items() if "minus" not in name}
        | {"gap_closed": 0.75}
    )
    assert intervals.keys() == figures.keys()
    for name, (low, high) in intervals.items():
        assert low < figures[name] < high
    # paired by user: the student has every hit of the plain student, so the difference varies less than each of them
    assert intervals["student_minus_plain_ndcg10"][0] > 0.2
    assert intervals["gap_closed"][0] > 0.6
    assert intervals["gap_closed"][1] < 0.9


def test_without_a_gap_no_share_of_it() -> None:
    """An ensemble that is not clearly above the plain student gives no figure for the gap closed."""
    figures, intervals = _compare(student=5, plain=2, teacher=2)
    assert "gap_closed" not in figures
    assert "gap_closed" not in intervals
    assert figures["student_minus_plain_ndcg10"] == pytest.approx(0.3)


def test_popularity_thirds_hold_equal_shares_of_the_interactions() -> None:
    """From the most popular item on, each third of the training interactions is a bucket. Items without any are new."""
    counts_V = np.array([1, 4, 0, 2, 3, 2])
    buckets = popularity_buckets(counts_V, np.arange(6))
    assert {name: np.flatnonzero(chosen).tolist() for name, chosen in buckets.items()} == {
        "head": [1],
        "mid": [3, 4],
        "tail": [0, 5],
        "new": [2],
    }
    assert popularity_buckets(counts_V, np.array([1, 1])).keys() == {"head"}


def test_history_thirds_hold_every_user_once() -> None:
    """Users are split into thirds by length, without empty thirds."""
    buckets = history_buckets(np.array([9, 2, 3, 4, 5, 1]))
    assert {name: chosen.tolist() for name, chosen in buckets.items()} == {
        "up to 2 items": [False, True, False, False, False, True],
        "3 to 4 items": [False, False, True, True, False, False],
        "more than 4 items": [True, False, False, False, True, False],
    }
    assert history_buckets(np.full(5, 7)).keys() == {"up to 7 items"}
    assert history_buckets(np.zeros(0, np.int64)) == {}


def test_buckets_average_over_seeds_and_their_users() -> None:
    """A bucket's value is the mean over its users and all seeds."""
    ranks = {"student": np.array([[FIRST, THIRD, MISS], [FIRST, MISS, MISS]])}
    found = bucketed_ndcg(ranks, {"most": np.array([True, True, False])})
    assert found == {"most": {"users": 2, "student": 0.625}}


def test_the_table_names_every_recipe_once() -> None:
    """Baselines and teachers come first, then the recipes with their difference, gap, size and speed."""
    figures, intervals = _compare(student=5, plain=2, teacher=6)
    facts = {
        "seeds": 2,
        "parameters": 1_000,
        "parameters_without_item_tables": 10,
        "bytes": 4_000,
        "users_per_second": 7,
    }
    models = {"plain": facts | {"main": False}, "student": facts | {"main": True}}
    figures |= {"student_size_ratio": 2.0, "peer_ndcg10": 0.1}
    results = {"figures": figures, "intervals": intervals, "models": models}
    lines = format_comparison(results, {"student": "plain", "plain": None}).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["teacher_ensemble", "peer", "plain", "student"]
    assert "+0.3000" in lines[4]
    assert "75%" in lines[4]
    assert "+" not in lines[3]


def test_new_items_are_judged_on_their_users_alone() -> None:
    """The recall on new items counts only users with a new target, and a recipe that never finds one has 0."""
    ranks = {"knows": np.array([[3, 50, 9], [12, 0, 0]]), "blind": np.array([[99, 0, 99]])}
    found = new_item_recall(ranks, np.array([True, False, True]), samples=50, seed=1)
    assert found.means == {"knows_new_hr10": 0.75, "blind_new_hr10": 0.0}
    assert found.intervals["blind_new_hr10"] == (0.0, 0.0)
    assert found.intervals["knows_new_hr10"][0] < 0.75 <= found.intervals["knows_new_hr10"][1]
    assert new_item_recall(ranks, np.zeros(3, bool), samples=50, seed=1).means == {}
