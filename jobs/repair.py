"""Find what is damaged in an output folder, and mend it: `distilrec repair`, then `distilrec repair --yes`."""

from jobs.runtime import tracking
from jobs.runtime.command import Invocation, execute
from jobs.runtime.console import say, warn
from jobs.runtime.lock import held_dates
from kdlib.config.run import RunConfig
from kdlib.release import promotions
from kdlib.release.repair import Fault, faults


def repair(invocation: Invocation, *, yes: bool) -> int:
    """Print the faults, or with `yes` mend them; returns the exit status. It is 1 if a fault is left."""
    left = list[Fault]()
    run = mend if yes else show
    status = execute("repair", invocation, lambda config: left.extend(run(config)), all_dates=True)
    return status or int(bool(left))


def show(config: RunConfig) -> list[Fault]:
    """Print each fault with its remedy; returns the faults."""
    found = faults(config.root, lambda: held_dates(config))
    for fault in found:
        say(f"  {fault.what}\n    {'with --yes' if fault.mend else 'by hand'}: {fault.remedy}")
    _say_busy(config)
    if not found:
        say(f"repair: no fault found in {config.place()}")
    elif num_mended := sum(fault.mend is not None for fault in found):
        say(
            f"repair: {len(found)} found in {config.place()}; `distilrec repair --yes` mends {num_mended}. Nothing is changed yet"
        )
    else:
        say(f"repair: {len(found)} found in {config.place()}; each needs your decision")
    return found


def mend(config: RunConfig) -> list[Fault]:
    """Mend what can be mended, and print it; returns the faults that are left.

    Raises:
      BusyError: another process switches runs.
    """
    root, num_mended = config.root, 0
    with promotions.switching(root, "repair"):
        for fault in faults(root, lambda: held_dates(config), alone=True):
            if fault.mend is None:
                continue
            try:
                fault.mend()
            except OSError as error:
                warn(f"  {fault.what}\n    not done: {fault.remedy}: {error}")
                continue
            say(f"  {fault.what}\n    done: {fault.remedy}")
            num_mended += 1
        left = faults(root, lambda: held_dates(config), alone=True)
    if num_mended:
        tracking.follow(config)
    for fault in left:
        say(f"  {fault.what}\n    {'not done' if fault.mend else 'by hand'}: {fault.remedy}")
    _say_busy(config)
    say(
        f"repair: {num_mended} mended in {config.place()}, {len(left)} left"
        if num_mended or left
        else f"repair: no fault found in {config.place()}"
    )
    return left


def _say_busy(config: RunConfig) -> None:
    if busy := held_dates(config):
        say(f"repair: runs work on {', '.join(sorted(busy))}: what is of these dates is left alone")
