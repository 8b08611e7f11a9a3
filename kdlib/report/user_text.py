"""A user's history and recommendations as text for a terminal."""

from collections.abc import Callable
from pathlib import Path

from kdlib.report.users import read_user


def format_user(root: Path, ds: str, user_id: str, *, safe: Callable[[str], str] = str) -> str:
    """A user's last interactions and recommendations as text, one line each.

    Args:
      root: the folder of all outputs.
      ds: the run's date.
      user_id: as the tables have it.
      safe: makes a text of the shop's fit for a terminal.

    Raises:
      InputError: histories or recommendations of the date are not published, or do not hold the user.
    """
    user = read_user(root, ds, user_id)
    last = f", the last {len(user.history)}" if len(user.history) < user.num_interactions else ""
    lines = [f"user {safe(user_id)}: {user.num_interactions} interactions{last}:"]
    lines += [f"  {time:%Y-%m-%d %H:%M}  {event:<9}  {safe(title)}" for time, event, title in user.history]
    variant = f", variant {user.variant}" if user.variant else ""
    lines.append(
        f"recommended on {ds} (source {user.source}, model version {user.model_version}, "
        f"data until {user.generated_at:%Y-%m-%d %H:%M} UTC{variant}):"
    )
    for rank, item in enumerate(user.recommended, start=1):
        pinned = " (pinned)" if item.pinned else ""
        lines.append(f"  {rank:>3}  {item.score:>9.4f}  {safe(item.title)}{pinned}")
        if item.because:
            lines.append(f"{'':18}because: {', '.join(map(safe, item.because))}")
    return "\n".join(lines)
