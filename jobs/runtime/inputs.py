"""Find a run's raw input and its version."""

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import Any

import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

from jobs.runtime.input_content import check_files
from jobs.runtime.input_files import files_by_day, version_of, version_of_files
from kdlib.config.data import DAY, CatalogueConfig, EventsConfig, SearchesConfig
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError, InputError
from kdlib.features.arrivals import (
    Days,
    Stretch,
    arrival_lines,
    carried_over,
    carried_until,
    days_of_night,
    days_to_read,
    not_yet_read,
    path_of_days,
    with_late_files,
)
from kdlib.features.events import read_events
from kdlib.features.read import spark_path
from kdlib.features.searches import first_day
from kdlib.privacy import forgetting
from kdlib.release import gates, promotions
from kdlib.store import partitions
from kdlib.store.days import UTC
from kdlib.store.fingerprint import fingerprint_of
from kdlib.store.partitions import Manifest

ID_FORM = 3
"""Raise this number with any change that gives the same input other ids. Earlier events are then not carried over."""
UNREAD = "unread_days"
"""Key of `Days.unread` in the manifest of the clean events."""
FIRST_DAY = "first_day"
"""Key in the same manifest: the first day of arrival among the clean events, carried events included."""


@dataclass(frozen=True)
class NightInput:
    """What the features of a run are made from."""

    events: EventsConfig
    catalogue: CatalogueConfig | None
    days: Days | None
    """The days of arrival; None where the path has no `{day}`."""
    carried: Manifest | None
    """An earlier run's clean events, which are carried over."""
    carried_before: date | None
    """Events of the days before this one are carried over. Events from this day on are read again from the files."""
    settings: str
    """Hash of all settings that decide which events are clean. Only events with the same hash are carried over."""
    versions: dict[str, str]
    """Input name → version, also of the last run's vocabulary."""
    not_carried: str | None = None
    """Date of an earlier run whose events are not carried over, because its `settings` differ."""

    def notes(self) -> list[str]:
        """Lines to print about the days of arrival."""
        if self.days is None:
            return []
        lines = arrival_lines(self.days, path=self.events.path, late_days=self.events.late_days)
        if self.not_carried:
            lines.append(
                f"the events of {self.not_carried} were read under other settings and are not carried over:"
                " all files are read again"
            )
        return lines

    def details(self) -> dict[str, Any]:
        """Details for the manifest of the clean events, for runs that carry them over."""
        if self.days is None:
            return {}
        unread = [[*map(str, stretch)] for stretch in self.days.unread]
        first = self.carried.details.get(FIRST_DAY) if self.carried else str(self.days.to_read[0])
        return {"settings": self.settings, UNREAD: unread, FIRST_DAY: first}


def night_input(config: RunConfig, key: dict[str, Any] | None) -> NightInput:
    """Find the run's input and its version.

    Args:
      config: the run config.
      key: from `jobs.runtime.pseudonym_key.checked_key`.

    Raises:
      InputError: the simulator has not run. A path has no files, no file of the run's day, or an empty file. An earlier
        run's table is damaged. Earlier events cannot be carried over, and their files are gone.
    """
    events, catalogue = _events_and_catalogue(config)
    settings = fingerprint_of(
        config.input.model_dump(
            mode="json",
            exclude={
                "catalogue": True,
                "searches": True,
                "users": True,
                "simulate": {"search_fraction"},
                "events": {"ready"},
            },
        ),
        str(config.features.period_start),
        key,
        ID_FORM,
        *([config.features.time_zone] if config.features.time_zone != UTC else []),
    )
    versions, days, carried, before, not_carried = {}, None, None, None, None
    if DAY in events.path:
        by_day = files_by_day(events.path, needed=config.last_day)
        carried = _earlier_events(config)
        if carried is not None and carried.details.get("settings") != settings:
            _check_all_there(config, carried, first_there=min(by_day), path=events.path)
            not_carried, carried = carried.ds, None
        if carried is not None:
            before = carried_until(date.fromisoformat(carried.ds), late_days=events.late_days)
            versions["clean_events"] = f"{carried.ds}.{carried.version}"
        days = days_of_night(
            by_day,
            last_day=config.last_day,
            period_start=config.features.period_start,
            earlier_day=date.fromisoformat(carried.ds) if carried else None,
            earlier_unread=_unread(carried) if carried else [],
            carried_before=before,
        )
        versions["events"] = version_of_files([file for day in days.to_read for file in by_day[day]], config.root)
        check_files([file for day in days.to_read for file in by_day[day]], events.format, path=events.path)
    elif config.input.simulate is None:
        versions["events"] = version_of(events.path, events.format, config.root)
    else:
        versions["events"] = partitions.manifest_of(config.root, "events", config.day).version
    if catalogue is not None:
        versions["catalogue"] = version_of(catalogue.path, catalogue.format, config.root)
    if (users := config.input.users) and config.user_features:
        versions["users"] = version_of(users.path, users.format, config.root)
    if gone := forgetting.forgotten(config.root):
        versions["forgotten"] = fingerprint_of(gone)
    if earlier := earlier_vocabulary(config):
        versions["item_vocabulary"] = f"{earlier.ds}.{earlier.version}"
    return NightInput(events, catalogue, days, carried, before, settings, versions, not_carried)


