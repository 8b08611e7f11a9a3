"""Keep the run in use in use, whatever later runs say: `distilrec freeze --reason "…"`, and `distilrec unfreeze`."""

from jobs.runtime.console import say
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError
from kdlib.release import freezing, promotions
from kdlib.store import partitions


def freeze(config: RunConfig, reason: str) -> None:
    """Freeze the run in use. A freeze that is there already stays as it is.

    Raises:
      ConfigError: no reason is given.
      BusyError: another process switches runs.
    """
    root = config.root
    if not reason.strip():
        raise ConfigError(
            '--reason: expected why the run in use is frozen, as in --reason "sale until Monday", found none'
        )
    with promotions.switching(root, "freeze"):
        now = promotions.current(root)
        if before := freezing.frozen(root):
            say(f"freeze: nothing changed: {root} is {before} already")
            return
        freezing.freeze(root, reason.strip())
    stays = f"{now.ds} stays in use" if now else "no run is in use, and none comes into use"
    say(
        f"freeze: {stays} in {config.place()} until `distilrec unfreeze`. Runs are still made and judged. `distilrec rollback` works"
    )


def unfreeze(config: RunConfig) -> None:
    """End the freeze, and say which run waits to be promoted."""
    root = config.root
    with promotions.switching(root, "unfreeze"):
        before, now = freezing.frozen(root), promotions.current(root)
        if before is None:
            say(f"unfreeze: nothing changed: {root} is not frozen")
            return
        freezing.unfreeze(root)
    say(f"unfreeze: runs in {config.place()} are promoted again. It was {before}")
    made = [day for table in ("recommendations", "search_rankings") if (day := partitions.latest(root, table))]
    if made and (now is None or max(made) > now.ds):
        say(f"unfreeze: `distilrec promote --ds {max(made)}` puts the newest run in use, if its gates allow it")
