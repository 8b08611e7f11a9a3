from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from kdlib.config.experiment import ExperimentConfig
from kdlib.errors import ContractError, ModelError
from kdlib.inference import recommender
from kdlib.inference.checks import check_recommendations
from kdlib.inference.constrained import Lists
from kdlib.inference.recommender import Recommender, check_vocabulary, read_vocabulary
from kdlib.models import encode
from kdlib.models.files import save_model
from kdlib.models.sequence import SequenceModel
from kdlib.models.vocabulary_hash import vocabulary_hash
from kdlib.store.contract import TIME
from kdlib.store.list_tables import RECOMMENDATIONS

NUM_ITEMS = 60
UNAVAILABLE = {3, 40}
END_OF_DAY = datetime(2026, 11, 23, tzinfo=UTC)


def tiny_model(kind="transformer", num_items=NUM_ITEMS, **options):
    torch.manual_seed(5)
    options = {"dim": 8, "session_flag": True, "inputs": ["event_type", "time_gap"], "max_length": 6, **options}
    model = SequenceModel(num_items=num_items, kind=kind, **options)  # pyright: ignore[reportArgumentType]
    for parameter in model.parameters():  # initial weights are too small: all scores would be nearly equal
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def seconds_of(place):
    """Time of the interaction at this place of a history. The gaps have very different lengths."""
    return place**5


def histories(*rows):
    """HISTORIES columns of `(user, items, sessions)`. Event n has type n modulo 4 and the time `seconds_of(n)`."""
    users, items, sessions = zip(*rows, strict=True)
    times = [[1_000_000 * seconds_of(place) for place in range(len(row))] for row in items]
    return pa.table(
        {
            "user_id": list(users),
            "item_indices": pa.array(items, pa.list_(pa.int32())),
            "event_types": pa.array([[n % 4 for n in range(len(row))] for row in items], pa.list_(pa.int8())),
            "event_times": pa.array(times, pa.list_(pa.int64())).cast(pa.list_(TIME)),
            "session_numbers": pa.array(sessions, pa.list_(pa.int32())),
        }
    )


@pytest.fixture
def store(tmp_path):
    """A vocabulary of 60 items with statistics, and a function that saves a model and makes its recommender."""
    ids = [f"item{index:03}" for index in range(NUM_ITEMS)]
    for name in ("vocabulary", "statistics", "model"):
        (tmp_path / name).mkdir()
    order = list(reversed(range(NUM_ITEMS)))  # the files need not be in index order
    pq.write_table(
        pa.table(
            {
                "item_index": pa.array(order, pa.int32()),
                "item_id": [ids[index] for index in order],
                "available": [index not in UNAVAILABLE for index in order],
            }
        ),
        tmp_path / "vocabulary" / "part-00000.parquet",
    )
    train = [0] * NUM_ITEMS
    train[3], train[7], train[20], train[21], train[50] = 100, 40, 30, 30, 20
    interactions = [count * 2 for count in train]
    interactions[21] += 1
    interactions[50] = 1_000
    pq.write_table(
        pa.table(
            {
                "item_index": pa.array(order, pa.int32()),
                "num_train": [train[index] for index in order],
                "num_interactions": [interactions[index] for index in order],
            }
        ),
        tmp_path / "statistics" / "part-00000.parquet",
    )

    def with_model(model, *, k=5, because=0, experiment=None):
        facts = {"vocabulary_hash": vocabulary_hash(ids[: model.num_items]), "vocabulary_version": "v1"}
        save_model(tmp_path / "model", model, model.state_dict(), facts)
        return Recommender(
            str(tmp_path / "model"),
            str(tmp_path / "vocabulary"),
            str(tmp_path / "statistics"),
            k=k,
            because=because,
            item_block=32,
            generated_at=END_OF_DAY,
            threads=1,
            experiment=experiment,
        )

    return with_model


def by_hand(model, items, sessions, *, k):
    """One user's list by the model's plain forward pass and a full sort."""
    known = [place for place, item in enumerate(items) if item < model.num_items]
    opens = [sessions[later] != sessions[sooner] for sooner, later in pairwise(known)] + [True]
    gaps = [0] + [1 + (seconds_of(later) - seconds_of(sooner)).bit_length() for sooner, later in pairwise(known)]
    context = [[int(flag), place % 4, gap] for place, flag, gap in zip(known, opens, gaps, strict=True)]
    last = slice(-model.max_length, None)
    read = torch.tensor([[items[place] for place in known[last]]])
    hidden = model(read, torch.tensor([context[last]], dtype=torch.int8))[0, -1]
    weight, bias = model.head()
    scores = weight @ hidden if bias is None else weight @ hidden + bias
    scores[[item for item in {*items, *UNAVAILABLE} if item < model.num_items]] = -torch.inf
    best = torch.argsort(-scores, stable=True)[:k]
    return [f"item{index:03}" for index in best.tolist()], scores[best].tolist()


