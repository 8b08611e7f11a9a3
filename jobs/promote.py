"""Put a run in use, deliver it, and remove old runs. One switch of `promoted` covers all tables and models."""

from jobs.runtime import telemetry, tracking
from jobs.runtime.console import say, warn
from jobs.runtime.delivery import check, deliver
from jobs.runtime.judging import BY, check_allowed, on_record
from jobs.runtime.names import lists_of, models_of
from jobs.runtime.old_runs import remove_old_runs
from jobs.runtime.published import versions
from kdlib.config.run import RunConfig
from kdlib.errors import DeliveryError
from kdlib.release import promotions
from kdlib.release.freezing import FrozenError
from kdlib.release.promotions import Promotion
from kdlib.store import partitions


def run(config: RunConfig, *, reason: str = "") -> None:
    """Promote the run's date, and give monitoring and the tracker the outcome."""
    try:
        promoted = promote(config, reason=reason)
    except DeliveryError:  # the run is in use nevertheless
        telemetry.write_or_warn(config, DeliveryError.exit_status)
        tracking.follow(config)
        raise
    tracking.follow(config)
    if promoted:  # 0 replaces the exit status of an earlier attempt
        telemetry.write_or_warn(config, 0)
    else:
        telemetry.tell(config)


def promote(config: RunConfig, *, reason: str = "") -> Promotion | None:
    """Put the run's date in use, deliver it and remove old runs. Returns None where the run stays out of use.

    It stays out of use if a later run is in use: a backfill does not take the shop back in time. It also stays out if the
    run in use is frozen, or if a rollback has withdrawn these very tables: a rerun does not undo a rollback. The run in
    use is then delivered, in case the rollback could not deliver it.

    Raises:
      ConfigError: nothing can be delivered to the place in `delivery`.
      InputError: a part of the run is not published, or the gates have judged other tables than the published ones.
      GateError: a gate has failed, or a rollback has withdrawn what the run was built on.
      DeliveryError: the run is in use here, but others cannot read it yet.
    """
    check(config)
    found = _parts_of_search(config)
    if config.input.has_events:
        found = _judged_parts(config) | found
    root, day = config.root, config.day
    if _later_in_use(config, promotions.current(root)):
        return None
    # without gates and metrics, which depend on the runs that are in use, and without the export, whose card has both
    linked = (*promotions.LINKED, *promotions.LISTS, *promotions.SEARCH)
    served = {name: found[name] for name in linked if name in found}
    if withdrawn := promotions.last_use(root, day, served)[1]:
        why = f" ({withdrawn.reason})" if withdrawn.reason else ""
        say(
            f"promote: {day} stays out of use: a rollback to {withdrawn.ds}{why} has withdrawn these very tables."
            f" `distilrec rollback --to {day}` puts them in use again."
            " A run with other input, settings or code is promoted as usual"
        )
        _deliver(config)
        return None
    if damaged := promotions.damaged_records(root):
        warn(
            f"promote: warning: {len(damaged)} records of earlier switches cannot be read and are left out, {damaged[0]} first."
            " `distilrec repair` shows what it would do about them"
        )
    forced = []
    for table in (name for name in BY if name in found):
        forced += [gate.gate for gate in on_record(config, table)[0] if gate.status == "forced"]
        reason = reason or partitions.manifest_of(root, table, day).details.get("reason", "")
    try:
        promoted = promotions.promote(root, day, found, forced=forced, reason=reason)
    except FrozenError as error:
        say(f"promote: {error}")
        _deliver_and_remove_old_runs(config)
        return None
    if _later_in_use(config, promoted):  # a later run was promoted at the same time
        return None
    table = "recommendations" if config.input.has_events else "search_rankings"
    place = f"{config.store}/{promotions.LINK}.json" if config.store else root / promotions.LINK / table
    say(f"promote: {day} is in use: {place}")
    _deliver_and_remove_old_runs(config)
    return promoted


def _deliver(config: RunConfig) -> None:
    if config.delivery and promotions.current(config.root):
        deliver(config)


def _deliver_and_remove_old_runs(config: RunConfig) -> None:
    try:
        _deliver(config)
    except DeliveryError:  # old runs go too: a place that is down for weeks must not fill the disk here
        remove_old_runs(config)
        raise
    remove_old_runs(config)


def _later_in_use(config: RunConfig, now: Promotion | None) -> bool:
    """Whether the run in use is of a later date; then a line says so."""
    if now is None or now.ds <= config.day:
        return False
    say(f"promote: {now.ds} stays in use, because it is later than {config.day}")
    return True


def _judged_parts(config: RunConfig) -> dict[str, str]:
    """Versions of the tables and models that the gates have allowed; else InputError or GateError."""
    root, day = config.root, config.day
    parts = models_of(config)
    events, histories = (partitions.read_manifest(root, name, day) for name in ("clean_events", "histories"))
    # clean events with another fingerprint are of an earlier run of this date
    if events and histories and events.fingerprint == histories.fingerprint:
        parts.append("clean_events")
    found = versions(
        config,
        "recommendations",
        *lists_of(config),
        "histories",
        "item_vocabulary",
        "item_statistics",
        "metrics",
        "gates",
        *([promotions.EXPORT] if config.export else []),
        *parts,
    )
    check_allowed(config, "gates", found)
    return found


def _parts_of_search(config: RunConfig) -> dict[str, str]:
    """Versions of the tables and models of product search that the gates have allowed; else InputError or GateError."""
    if not config.search:
        return {}
    found = versions(config, "products", *promotions.SEARCH, "search_gates")
    check_allowed(config, "search_gates", found)
    return found
