"""What each rule for lists costs, and the users of each segment."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.runtime.names import policy_features
from jobs.runtime.stage import Input
from kdlib.config.run import RunConfig
from kdlib.inference.list_rules import Segments
from kdlib.metrics.table import WITH_RULES, WITHOUT


def ruled_lists(config: RunConfig, inputs: Mapping[str, Input]) -> dict[str, Any] | None:
    """The arguments of `RuledLists`: the student under all rules, under all but one, and under none.

    None: the run config has no rules. The policies' names are those of the metrics.
    """
    settings, policy = config.recommend, config.recommend.policy
    if policy is None:
        return None
    rules = policy.rules_set()
    policies = {WITH_RULES: policy, **{f"{WITHOUT}{rule}": policy.without(rule) for rule in rules}}
    return {
        "model_folder": str(inputs["models/student"].folder),
        "policies": {**policies, f"{WITHOUT}rules": None},
        "vocabulary_folder": str(inputs["item_vocabulary"].folder),
        **{f"{name}_folder": str(inputs[name].folder) for name in policy_features(config)},
        "day": config.last_day + timedelta(days=1),
        "k": settings.k,
        "item_block": settings.item_block,
    }


def user_segments(config: RunConfig, inputs: Mapping[str, Input], user_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Users by the feature that chooses their rules: `country = de` → bool [users], without empty segments.

    Users whose segment has no rules of its own are `country = (other)`. Without rules for segments, none is named.
    """
    policy = config.recommend.policy
    if policy is None or policy.segments is None:
        return {}
    feature = policy.segments.feature
    found = Segments(inputs["user_features"].folder, feature).of(pa.chunked_array([pa.array(user_ids, pa.string())]))
    named = np.array([one if one in policy.segments.rules else "(other)" for one in found], object)
    return {f"{feature} = {one}": named == one for one in (*policy.segments.rules, "(other)") if (named == one).any()}
