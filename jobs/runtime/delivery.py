"""Bring the night in use to where others read it: an object store or another file system, as Parquet or Delta Lake."""

from jobs.runtime import telemetry
from jobs.runtime.console import say
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError, DeliveryError
from kdlib.release import delivery


def check(config: RunConfig) -> None:
    """ConfigError where `delivery` names a place that nothing can be delivered to; for the start of what delivers at its end."""
    if config.delivery:
        delivery.check_place(config.root, config.delivery.url, delta=config.delivery.format == "delta")


def deliver(config: RunConfig, *, only_in_use: bool = False) -> None:
    """Deliver what is in use; a night that is there already costs a look.

    Args:
      config: with `delivery`.
      only_in_use: earlier nights leave the place, for a user whom they name was forgotten. Where that fails, the next
        delivery does it without being told.

    Raises:
      ConfigError: as `check`; or there is no `delivery`.
      DeliveryError: the place cannot be reached or written, or may still name a forgotten user.
    """
    settings = config.delivery
    if settings is None:
        raise ConfigError("nowhere to deliver to: set delivery.url in the run config or with --set delivery.url=s3://…")
    send = delivery.deliver_delta if settings.format == "delta" else delivery.deliver
    keep = 0 if only_in_use else config.retention.nights
    done = send(config.root, settings.url, keep=keep, warn=lambda text: say(f"deliver: warning: {text}"))
    say(f"deliver: {done.ds}, {' and '.join(done.versions)}, is in use at {settings.url}")


def deliver_and_tell(config: RunConfig, *, only_in_use: bool = False) -> None:
    """`deliver`, once what is in use here was changed by hand: monitoring hears that others read it too, or do not yet (74)."""
    try:
        deliver(config, only_in_use=only_in_use)
    except BaseException:  # interrupted, say
        telemetry.tell(config, status=DeliveryError.exit_status)
        raise
    telemetry.tell(config, mends=(74,))
