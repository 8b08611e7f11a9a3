"""Remove a user from histories, caches, quarantine, tables, reports and logs of all dates, and prove that no trace is left.

The user's events are not taken in again. Models that have learnt from them are weights, not rows: the next ones that are
trained from nothing know nothing of the user.
"""

import argparse
import sys

from jobs import deliver
from jobs._console import command, say
from kdlib import forgetting, promotions
from kdlib.config import RunConfig
from kdlib.errors import ContractError
from kdlib.privacy import pseudonym, read_key


def run(config: RunConfig, user_id: str) -> None:
    """Remember, erase, prove.

    Raises:
      ContractError: a trace is left, since something wrote at the same time: run it again.
    """
    source = config.privacy.key
    ids = [user_id] if source is None else [pseudonym(read_key(source), user_id), user_id]
    forgetting.remember_to_forget(config.root, ids[0])
    removed: dict[str, int] = {}
    for one in ids:  # nights before there was a key hold the shop's own id
        for place, count in forgetting.erase(config.root, one).items():
            removed[place] = removed.get(place, 0) + count
    for place, count in sorted(removed.items()):
        say(f"  {place}: {count:,} removed")
    left = [path for one in ids for path in forgetting.traces(config.root, one)]
    if left:
        raise ContractError(
            f"{len(left)} files still name the user, {left[0]} first: let other runs end, then forget again"
        )
    say(
        f"forget: {sum(removed.values()):,} rows and lines removed; every file under {config.root} searched: no trace is left"
    )
    if config.delivery and promotions.current(config.root):
        deliver.run(config, only_in_use=True)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--user", required=True, metavar="ID", help="the user, by the shop's own id")


def main(argv: list[str] | None = None) -> int:
    return command(
        "forget", lambda config: None, argv, description=__doc__ or "", add_arguments=_add_arguments,
        with_arguments=lambda config, arguments: run(config, arguments.user),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