@pytest.mark.parametrize("kind", ["transformer", "gru", "lstm"])
@pytest.mark.parametrize("tied", [True, False])
def test_lists_are_those_of_one_user_at_a_time(store, kind, tied, monkeypatch):
    """Each user of a batch gets the same list as alone, in the order of the rows."""
    monkeypatch.setattr(encode, "ENCODE_ROWS", 4)
    random = np.random.default_rng(3)
    rows = []
    for user in range(15):
        length = int(random.integers(1, 12))
        sessions = np.cumsum(random.random(length) < 0.4)
        rows.append((f"u{user}", random.integers(0, NUM_ITEMS, length).tolist(), sessions.tolist()))
    model = tiny_model(kind, tied=tied)
    found = store(model)(histories(*rows))
    assert found["user_id"].to_pylist() == [user for user, _, _ in rows]
    for (_, items, sessions), row in zip(rows, found.to_pylist(), strict=True):
        want_ids, want_scores = by_hand(model, items, sessions, k=5)
        assert row["item_ids"] == want_ids
        assert row["scores"] == pytest.approx(want_scores, abs=1e-5)
        assert row["source"] == "model"


def test_users_with_other_values_get_other_lists(store):
    """Users with the same history have the list of their own value; reasons too are those of the user's value."""
    table = histories(*((f"u{n}", [1, 2, 4], [0, 0, 1]) for n in range(3)))
    model = tiny_model(user_columns={"country": 1})

    def with_codes(*codes):
        return store(model, because=2)(table.append_column("user_values", pa.array(codes, pa.list_(pa.int8()))))

    found = with_codes([7, 1], [7, 2], [0, 2])
    assert found["scores"][0] != found["scores"][1]
    lists = found.drop_columns(["user_id"]).to_pylist()
    assert lists[1] == lists[2]
    assert lists[0] == with_codes([0, 1], [0, 1], [0, 1]).drop_columns(["user_id"]).to_pylist()[0]


def test_rows_keep_the_contract(store):
    """The columns are plain lists of the contract's types, with model version and end of day in every row."""
    made = store(tiny_model())
    found = made(histories(("a", [1, 2], [0, 0]), ("b", [], [])))
    assert found.schema.equals(RECOMMENDATIONS.schema)
    assert set(found["generated_at"].to_pylist()) == {END_OF_DAY}
    (version,) = set(found["model_version"].to_pylist())
    assert len(version) == 12


def test_reasons_are_a_column_that_changes_no_other(store):
    """With reasons, the other columns stay the same; without, the column of reasons is null in every row."""
    rows = [("a", [1, 2, 4], [0, 0, 1]), ("b", [], []), ("c", [5], [0]), ("d", list(range(57)), [0] * 57)]
    model = tiny_model()
    plain, found = store(model)(histories(*rows)), store(model, because=2)(histories(*rows))
    assert found.schema.equals(RECOMMENDATIONS.schema)
    assert found.drop_columns(["because_item_ids"]).equals(plain.drop_columns(["because_item_ids"]))
    assert plain["because_item_ids"].null_count == len(rows)
    a, b, c, d = found["because_item_ids"].to_pylist()
    assert (len(a), b, c, len(d)) == (5, None, [["item005"]] * 5, 3)
    assert {name for reasons in a for name in reasons} <= {"item001", "item002", "item004"}
    assert all(len(reasons) <= 2 for reasons in a + d)


def test_an_experiment_is_a_column_that_changes_no_other(store):
    """Each user has a variant of the test. Lists, scores and sources are those of a run without a test, where it is null."""
    rows = [(f"user{number}", [1, 2, 4], [0, 0, 1]) for number in range(40)]
    model, experiment = tiny_model(), ExperimentConfig(salt="s", variants={"a": 0.4, "b": 0.4}, holdout=0.2)
    plain, found = store(model)(histories(*rows)), store(model, experiment=experiment)(histories(*rows))
    assert found.schema.equals(RECOMMENDATIONS.schema)
    assert found.drop_columns(["variant"]).equals(plain.drop_columns(["variant"]))
    assert plain["variant"].null_count == len(rows)
    assert set(found["variant"].to_pylist()) == {"a", "b", "holdout"}


