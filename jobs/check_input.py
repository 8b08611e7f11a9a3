"""Judge the input before anything is trained on it. A failed gate ends the run with exit status 3."""

from datetime import timedelta

from jobs.runtime.judging import judge
from jobs.runtime.names import policy_features
from jobs.runtime.published import published
from kdlib.config.run import RunConfig
from kdlib.inference.list_rules import rules_of_policy


def run(config: RunConfig, *, force: str = "") -> None:
    """Judge the input, and check the rules for lists against it.

    Args:
      config: the run config.
      force: why failures are overruled. Empty: they are not.

    Raises:
      GateError: a gate has failed.
      ConfigError: the rules leave no item, or name an item that nobody knows.
    """
    judge(config, parts=("input",), force=force)
    if config.recommend.policy:
        inputs = published(config, "item_vocabulary", *policy_features(config))
        rules_of_policy(
            config.recommend.policy,
            vocabulary=inputs["item_vocabulary"].folder,
            item_features=inputs["item_features"].folder if "item_features" in inputs else None,
            num_items=None,
            day=config.last_day + timedelta(days=1),
            k=config.recommend.k,
        )
