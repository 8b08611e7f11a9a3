"""Reasons against one forward pass per left-out item, and the checks of written reasons."""

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from kdlib.data.windows import Marks, context_from
from kdlib.errors import ContractError
from kdlib.inference import explain
from kdlib.inference.explain import LEAST, because_of, check_reasons
from kdlib.models.encode import last_hidden
from kdlib.models.sequence import SequenceModel
from kdlib.store.list_tables import RECOMMENDATIONS

NUM_ITEMS = 40
CPU = torch.device("cpu")


def tiny_model(kind="gru", **options):
    torch.manual_seed(5)
    options = {"dim": 8, "session_flag": True, "inputs": ["event_type", "time_gap"], "max_length": 8, **options}
    model = SequenceModel(num_items=NUM_ITEMS, kind=kind, **options)  # pyright: ignore[reportArgumentType]
    for parameter in model.parameters():  # initial weights are too small: all scores would be nearly equal
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval().requires_grad_(False)


class SumModel(torch.nn.Module):
    """The hidden state is the sum of the item vectors, so an item's contribution is the product of two vectors."""

    def __init__(self, vectors, max_length=10):
        super().__init__()
        self.vectors, self.max_length = torch.tensor(vectors, dtype=torch.float32), max_length

    def head(self):
        return self.vectors, None

    def forward(self, items_BL, context_BLC, *, lengths_B):
        return self.vectors[items_BL].cumsum(1)


def seconds_of(place):
    """Time of the interaction at this place of a history. The gaps have very different lengths."""
    return place**5


def explained(model, users, lists, *, because=2):
    """`because_of` for users given as (items, sessions). Event n has type n modulo 4 and the time `seconds_of(n)`."""
    lengths = np.array([len(items) for items, _ in users])
    places = np.concatenate([np.arange(length) for length in lengths])
    items = np.concatenate([items for items, _ in users]).astype(np.int64)
    sessions = np.concatenate([sessions for _, sessions in users])
    times = (seconds_of(places) * 1_000_000).astype("datetime64[us]")
    types, values = (places % 4).astype(np.int8), np.zeros((len(places), 0), np.int8)
    marks = Marks(np.repeat(np.arange(len(users)), lengths), sessions, types, times, values)
    hidden = last_hidden(model, items, context_from(marks), lengths, device=CPU)
    found = because_of(model, items, marks, lengths, hidden, model.head()[0], np.array(lists), because=because)
    return [[[item for item in row if item >= 0] for row in user] for user in found.tolist()]


def only(model, items, wanted, *, because=2):
    """The reasons for each wanted item of one user with one session."""
    return explained(model, [(items, [0] * len(items))], [wanted], because=because)[0]


def by_hand(model, items, sessions, wanted, *, because=2):
    """One user's reasons: one forward pass per left-out item, with each context computed in plain Python."""
    first = max(0, len(items) - model.max_length)
    before = [first - 1] if first else []
    window = range(first, len(items))

    def scores(places):
        opens = [sessions[later] != sessions[sooner] for sooner, later in pairwise(places)] + [True]
        gaps = [0] * (not before)
        spans = [seconds_of(later) - seconds_of(sooner) for sooner, later in pairwise(before + places)]
        gaps += [1 + span.bit_length() for span in spans]
        context = [[int(flag), place % 4, gap] for place, flag, gap in zip(places, opens, gaps, strict=True)]
        read = torch.tensor([[items[place] for place in places]])
        hidden = model(read, torch.tensor([context], dtype=torch.int8))[0, -1]
        weight, bias = model.head()
        return (weight @ hidden if bias is None else weight @ hidden + bias)[wanted]

    if len({items[place] for place in window}) == 1:
        return [[items[-1]] for _ in wanted]
    full = scores(list(window))
    last = {items[place]: place for place in window}
    lost = {item: full - scores([place for place in window if items[place] != item]) for item in last}
    reasons = []
    for number in range(len(wanted)):
        steps = {item: round(float(change[number]) / LEAST) for item, change in lost.items()}
        ranked = sorted(last, key=lambda item: (-steps[item], -last[item]))
        reasons.append([item for item in ranked[:because] if steps[item] > 0])
    return reasons