def test_users_keep_their_variant_over_ten_nights_and_two_recipes(store):
    """Users, histories and models change from night to night; another run config with the same test has other lists."""
    experiment = ExperimentConfig(salt="s", variants={"a": 0.4, "b": 0.4}, holdout=0.2)
    seen = {}
    for night in range(1, 11):
        rows = [(f"user{number}", [number % 7, night], [0, 1]) for number in range(night // 2, 20 * night)]
        for recipe in (tiny_model(kind="gru"), tiny_model(num_items=40 + night)):
            found = store(recipe, k=3, experiment=experiment)(histories(*rows))
            tonight = dict(zip(found["user_id"].to_pylist(), found["variant"].to_pylist(), strict=True))
            assert {user: seen.get(user, variant) for user, variant in tonight.items()} == tonight
            seen |= tonight
    assert len(seen) == 200


def test_reasons_are_items_without_which_the_score_is_lower(store):
    """Without its first reason in the history, an item's score falls more than without any other item of the history."""
    model = tiny_model(session_flag=False, inputs=[])
    items, made = [1, 2, 4, 6, 8], store(model, k=55, because=1)
    row = made(histories(("a", items, [0] * 5))).to_pylist()[0]
    without = {}
    for place, item in enumerate(items):
        shorter = made(histories(("a", items[:place] + items[place + 1 :], [0] * 4))).to_pylist()[0]
        without[f"item{item:03}"] = dict(zip(shorter["item_ids"], shorter["scores"], strict=True))
    for item_id, score, reasons in zip(row["item_ids"], row["scores"], row["because_item_ids"], strict=True):
        lost = {name: score - scores[item_id] for name, scores in without.items() if item_id in scores}
        if len(lost) == 5:
            best = max(lost, key=lambda name: lost[name])
            assert reasons == ([best] if lost[best] > 0 else [])


def test_items_newer_than_the_model_are_no_reasons(store):
    """Items that the model does not know are never reasons, and do not change the reasons."""
    rows = [("mixed", [1, 55, 2, 4, 56], [0, 0, 1, 1, 1]), ("known", [1, 2, 4], [0, 1, 1]), ("new", [55], [0])]
    model = tiny_model(num_items=50, inputs=[])
    mixed, known, new = store(model, because=3)(histories(*rows)).to_pylist()
    assert mixed["because_item_ids"] == known["because_item_ids"]
    assert new["because_item_ids"] is None


def test_items_seen_before_the_model_s_window_are_left_out(store):
    """The whole history is excluded, though the model reads only its last 6 items."""
    model = tiny_model()
    best = by_hand(model, [1, 2, 4, 5, 6, 8], [0] * 6, k=1)[0]
    long = [int(best[0].removeprefix("item")), 1, 2, 4, 5, 6, 8]
    row = store(model)(histories(("a", long, [0] * 7))).to_pylist()[0]
    assert best[0] not in row["item_ids"]
    assert row["item_ids"] == by_hand(model, long, [0] * 7, k=5)[0]


def test_a_user_without_a_history_gets_the_popular_available_items(store):
    """They are ranked by training interactions, all interactions and index. The score is the share of training interactions."""
    row = store(tiny_model(), k=6)(histories(("new", [], []), ("b", [1], [0]))).to_pylist()[0]
    assert row["source"] == "popular"
    assert row["item_ids"] == ["item007", "item021", "item020", "item050", "item000", "item001"]
    assert row["scores"] == pytest.approx([40 / 220, 30 / 220, 30 / 220, 20 / 220, 0, 0])


def test_a_list_is_shorter_when_fewer_items_are_left(store):
    """A user who has seen all but two of the available items gets two, and one who has seen all gets none."""
    two_left = [index for index in range(NUM_ITEMS) if index not in (10, 11)]
    rows = [("two", two_left, [0] * 58), ("none", list(range(NUM_ITEMS)), [0] * NUM_ITEMS), ("all", [0], [0])]
    found = store(tiny_model())(histories(*rows)).to_pylist()
    assert sorted(found[0]["item_ids"]) == ["item010", "item011"]
    assert [len(row["item_ids"]) for row in found] == [2, 0, 5]
    assert [len(row["scores"]) for row in found] == [2, 0, 5]


def test_items_newer_than_the_model_are_skipped_but_seen(store):
    """A model of the first 50 items neither reads nor recommends later items. A user with later items only gets popular items."""
    model = tiny_model(num_items=50)
    rows = [("mixed", [1, 55, 2], [0, 1, 1]), ("new", [55, 56], [0, 1]), ("empty", [], [])]
    mixed, new, empty = store(model)(histories(*rows)).to_pylist()
    assert mixed["item_ids"] == by_hand(model, [1, 55, 2], [0, 1, 1], k=5)[0]
    assert new["source"] == empty["source"] == "popular"
    assert new["item_ids"] == empty["item_ids"] == ["item007", "item021", "item020", "item000", "item001"]


def test_an_empty_batch_gives_an_empty_table(store):
    """Ray Data may pass an empty batch."""
    found = store(tiny_model())(histories(("a", [1], [0])).slice(0, 0))
    assert found.num_rows == 0
    assert found.schema.equals(RECOMMENDATIONS.schema)


def test_a_sliced_batch_is_read_from_its_own_start(store):
    """A slice of a table, whose buffers begin earlier, gives the same rows as the whole table, with scores up to rounding."""
    made = store(tiny_model())
    whole = histories(("a", [1, 2, 3], [0, 1, 1]), ("b", [4], [0]), ("c", [5, 6], [0, 0]))
    sliced, rows = made(whole.slice(1)).to_pylist(), made(whole).to_pylist()[1:]
    assert [row.pop("scores") for row in sliced] == [pytest.approx(row.pop("scores"), abs=1e-5) for row in rows]
    assert sliced == rows


def test_a_model_with_broken_weights_is_an_error(store):
    """A NaN in the weights stops the batch instead of giving a list."""
    model = tiny_model()
    model.item_embedding.data[9] = torch.nan
    with pytest.raises(ModelError, match="NaN or infinite"):
        store(model)(histories(("a", [1], [0])))


def test_a_seen_item_in_a_list_stops_the_batch(store, monkeypatch):
    """If the top-k returned an item of the history, the batch would fail with the user's id."""

    def careless(hidden_BW, weight_VW, bias_V, rules, *, k, **_):
        shape = len(hidden_BW), k
        return Lists(torch.zeros(shape), torch.arange(k).expand(shape), np.zeros(shape, bool))

    made = store(tiny_model())
    monkeypatch.setattr(recommender, "lists_under_rules", careless)
    with pytest.raises(ContractError, match="user b would be recommended an item of its own history"):
        made(histories(("a", [30], [0]), ("b", [31, 4], [0, 0])))


def test_a_vocabulary_may_grow_but_not_change():
    """More items at the end are right. Fewer items, or other items at a place, are an error that says what to do."""
    facts = {
        "num_items": 2,
        "version": "m1",
        "vocabulary_hash": vocabulary_hash(["a", "b"]),
        "vocabulary_version": "v1",
    }
    check_vocabulary(facts, pa.array(["a", "b"]))
    check_vocabulary(facts, pa.array(["a", "b", "c"]))
    with pytest.raises(ModelError, match=r"model m1 .* vocabulary v1 of 2 items, .* only 1.*Train the model again"):
        check_vocabulary(facts, pa.array(["a"]))
    with pytest.raises(ModelError, match=r"not the first 2 items of this vocabulary.*Train the model again"):
        check_vocabulary(facts, pa.array(["b", "a", "c"]))


def test_a_vocabulary_with_a_gap_is_an_error(tmp_path):
    """Item indices that are not dense would shift every item id."""
    pq.write_table(
        pa.table({"item_index": [0, 2], "item_id": ["a", "b"], "available": [True, True]}), tmp_path / "v.parquet"
    )
    with pytest.raises(ContractError, match="must run from 0 to 1 without gap or repeat"):
        read_vocabulary(tmp_path)


def test_the_reasons_of_the_written_table_are_checked(store, tmp_path):
    """Reasons are compared with the histories: the recommender's own reasons pass, and a changed reason is an error."""
    made = store(tiny_model(), because=2)
    for name in ("histories", "good", "bad"):
        (tmp_path / name).mkdir()
    read = histories(("a", [1, 2, 4], [0, 0, 1]), ("b", [], []), ("c", [5, 6], [0, 1]))
    pq.write_table(read, tmp_path / "histories" / "part-00000.parquet")
    table = made(read)
    pq.write_table(table, tmp_path / "good" / "part-00000.parquet")
    rows = table.to_pylist()
    rows[2]["because_item_ids"][1] = ["item004"]
    pq.write_table(pa.Table.from_pylist(rows, table.schema), tmp_path / "bad" / "part-00000.parquet")
    item_ids = pa.array([f"item{index:03}" for index in range(NUM_ITEMS)])
    limits = {"k": 5, "because": 2, "unavailable": frozenset(), "item_ids": item_ids}
    assert check_recommendations(tmp_path / "good", tmp_path / "histories", **limits) == {"model": 2, "popular": 1}
    with pytest.raises(ContractError, match="names item004 as a reason, which is not in the history of user c"):
        check_recommendations(tmp_path / "bad", tmp_path / "histories", **limits)
