"""Remove a user from all outputs of all dates, reports and logs too, and prove that no trace is left.

Later runs do not read the user's events. Published models are not changed: they hold weights, not rows. The next models
that are trained from scratch have not seen the user.
"""

import json
from collections import Counter
from pathlib import Path

from jobs.runtime.command import Invocation
from jobs.runtime.console import say, warn
from jobs.runtime.delivery import check, deliver_and_tell
from jobs.runtime.lock import held_dates
from kdlib.config.run import RunConfig
from kdlib.errors import BusyError, ConfigError, ContractError
from kdlib.privacy import forgetting
from kdlib.privacy.pseudonyms import BLANKS, key_check, pseudonym, read_key
from kdlib.release import promotions
from kdlib.store import partitions


def run(config: RunConfig, user_id: str) -> None:
    """Put the user on the list of forgotten users, erase the user here and where runs are delivered, search for traces.

    Raises:
      ConfigError: no user is named. The newest run has pseudonyms and the run config has no key. The list of forgotten
        users has another key. Nothing can be delivered to the place in `delivery`.
      DeliveryError: the place of delivery cannot be reached or written.
      BusyError: a run of another date is at work. The user is on the list, but nothing is erased yet.
      ContractError: a trace is left, because another process wrote at the same time. Run the command again.
    """
    user_id = user_id.strip(BLANKS)
    if not user_id:
        raise ConfigError("--user: expected the user's id, as the shop writes it, and found none")
    check(config)
    key = read_key(config.privacy.key) if config.privacy.key else None
    _check_has_key(config.root, key)
    ids = [user_id] if key is None else [pseudonym(key, user_id), user_id]
    listed = forgetting.digest(ids[0]) in forgetting.forgotten(config.root)
    forgetting.remember_to_forget(config.root, ids[0], key)
    if others := sorted(held_dates(config) - {config.day}):
        raise BusyError(
            f"another run is at work on {', '.join(others)} in {config.root}, and may have read this user's events."
            " The user is on the list of forgotten users, and nothing is erased yet."
            " Run the same command again when that run has ended"
        )
    columns, removed = _user_columns(config), Counter[str]()
    for one in ids:  # runs from before there was a key have the shop's own id
        removed.update(forgetting.erase(config.root, one, user_columns=columns))
    for place, count in sorted(removed.items()):
        say(f"  {place}: {count:,} removed")
    if config.delivery and promotions.current(config.root):
        deliver_and_tell(config, only_in_use=True)
    left = [path for one in ids for path in forgetting.traces(config.root, one, user_columns=columns)]
    if left:
        raise ContractError(
            f"{len(left)} files still name the user or cannot be read, {left[0]} first. Wait for other runs to end, remove"
            f" what killed runs have left below {config.root / partitions.STAGING}, then run the same command again"
        )
    if not removed:
        unknown = (
            "was on the list before" if listed else "is on the list from now on: is the id written as in the input?"
        )
        say(f"forget: no output has named the user, who {unknown}")
    say(f"forget: {removed.total():,} rows, lines and pages removed; {config.root} searched: no trace is left")
    if others := _nights_of_other_keys(config.root, key):
        warn(
            f"forget: warning: {', '.join(others)} were made with another pseudonym key, so this user cannot be found in"
            " them. They are removed with the old runs (retention.nights)"
        )


def _user_columns(config: RunConfig) -> list[str]:
    """The columns of the shop's input that hold users."""
    events, searches = config.input.events, config.input.searches
    return [name for name in (events and (events.user or events.session), searches and searches.user) if name]


def _check_has_key(root: Path, key: bytes | None) -> None:
    """Raise ConfigError where outputs have pseudonyms and there is no key: the user would not be found."""
    newest = partitions.latest(root, "histories")
    if key is None and newest and partitions.manifest_of(root, "histories", newest).details.get("pseudonyms"):
        raise ConfigError(
            f"histories of {newest} in {root} have pseudonyms, but the run config has no key: set privacy.key_file or"
            " privacy.key_environment as that run had it"
        )


def _nights_of_other_keys(root: Path, key: bytes | None) -> list[str]:
    """The dates of runs whose pseudonyms have another key."""
    kept = (root / partitions.VERSIONS / "histories").glob("*/manifest.json")
    made = [json.loads(path.read_text()) for path in kept]
    mine = key_check(key) if key else None
    return sorted({one["ds"] for one in made if (one["details"].get("pseudonyms") or {"check": mine})["check"] != mine})


def load(invocation: Invocation) -> RunConfig:
    """The run config; ConfigError where its output folder is empty. Finding no trace there would prove nothing."""
    config = invocation.load()
    if not any((config.root / name).exists() for name in (partitions.VERSIONS, partitions.STAGING)):
        raise ConfigError(
            f"no run has been made in {config.root}, the output_dir of the run config {invocation.config}, so nobody can"
            " be forgotten there. Give the shop's own run config with --config"
        )
    return config
