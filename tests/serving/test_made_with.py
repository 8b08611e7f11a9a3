"""What a table says of how it was made, for a server."""

import json
from typing import Any

import pytest

from kdlib.config.run import RunConfig
from kdlib.serving.made_with import MadeWith, made_with

POLICY: dict[str, Any] = {
    "include": {"price": {"min": 3}},
    "exclude": {"brand": ["b.1", "b2"]},
    "exclude_recent": {"purchase": "30d", "view": "ever"},
    "boosts": [{"items": {"brand": ["b3"]}, "factor": 2, "last_day": "2026-12-24"}],
    "pins": [{"item": "a", "place": 1}],
    "segments": {"feature": "country", "rules": {"de": {"at_most": {"brand": 1}}, "fr": {"pins": []}}},
}
EVENTS = {"path": "e.csv", "format": "csv", "user": "u", "item": "i", "time": {"column": "t"}}
CATALOGUE = {"path": "c.csv", "format": "csv", "features": {"brand": "category", "price": "number"}}
USERS = {"path": "u.csv", "format": "csv", "features": {"country": "category"}}


def _made(events: dict[str, Any], **recommend: Any) -> MadeWith:
    source = {"events": EVENTS | events, "catalogue": CATALOGUE, "users": USERS}
    config = {"name": "shop", "output_dir": "out", "input": source, "recommend": recommend}
    written = json.dumps(made_with(RunConfig.model_validate(config)))
    return MadeWith.model_validate(json.loads(written))


def test_rules_survive_the_manifest() -> None:
    """Rules for all users and for segments are the same after they were written as JSON and read."""
    config = {"name": "shop", "output_dir": "out", "recommend": {"k": 7, "because": 1, "policy": POLICY}}
    policy = RunConfig.model_validate(config | {"input": {"events": EVENTS, "catalogue": CATALOGUE, "users": USERS}})
    made = _made({}, k=7, because=1, policy=POLICY)
    assert made.policy == policy.recommend.policy
    assert made.policy is not None
    assert policy.recommend.policy is not None
    for segment in (None, "de", "fr"):
        assert made.policy.rules_of(segment) == policy.recommend.policy.rules_of(segment)
    assert made.policy.rules_of("fr").pins == ()
    assert made.policy.rules_of("de").pins == made.policy.pins
    assert (made.k, made.because, made.session_gap_seconds) == (7, 1, 1800)


@pytest.mark.parametrize(
    ("events", "names", "usual", "gap"),
    [
        ({}, ["view", "favourite", "cart", "purchase"], "view", 1800),
        ({"only_type": "purchase"}, ["view", "favourite", "cart", "purchase"], "purchase", 1800),
        ({"event_type": "t", "event_types": {"pv": "view", "buy": "purchase"}}, ["cart", "pv", "buy"], "view", 1800),
        ({"session": "s"}, ["view"], "view", None),
    ],
)
def test_types_and_sessions_are_those_of_the_input(
    events: dict[str, Any], names: list[str], usual: str, gap: int | None
) -> None:
    """A request may name the shop's types and ours; sessions are the shop's where the input has them."""
    made = _made(events)
    assert set(names) <= set(made.event_types)
    assert (made.usual_type, made.session_gap_seconds) == (usual, gap)
