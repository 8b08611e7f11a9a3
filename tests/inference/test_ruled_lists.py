"""The student's lists for the test users under rules, and their ranks."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from kdlib.config.policy import PolicyConfig
from kdlib.data.windows import evaluation_rows
from kdlib.inference.baselines import Markov
from kdlib.inference.evaluator import Evaluator
from kdlib.inference.ranks import ranked_lists
from kdlib.inference.ruled_lists import RuledLists
from kdlib.store import tables
from tests.inference.test_list_rules import END_OF_DAY, KNOWN, SHOWN_ON, K, histories, lists_of, recommender, shop

__all__ = ["shop"]
POLICY = {
    "exclude": {"tags": ["t1"]},
    "exclude_recent": {"view": "30d", "favourite": "20d", "cart": "40d", "purchase": "30d"},
    "at_most": {"brand": 2},
    "pins": [{"item": "i50", "place": 2}],
    "segments": {"feature": "country", "rules": {"fr": {"at_most": {"brand": 1}, "exclude": {}}}},
}


def _with_targets(people: pa.Table) -> pa.Table:
    """The same users, who all come back on the day on which the lists are shown."""
    rows = [
        row
        | {
            "item_indices": [*row["item_indices"], 20],
            "event_types": [*row["event_types"], 0],
            "event_times": [*row["event_times"], END_OF_DAY + timedelta(hours=9)],
            "session_numbers": [*row["session_numbers"], len(row["item_indices"])],
            "num_train": len(row["item_indices"]),
            "test_position": len(row["item_indices"]),
            "user_values": [],
        }
        for row in people.to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=tables.HISTORIES.schema)


def test_the_lists_are_those_of_the_recommender(shop) -> None:
    """Under each policy the test users get the lists that `recommend` would have given them on that day."""
    people = histories(200)
    known = [max(row["item_indices"]) < KNOWN for row in people.to_pylist()]
    people = people.filter(pa.array(known))
    policy = PolicyConfig.model_validate(POLICY)
    policies = {"all": policy, "none": None, **{rule: policy.without(rule) for rule in policy.rules_set()}}
    lists = RuledLists(
        str(shop / "model"),
        policies,
        vocabulary_folder=str(shop / "vocabulary"),
        item_features_folder=str(shop / "items"),
        user_features_folder=str(shop / "users"),
        day=SHOWN_ON,
        k=K,
        item_block=32,
    )
    rows = evaluation_rows(
        _with_targets(people), position_column="test_position", with_marks=True, everyone=True, seen_days=(0.0,) * 4
    )
    ages = [(END_OF_DAY - time) / timedelta(days=1) for row in people.to_pylist() for time in row["event_times"]]
    np.testing.assert_allclose(np.array(rows.ages, float), ages, atol=1e-6)
    found = lists(rows)
    assert list(found) == ["all", "none", "exclude", "exclude_recent", "at_most", "pins"]
    for name, one in policies.items():
        written = None if one is None else one.model_dump(exclude_unset=True)
        expected = lists_of(recommender(shop, written)(people))
        ours = {user: row[row >= 0].tolist() for user, row in zip(rows.user_ids, found[name], strict=True)}
        assert ours == expected, name
    assert len({found[name].tobytes() for name in found}) == len(found), "each rule changes some list"


def test_the_evaluator_ranks_the_lists_like_a_model(shop) -> None:
    """A rule that hides the target for one segment makes it a miss there, and nowhere else."""
    people = _with_targets(histories(48))
    known = [max(row["item_indices"]) < KNOWN for row in people.to_pylist()]
    rules = {"include": {"price": {"min": 20, "max": 22}}}
    nobody = {"segments": {"feature": "country", "rules": {"fr": {"include": {"price": {"min": 30, "max": 32}}}}}}
    settings = {
        "model_folder": str(shop / "model"),
        "policies": {"with_rules": PolicyConfig.model_validate(rules | nobody), "without_rules": None},
        "vocabulary_folder": str(shop / "vocabulary"),
        "item_features_folder": str(shop / "items"),
        "user_features_folder": str(shop / "users"),
        "day": SHOWN_ON,
        "k": K,
        "item_block": 32,
    }
    markov = Markov(np.zeros(KNOWN + 1, int), np.zeros(0, int), np.zeros(0, int), np.ones(KNOWN))
    models = {"student": [(str(shop / "model"), 1.0)]}
    found = Evaluator(models, markov, 10, 10, 1, ruled=settings)(people.filter(pa.array(known)))
    rows = found.to_pylist()
    assert len(rows) > 10
    segment = {f"u{user:02}": "de" if user % 2 else "fr" for user in range(20)}
    for row in rows:
        missed = segment.get(row["user_id"]) == "fr"
        assert (row["rank/with_rules"] == KNOWN) == missed
        assert missed or row["top/with_rules"][row["rank/with_rules"]] == 20
        assert row["top/with_rules"][8:] == [-1, -1]
        assert row["rank/without_rules"] in (row["rank/student"], KNOWN)
    assert "confidence/with_rules" not in found.column_names


def test_a_policy_without_a_rule() -> None:
    """`without` takes the rule from all users and from all segments, and keeps the other rules."""
    policy = PolicyConfig.model_validate(POLICY)
    assert policy.rules_set() == ["exclude", "exclude_recent", "at_most", "pins"]
    left = policy.without("at_most")
    assert left.rules_set() == ["exclude", "exclude_recent", "pins"]
    assert (left.rules_of("fr").at_most, left.rules_of("fr").exclude, left.rules_of(None).pins) == ({}, {}, policy.pins)
    assert policy.rules_of("fr").at_most == {"brand": 1}
    assert PolicyConfig().rules_set() == []
    only_here = {"segments": {"feature": "country", "rules": {"fr": {"at_most": {"brand": 1}}}}}
    assert PolicyConfig.model_validate(only_here).rules_set() == ["at_most"]


@pytest.mark.parametrize("top", [2, 4])
def test_ranks_of_finished_lists(top: int) -> None:
    """The rank is the place in the list. A target that no list holds is the last of all, and no target is −1."""
    lists = np.array([[5, 6, 7], [5, 6, -1], [5, -1, -1], [5, 6, -1]])
    found = ranked_lists(lists, np.array([7, 5, 6, -1]), num_items=9, top=top)
    assert found.ranks.tolist() == [2, 0, 9, -1]
    assert found.best.tolist() == np.pad(lists, ((0, 0), (0, 1)), constant_values=-1)[:, :top].tolist()