def random_users(count, *, longest=14, items=NUM_ITEMS):
    random = np.random.default_rng(3)
    users = []
    for number in range(count):
        length = 1 + number % longest
        sessions = np.cumsum(random.random(length) < 0.4)
        users.append((random.integers(0, items, length).tolist(), sessions.tolist()))
    return users, random.integers(0, NUM_ITEMS, (count, 5)).tolist()


@pytest.mark.parametrize("kind", ["lstm", "gru", "transformer"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"session_flag": False, "inputs": []},
        {"session_flag": False, "inputs": ["time_gap"]},
        {"tied": False, "hidden": 12},
        {"layers": 2},
    ],
    ids=["all context", "no context", "gaps", "untied", "two layers"],
)
def test_reasons_are_those_of_a_plain_loop(kind, options, monkeypatch):
    """In batches and chunks, each user gets the same reasons as from one forward pass per left-out item."""
    monkeypatch.setattr(explain, "CHUNK_POSITIONS", 300)
    model = tiny_model(kind, **options)
    users, lists = random_users(42, items=25)
    found = explained(model, users, lists)
    for (items, sessions), wanted, reasons in zip(users, lists, found, strict=True):
        assert reasons == by_hand(model, items, sessions, wanted)
    assert len({len(reasons) for user in found for reasons in user}) == 3


def test_filters_and_codes_are_explained_too():
    """A Transformer with a low-pass filter and a model with codes agree with the plain loop."""
    users, lists = random_users(12)
    codes = {"kind": "residual", "count": 2, "size": 8}
    for model in (tiny_model("transformer", block="bsarec", heads=2), tiny_model(codes=codes)):
        for (items, sessions), wanted, reasons in zip(users, lists, explained(model, users, lists), strict=True):
            assert reasons == by_hand(model, items, sessions, wanted)


VECTORS = [[3, 0], [1, 1], [-1, 2], [0, 0], [1, 0], [0, 1]]
"""Items 4 and 5 are recommended. Items 0 and 1 raise item 4, and item 2 lowers it. Items 2 and 1 raise item 5."""


def test_a_known_model_gives_the_known_reasons():
    """The items with the largest positive products are named, best first, and never one that lowers the score."""
    model = SumModel(VECTORS)
    assert only(model, [0, 2, 1, 3], [4, 5]) == [[0, 1], [2, 1]]
    assert only(model, [0, 2, 1, 3], [4, 5], because=1) == [[0], [2]]
    assert only(model, [0, 2, 1, 3], [4, 5], because=9) == [[0, 1], [2, 1]]
    assert only(model, [2, 3], [4]) == [[]]


def test_equal_contributions_name_the_item_met_last_first():
    """Of two items that raise a score equally up to rounding, the one with the later last occurrence comes first."""
    model = SumModel([[1, 0], [1, 0], [1.00002, 0], [0, 0], [1, 0]])
    assert only(model, [0, 1, 3], [4]) == [[1, 0]]
    assert only(model, [1, 0, 3], [4]) == [[0, 1]]
    assert only(model, [2, 0, 3], [4]) == [[0, 2]]


def test_a_difference_of_rounding_is_no_reason():
    """An item that changes a score by less than half of `LEAST` is not named."""
    model = SumModel([[LEAST * 0.4, 0], [LEAST * 0.6, 0], [1, 0]])
    assert only(model, [0, 1], [2]) == [[1]]


def test_a_repeated_item_is_left_out_everywhere_and_named_once():
    """Two occurrences of a weak item count more than one of a strong item, and the item is named once."""
    model = SumModel([[2, 0], [1.5, 0], [0, 0], [1, 0]])
    assert only(model, [1, 0, 1, 2], [3]) == [[1, 0]]
    assert only(model, [1, 0, 2], [3]) == [[0, 1]]


def test_a_history_of_one_item_is_the_reason_for_all():
    """The only item of a window is always named, even if it occurs twice or other items stand before the window."""
    model = SumModel(VECTORS, max_length=2)
    assert only(model, [2], [4, 5]) == [[2], [2]]
    assert only(model, [2, 2], [4, 5]) == [[2], [2]]
    assert only(model, [0, 2, 2], [4, 5]) == [[2], [2]]


