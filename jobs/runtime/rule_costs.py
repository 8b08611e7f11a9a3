"""The student under the rules for lists, under all rules but one, and under none: what each rule costs."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from jobs.runtime.names import side_features
from jobs.runtime.stage import Input
from kdlib.config.run import RunConfig
from kdlib.metrics.table import WITH_RULES, WITHOUT


def ruled_lists(config: RunConfig, inputs: Mapping[str, Input]) -> dict[str, Any] | None:
    """The arguments of `RuledLists`; None: the run config has no rules. The policies' names are those of the metrics."""
    settings, policy = config.recommend, config.recommend.policy
    if policy is None:
        return None
    rules = policy.rules_set()
    policies = {WITH_RULES: policy, **{f"{WITHOUT}{rule}": policy.without(rule) for rule in rules}}
    return {
        "model_folder": str(inputs["models/student"].folder),
        "policies": {**policies, f"{WITHOUT}rules": None},
        "vocabulary_folder": str(inputs["item_vocabulary"].folder),
        **{f"{name}_folder": str(inputs[name].folder) for name in side_features(config)},
        "day": config.last_day + timedelta(days=1),
        "k": settings.k,
        "item_block": settings.item_block,
    }
