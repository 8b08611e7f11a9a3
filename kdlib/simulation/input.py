"""How the tables that the simulator publishes are read, as if a shop had delivered them."""

from kdlib.config.data import (
    DAY,
    SIMULATED_FEATURES,
    CatalogueConfig,
    EventsConfig,
    SearchesConfig,
    SimulateConfig,
    TimeConfig,
)
from kdlib.config.run import RunConfig
from kdlib.simulation.events import Plan


def simulated_input(config: RunConfig) -> tuple[EventsConfig, CatalogueConfig, SearchesConfig | None]:
    """How the later stages read what this job publishes for `config.day`; None where no searches are simulated."""
    path = str(config.root / "events" / f"ds={config.day}")
    events = EventsConfig(
        # the nights of a fixed period see the same days, and need not read them again
        path=f"{path}/day={DAY}" if _settings(config).first_day else path,
        format="parquet",
        user="user_id",
        item="item_id",
        event_type="event_type",
        event_id="event_id",
        time=TimeConfig(format="iso", column="event_time"),
    )
    products = CatalogueConfig(
        path=str(config.root / "catalogue" / f"ds={config.day}"),
        format="parquet",
        item="item_id",
        title="title",
        available="available",
        category="category",
        features=SIMULATED_FEATURES,
    )
    if not _settings(config).search_fraction:
        return events, products, None
    searches = SearchesConfig(
        path=str(config.root / "searches" / f"ds={config.day}"),
        format="parquet",
        user="user_id",
        query="query",
        item="item_id",
        event_type="event_type",
        position="position",
        time=TimeConfig(format="iso", column="event_time"),
    )
    return events, products, searches


def plan_of(config: RunConfig) -> Plan:
    """What is simulated; `plan_of(config).world()` is its truth.

    Raises:
      ConfigError: the run config does not simulate, or has no date, or one outside the simulated period.
    """
    settings = _settings(config)
    first, _ = settings.period(config.last_day)
    return Plan(**settings.model_dump(exclude={"first_day"}), first_day=first, until=config.last_day)


def _settings(config: RunConfig) -> SimulateConfig:
    assert config.input.simulate is not None
    return config.input.simulate