def _check_all_there(config: RunConfig, not_carried: Manifest, *, first_there: date, path: str) -> None:
    """Raise InputError where earlier events are not carried over and their files are gone: they would be lost."""
    begin = not_carried.details.get(FIRST_DAY)
    first = max(date.fromisoformat(begin) if begin else first_there, config.features.period_start or date.min)
    if first < first_there:
        raise InputError(
            f"the events of {not_carried.ds} cannot be carried over, because settings have changed since (section input,"
            f" features.period_start, features.time_zone, privacy.key). They begin on {first}, but the files at {path} begin on {first_there}."
            " Put back the files or the settings, or set"
            f" features.period_start: {first_there} to go on without the earlier events"
        )


def read_input(config: RunConfig, source: NightInput, spark: SparkSession) -> DataFrame:
    """The events to judge: from the files, and carried over from an earlier run."""
    days = source.days.to_read if source.days else ()
    zone = config.features.time_zone
    events = read_events(
        spark, source.events, last_day=config.last_day, days=days, key=config.privacy.key, time_zone=zone
    )
    if source.days is None or source.carried is None or source.carried_before is None:
        return events
    events = with_late_files(events, source.days.late)
    folder = partitions.version_data(config.root, "clean_events", source.carried.ds, source.carried.version)
    earlier = carried_over(
        spark.read.parquet(spark_path(folder)),
        events,
        before=source.carried_before,
        source=source.versions["clean_events"],
        time_zone=zone,
    )
    return not_yet_read(events, before=source.carried_before, time_zone=zone).unionByName(earlier)


def _events_and_catalogue(config: RunConfig) -> tuple[EventsConfig, CatalogueConfig | None]:
    """The events and the catalogue of the run config, or those of the simulator for the run's day."""
    if config.input.simulate is None:
        if config.input.events is None:
            raise ConfigError(
                f"the run config {config.name} has no events (input.events): only search can be built from it"
            )
        return config.input.events, config.input.catalogue
    if partitions.read_manifest(config.root, "events", config.day) is None:
        raise InputError(
            f"no simulated events for {config.day} under {config.place()}: run `distilrec simulate-events` first, "
            "or set input.events to read your own"
        )
    from kdlib.simulation.input import simulated_input

    events, catalogue, _ = simulated_input(config)
    partitions.current(config.root, "catalogue", config.day)
    return events.model_copy(update={"path": _in_version(config, "events", events.path)}), catalogue


def _in_version(config: RunConfig, name: str, path: str) -> str:
    """The path of a simulated table's present version. It stays valid if the simulator publishes another version."""
    home = str(partitions.current(config.root, name, config.day))
    return path.replace(str(config.root / name / f"ds={config.day}"), home, 1)


def _unread(clean_events: Manifest) -> list[Stretch]:
    found = clean_events.details.get(UNREAD, ())
    return [(date.fromisoformat(first), date.fromisoformat(last)) for first, last in found]