def test_what_the_model_did_not_read_is_never_a_reason():
    """The strongest item is not named if it stands before the window, and it does not move into the window."""
    model = SumModel(VECTORS, max_length=3)
    assert only(model, [0, 2, 1, 3], [4]) == [[1]]
    assert only(model, [0, 2, 1, 0], [4]) == [[0, 1]]


@pytest.mark.parametrize("kind", ["lstm", "gru", "transformer"])
def test_only_items_of_the_window_are_named_and_none_twice(kind):
    """For every kind of model, reasons are distinct items among the last 8 of the user's history."""
    users, lists = random_users(60, longest=20)
    for (items, _), reasons in zip(users, explained(tiny_model(kind), users, lists, because=4), strict=True):
        for named in reasons:
            assert set(named) <= set(items[-8:])
            assert len(set(named)) == len(named) <= 4


@pytest.mark.parametrize("kind", ["lstm", "gru", "transformer"])
def test_reasons_do_not_depend_on_who_else_is_in_the_batch(kind, monkeypatch):
    """Users have the same reasons alone, in another order, and in chunks of one user."""
    model = tiny_model(kind)
    users, lists = random_users(70)
    together = explained(model, users, lists)
    assert explained(model, users[::-1], lists[::-1])[::-1] == together
    assert [explained(model, [user], [wanted])[0] for user, wanted in zip(users, lists, strict=True)] == together
    monkeypatch.setattr(explain, "CHUNK_POSITIONS", 1)
    assert explained(model, users, lists) == together


ITEM_IDS = pa.array(["a", "b", "c", "d", "e"])
GOOD: list[dict[str, Any]] = [
    {"user_id": "u1", "item_ids": ["d", "e"], "source": "model", "because_item_ids": [["b", "a"], []]},
    {"user_id": "u2", "item_ids": ["a"], "source": "popular", "because_item_ids": None},
    {"user_id": "u3", "item_ids": ["a"], "source": "model", "because_item_ids": [["c"]]},
]


def write_tables(folder, rows):
    """Write and check a table and the histories of three users, in two files each with different numbers of rows."""
    histories = [{"user_id": "u1", "item_indices": [0, 1, 0]}, {"user_id": "u2", "item_indices": [4]}]
    parts = {"histories": [histories, [{"user_id": "u3", "item_indices": [2]}]], "lists": [rows[:1], rows[1:]]}
    schema = pa.schema([RECOMMENDATIONS.schema.field(name) for name in GOOD[0]])
    schemas = {"histories": pa.schema({"user_id": pa.string(), "item_indices": pa.list_(pa.int32())}), "lists": schema}
    for name, files in parts.items():
        (folder / name).mkdir()
        for number, part in enumerate(files):
            pq.write_table(pa.Table.from_pylist(part, schemas[name]), folder / name / f"part-{number:05}.parquet")
    check_reasons(folder / "lists", folder / "histories", because=2, item_ids=ITEM_IDS)


def test_good_reasons_pass(tmp_path):
    """A table may have files of other sizes than the histories, items without reasons, and null for popular lists."""
    write_tables(tmp_path, GOOD)


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (0, {"because_item_ids": [["b", "a"]]}, "one list of reasons for each recommended item"),
        (0, {"because_item_ids": [["b", "a", "c"], []]}, "more than 2 reasons for an item"),
        (0, {"because_item_ids": [["b", "b"], []]}, "names the same reason twice"),
        (0, {"because_item_ids": [["b"], ["c"]]}, "names c as a reason, which is not in the history of user u1"),
        (2, {"because_item_ids": [["a"]]}, "part-00001.parquet names a as a reason, .* of user u3"),
        (2, {"because_item_ids": [["stranger"]]}, "names stranger as a reason"),
        (2, {"because_item_ids": None}, "must have reasons for all lists of source model"),
        (1, {"because_item_ids": [[]]}, r"must have reasons for .* no other list"),
        (1, {"user_id": "u9"}, "users in another order than the histories"),
    ],
)
def test_bad_reasons_are_found(tmp_path, number, change, message):
    """Each fault of the reasons is an error that names it."""
    rows = [row | change if place == number else row for place, row in enumerate(GOOD)]
    with pytest.raises(ContractError, match=message):
        write_tables(tmp_path, rows)
