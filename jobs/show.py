"""Print what users did and what was recommended to them: the quickest way to see whether a table makes sense."""

from jobs.runtime.console import safe, say
from kdlib.config.run import RunConfig
from kdlib.privacy.pseudonyms import pseudonym, read_key
from kdlib.report.user_text import format_user
from kdlib.report.users import sample_users


def run(config: RunConfig, *, user: str | None = None) -> None:
    """Print a user, by the shop's own id, or a few sample users."""
    if user is None:
        users = sample_users(config.root, config.day)
    else:
        source = config.privacy.key
        users = [user if source is None else pseudonym(read_key(source), user)]
    say("\n\n".join(format_user(config.root, config.day, one, safe=safe) for one in users))
