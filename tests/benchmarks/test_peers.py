"""The peers' split, ranks and figures, tested without the peers. They make the peers' numbers comparable with ours."""

from pathlib import Path

import numpy as np
import pytest

from kdlib.errors import InputError
from tests.benchmarks.peers.run_peers import figures_of, leave_one_out, list_ranks, read_sequences

BEAUTY = Path("../shared/data/beauty/sequences.txt")
SEQUENCES = [("u1", ["a", "b", "c", "d"]), ("u2", ["b", "a", "d", "e", "f"])]


def test_the_peer_sees_everything_but_the_last_item():
    """A history is the sequence without its last item, in order, and the last item is the test target."""
    split = leave_one_out(SEQUENCES)
    names = "abcdef"
    seen = ["".join(names[i] for i in part) for part in np.split(split.items, split.offsets[1:-1])]
    assert seen == ["abc", "bade"]
    assert "".join(names[i] for i in split.targets) == "df"
    assert split.num_items == 6
    assert split.user_ids == ["u1", "u2"]


def test_a_short_history_is_refused():
    """Fewer than four items are too few for training, validation and test. The error names the user and the count."""
    with pytest.raises(InputError, match="user u9: expected 4 or more items, found 3"):
        leave_one_out([*SEQUENCES, ("u9", ["a", "b", "c"])])


def test_a_target_in_the_history_is_refused():
    """A target in the history is an error, not a miss, because the filter for seen items would remove it."""
    with pytest.raises(InputError, match="user u9: the last item a stands in the history too"):
        leave_one_out([*SEQUENCES, ("u9", ["a", "b", "c", "a"])])


def test_a_missing_file_is_named(tmp_path):
    """The error for a missing file says what was expected and where."""
    with pytest.raises(InputError, match="expected a file of lines 'user item item …', found none"):
        read_sequences(tmp_path / "sequences.txt")


def test_a_user_on_two_lines_is_refused(tmp_path):
    """A user on two lines would have two targets, so this is an error."""
    path = tmp_path / "sequences.txt"
    path.write_text("1 5 6 7 8\n2 5 6 7 8\n1 7 8 9 5\n")
    with pytest.raises(InputError, match="found a user twice"):
        read_sequences(path)
    assert read_sequences(path, max_users=2) == [("1", ["5", "6", "7", "8"]), ("2", ["5", "6", "7", "8"])]


def test_rank_is_the_place_in_the_list():
    """The first item of a list has rank 0, and a target outside the list gets the number of items as its rank."""
    split = leave_one_out(SEQUENCES)
    # u1 saw abc and wants d = 3; u2 saw bade and wants f = 5
    assert list_ranks(np.array([[4, 3, 5], [5, 2, -1]]), split).tolist() == [1, 0]
    assert list_ranks(np.array([[4, 5, -1], [2, 5, -1]]), split).tolist() == [6, 1]


@pytest.mark.parametrize("row", [[0, 3, 5], [4, 4, 3]], ids=["seen", "twice"])
def test_seen_or_repeated_items_are_refused(row):
    """A list with a seen item, or with one item twice, would raise the figures. The error names the user."""
    with pytest.raises(InputError, match="list of user u1: expected different unseen items"):
        list_ranks(np.array([row, [5, 2, -1]]), leave_one_out(SEQUENCES))


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([[3, 4, 5]], r"expected shape \[2, K\], found \[1, 3\]"),
        ([[3, 4, 6], [5, 2, -1]], "expected item indices −1 to 5"),
    ],
    ids=["users", "items"],
)
def test_lists_of_another_split_are_refused(lists, message):
    """A missing user or an unknown item is an error, not a miss."""
    with pytest.raises(InputError, match=message):
        list_ranks(np.array(lists), leave_one_out(SEQUENCES))


def test_figures_by_hand():
    """Ranks 0, 2, 9, 10 and missing give NDCG@10 (1 + 1/2 + 1/log2(11)) / 5 and HR@10 3/5, inside their intervals."""
    figures, intervals = figures_of(np.array([0, 2, 9, 10, 6000]), seed=1)
    assert figures == {"ndcg10": round((1 + 0.5 + 1 / np.log2(11)) / 5, 5), "hr10": 0.6}
    for name, value in figures.items():
        assert intervals[name][0] < value < intervals[name][1]


@pytest.mark.skipif(not BEAUTY.is_file(), reason=f"{BEAUTY} is not here")
def test_beauty_has_the_published_counts():
    """The Beauty file has 22,363 users, 12,101 items and 198,502 interactions, including the test targets."""
    split = leave_one_out(read_sequences(BEAUTY))
    assert (len(split.targets), split.num_items, len(split.items) + len(split.targets)) == (22_363, 12_101, 198_502)
