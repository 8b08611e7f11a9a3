"""Bring the run in use to where others read it: an object store or another file system, as Parquet or Delta Lake."""

from jobs.runtime import telemetry
from jobs.runtime.console import say, warn
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError, DeliveryError
from kdlib.release import delivery


def check(config: RunConfig) -> None:
    """Raise ConfigError where nothing can be delivered to the place in `delivery`. Call it before long work."""
    if config.delivery:
        delivery.check_place(config.root, config.delivery.url, delta=config.delivery.format == "delta")


def deliver(config: RunConfig, *, only_in_use: bool = False) -> None:
    """Deliver the run in use, unless the place has it already.

    Args:
      config: with `delivery`.
      only_in_use: remove earlier runs from the place, because they name a forgotten user. If that fails, the next
        delivery does it.

    Raises:
      ConfigError: the run config has no `delivery`, or nothing can be delivered there.
      DeliveryError: the place cannot be reached or written, or may still name a forgotten user.
    """
    settings = config.delivery
    if settings is None:
        raise ConfigError("nowhere to deliver to: set delivery.url in the run config or with --set delivery.url=s3://…")
    send = delivery.deliver_delta if settings.format == "delta" else delivery.deliver
    keep = 0 if only_in_use else config.retention.nights
    done = send(config.root, settings.url, keep=keep, warn=lambda text: warn(f"deliver: warning: {text}"))
    say(f"deliver: {done.ds}, {' and '.join(done.versions)}, is in use at {settings.url}")


def deliver_and_tell(config: RunConfig, *, only_in_use: bool = False) -> None:
    """`deliver` after a manual command has changed what is in use. Monitoring gets status 74 if it fails."""
    try:
        deliver(config, only_in_use=only_in_use)
    except BaseException:  # an interrupt too
        telemetry.tell(config, status=DeliveryError.exit_status)
        raise
    telemetry.tell(config, mends=(74,))
