"""Remove users from all outputs of all dates, reports and logs too, and prove that no trace is left.

Later runs do not read the users' events. Published models are not changed: they hold weights, not rows. The next models
that are trained from scratch have not seen the users.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

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


def users_of(user: str | None, file: TextIO | None) -> list[str]:
    """The ids that the command line names, each once, as the shop writes them.

    Args:
      user: the one id.
      file: one id a line.

    Raises:
      ConfigError: not exactly one of the two is given, the file is no text, or no id is named.
    """
    if (user is None) == (file is None):
        raise ConfigError("expected --user ID or --users-file FILE, one of the two")
    try:
        lines = [user or ""] if file is None else list(file)
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"--users-file: expected UTF-8, one user's id a line, found something else: {error}"
        ) from None
    found = list(dict.fromkeys(filter(None, (line.strip(BLANKS) for line in lines))))
    if not found:
        where = "--user: expected the user's id" if file is None else "--users-file: expected one user's id a line"
        raise ConfigError(f"{where}, as the shop writes it, and found none")
    return found


def run(config: RunConfig, user_ids: Sequence[str]) -> None:
    """Put users on the list of forgotten users, erase them here and where runs are delivered, search for traces.

    All files are read once for all users, and once more to search.

    Args:
      config: the run config.
      user_ids: from `users_of`.

    Raises:
      ConfigError: The newest run has pseudonyms and the run config has no key. The list of forgotten users has another
        key. Nothing can be delivered to the place in `delivery`.
      DeliveryError: the place of delivery cannot be reached or written.
      BusyError: a run of another date is at work. The users are on the list, but nothing is erased yet.
      ContractError: a trace is left, because another process wrote at the same time. Run the command again.
    """
    check(config)
    key = read_key(config.privacy.key) if config.privacy.key else None
    _check_has_key(config.root, key)
    stored = [pseudonym(key, one) for one in user_ids] if key else list(user_ids)
    who = "the user" if len(stored) == 1 else f"the {len(stored):,} users"
    are = "is" if len(stored) == 1 else "are"
    num_listed = len({*map(forgetting.digest, stored)} & {*forgetting.forgotten(config.root)})
    forgetting.remember_to_forget(config.root, stored, key)
    if others := sorted(held_dates(config) - {config.day}):
        raise BusyError(
            f"another run is at work on {', '.join(others)} in {config.place()}, and may have read the events of {who} before."
            f" {who[0].upper()}{who[1:]} {are} on the list of forgotten users, and nothing is erased yet."
            " Run the same command again when that run has ended"
        )
    ids = {*stored, *user_ids}  # runs from before there was a key have the shop's own ids
    columns = _user_columns(config)
    with promotions.switching(config.root, "forget"):  # meanwhile nobody removes old runs
        removed = Counter(forgetting.erase(config.root, ids, user_columns=columns))
    for place, count in sorted(removed.items()):
        say(f"  {place}: {count:,} removed")
    if config.delivery and promotions.current(config.root):
        deliver_and_tell(config, only_in_use=True)
    if left := forgetting.traces(config.root, ids, user_columns=columns):
        raise ContractError(
            f"{len(left)} files still name {who} or cannot be read, {left[0]} first. Wait for other runs to end, remove"
            f" what killed runs have left below {config.root / partitions.STAGING}, then run the same command again"
        )
    if not removed:
        say(f"forget: no output has named {who}{_are_listed(num_listed, len(stored))}")
    say(
        f"forget: {removed.total():,} rows, lines and pages removed; {config.place()} searched: no trace is left of {who}"
    )
    if others := _nights_of_other_keys(config.root, key):
        warn(
            f"forget: warning: {', '.join(others)} were made with another pseudonym key, so {who} cannot be found in"
            " them. They are removed with the old runs (retention.nights)"
        )


def _are_listed(num_before: int, num_users: int) -> str:
    """Whether the ids may be mistyped, because no output has them."""
    if num_users == 1:
        now = (
            "was on the list before" if num_before else "is on the list from now on: is the id written as in the input?"
        )
        return f", who {now}"
    if num_before == num_users:
        return ", who were on the list before"
    return f": {num_users - num_before:,} are on the list from now on. Are the ids written as in the input?"


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
            f"no run has been made in {config.place()}, the output_dir of the run config {invocation.config}, so nobody can"
            " be forgotten there. Give the shop's own run config with --config"
        )
    return config