def search_input(config: RunConfig) -> tuple[SearchesConfig, dict[str, str]]:
    """The search log of the run config or of the simulator, and input name → version.

    Where the log's path has `{day}`, the returned path names the days to read, as Spark understands it.

    Raises:
      ConfigError: the run config names no search log.
      InputError: the simulator has not run, there are no files, or a Parquet or gzip file has no bytes.
    """
    searches, versions = config.input.searches, {}
    if config.input.simulate is not None:
        from kdlib.simulation.input import simulated_input

        *_, searches = simulated_input(config)
        if searches is None:
            raise ConfigError(
                f"run config {config.name}: no searches are simulated, found input.simulate.search_fraction 0. Set it"
                " to the share of sessions that begin with a search, such as 0.3"
            )
        manifest = partitions.read_manifest(config.root, "searches", config.day)
        if manifest is None:
            raise InputError(
                f"no simulated searches for {config.day} under {config.place()}: run `distilrec simulate-events` first"
            )
        searches = searches.model_copy(update={"path": _in_version(config, "searches", searches.path)})
        versions["searches"] = manifest.version
    elif searches is None:
        raise ConfigError(
            f"run config {config.name}: build-queries needs the section input.searches, found none. Name your search log"
            " there (path, format, user, query, item, event_type, position, time), or leave this stage out"
        )
    elif DAY in searches.path:
        by_day = files_by_day(searches.path, needed=config.last_day)
        first = first_day(config.last_day, period_days=config.features.queries.period_days)
        days = days_to_read(by_day, last_day=config.last_day, carried_before=first)
        versions["searches"] = version_of_files([file for day in days for file in by_day[day]], config.root)
        check_files([file for day in days for file in by_day[day]], searches.format, path=searches.path)
        searches = searches.model_copy(update={"path": path_of_days(searches.path, days)})
    else:
        versions["searches"] = version_of(searches.path, searches.format, config.root)
    if gone := forgetting.forgotten(config.root):
        versions["forgotten"] = fingerprint_of(gone)
    return searches, versions


def catalogue_input(config: RunConfig) -> CatalogueConfig | None:
    """The catalogue of the run config, or that of the simulator."""
    return config.input.catalogue if config.input.simulate is None else _events_and_catalogue(config)[1]


def earlier_vocabulary(config: RunConfig) -> Manifest | None:
    """The vocabulary that this run extends: the last promoted run's, so that a blocked run leaves no trace.

    If no run was promoted, it is the newest vocabulary. None on a first run.

    Raises:
      InputError: files of the vocabulary are gone or cut off.
    """
    name = "item_vocabulary"
    return _checked_whole(config, _promoted(config, name) or next(_published(config, name), None))


def _earlier_events(config: RunConfig) -> Manifest | None:
    """The clean events that this run may carry over: the last promoted run's, else the newest that passed their gates.

    A blocked run does not count: it may lack events that its files have now, and no later run would read them. A run
    that was killed before its gates does not count. Run `check-gates` to let it count. If a backfill has made the
    promoted run again, its new events count.
    """
    name = "clean_events"
    promoted = _promoted(config, name)
    there = [partitions.read_manifest(config.root, name, promoted.ds)] if promoted else _published(config, name)
    passed = (found for found in there if found and _have_passed(config, found))
    return _checked_whole(config, next(passed, promoted))


def dates_continued_from(config: RunConfig) -> set[str]:
    """The dates of the earlier runs that this run reads, promoted or not. A damaged one counts for nothing: the run fails."""
    found = set()
    for earlier in (earlier_vocabulary, _earlier_events):
        with suppress(InputError):
            found |= {one.ds for one in [earlier(config)] if one}
    return found


def starts_of(config: RunConfig, days: Collection[str]) -> set[str]:
    """The dates of the earlier runs that the runs of these dates read."""
    runs = [config.model_copy(update={"ds": date.fromisoformat(ds)}) for ds in days]
    return set().union(*map(dates_continued_from, runs))


def _have_passed(config: RunConfig, clean_events: Manifest) -> bool:
    """Whether the gates have judged these very events, none failed, and no rollback has withdrawn them."""
    root, ds = config.root, clean_events.ds
    histories, judged = (partitions.read_manifest(root, name, ds) for name in ("histories", "gates"))
    if not histories or not judged or partitions.damaged(root, judged):
        return False
    if judged.inputs.get("histories") != histories.version:
        return False
    if histories.fingerprint != clean_events.fingerprint:  # the clean events are of an earlier run of that date
        return False
    if gates.failed(gates.gates_of(pq.read_table(partitions.current(root, "gates", ds)))):
        return False
    return promotions.last_use(root, ds, {"clean_events": clean_events.version})[1] is None


def _promoted(config: RunConfig, name: str) -> Manifest | None:
    last = promotions.last_night(config.root, before=config.day, holding=name)
    return promotions.manifest_of(config.root, last, name) if last else None


def _published(config: RunConfig, name: str) -> Iterator[Manifest]:
    """The manifests of all earlier dates, promoted or not, newest first."""
    day = config.day
    while day := partitions.latest(config.root, name, before=day):
        yield partitions.manifest_of(config.root, name, day)


def _checked_whole(config: RunConfig, found: Manifest | None) -> Manifest | None:
    if found and (damaged := partitions.damaged(config.root, found)):
        raise InputError(
            f"{found.table} of {found.ds}, which this run starts from, is damaged: {damaged[0]} is gone or cut off."
            f" Put it back from a copy, or make it again: `distilrec nightly --ds {found.ds}` with the same run config"
        )
    return found
