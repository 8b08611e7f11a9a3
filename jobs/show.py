"""Print what users did and what was recommended to them: the quickest way to see whether a table makes sense."""

import argparse
import sys

from jobs.runtime.console import command, safe, say
from kdlib.config.run import RunConfig
from kdlib.privacy.pseudonyms import pseudonym, read_key
from kdlib.report.users import NUM_SAMPLES, read_user, sample_users


def format_user(config: RunConfig, user_id: str) -> str:
    """A user's last interactions and recommendations as text, one line each.

    Raises:
      InputError: histories or recommendations of the date are not published, or do not hold the user.
    """
    user = read_user(config.root, config.day, user_id)
    last = f", the last {len(user.history)}" if len(user.history) < user.num_interactions else ""
    lines = [f"user {safe(user_id)}: {user.num_interactions} interactions{last}:"]
    lines += [f"  {time:%Y-%m-%d %H:%M}  {event:<9}  {safe(title)}" for time, event, title in user.history]
    lines.append(
        f"recommended on {config.day} (source {user.source}, model version {user.model_version}, "
        f"data until {user.generated_at:%Y-%m-%d %H:%M} UTC):"
    )
    for rank, item in enumerate(user.recommended, start=1):
        lines.append(f"  {rank:>3}  {item.score:>9.4f}  {safe(item.title)}")
        if item.because:
            lines.append(f"{'':18}because: {', '.join(map(safe, item.because))}")
    return "\n".join(lines)


def run(config: RunConfig) -> None:
    """Print a few sample users."""
    say("\n\n".join(format_user(config, user) for user in sample_users(config.root, config.day)))


def _run_with_arguments(config: RunConfig, arguments: argparse.Namespace) -> None:
    if arguments.user is None:
        run(config)
    else:
        source = config.privacy.key
        user_id = arguments.user if source is None else pseudonym(read_key(source), arguments.user)
        say(format_user(config, user_id))


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--user", metavar="ID", help=f"the user to show, by the shop's own id (default: {NUM_SAMPLES} sample users)"
    )


def main(argv: list[str] | None = None) -> int:
    return command(
        "show",
        run,
        argv,
        description=__doc__ or "",
        add_arguments=_add_arguments,
        with_arguments=_run_with_arguments,
        reads_only=True,
        in_use=True,
    )


if __name__ == "__main__":
    sys.exit(main())
