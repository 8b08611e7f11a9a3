"""What benchmarks of many nightly runs share: a simulated shop's own files, day by day, and the check of a published table.

FOLDER/world/                            all days of the shop, as the simulator wrote them
FOLDER/inbox/day=2026-11-22/*.parquet    what the shop has delivered
FOLDER/catalogue/products.parquet        the products of the last delivery
"""

import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from kdlib.config.data import EVENT_TYPES
from kdlib.config.run import RunConfig
from kdlib.release import promotions
from kdlib.simulation.catalogue import catalogue
from kdlib.simulation.input import plan_of
from kdlib.store import partitions
from tests import stages
from tests.faults.shop import own_files
from tests.whole_nights import whole

MARKER = "_SUCCESS"
CHECKS = ("users_missing", "users_too_many", "lists_of_another_length", "items_seen_before", "items_not_sold")
"""What is counted in a published table. All must be 0."""


def unchanged(table: pa.Table) -> pa.Table:
    """The same rows."""
    return table


@dataclass(frozen=True)
class Shop:
    """The simulated days of a shop, and the folders to which it delivers them."""

    folder: Path
    world: RunConfig
    """The run config that simulated the days; its date is the last day."""

    @property
    def inbox(self) -> Path:
        """The folder of the delivered events."""
        return self.folder / "inbox"

    @property
    def input(self) -> dict[str, Any]:
        """The section `input` of a run config that reads the delivered files."""
        return own_files(str(self.inbox / "day={day}"), self.folder / "catalogue", late_days=2)

    def days(self) -> list[date]:
        """All simulated days, in order."""
        events = partitions.current(self.world.root, "events", self.world.day)
        return sorted(date.fromisoformat(path.name.removeprefix("day=")) for path in events.iterdir())

    def events(self, day: date) -> pa.Table:
        """The raw rows of a day."""
        folder = partitions.current(self.world.root, "events", self.world.day) / f"day={day}"
        return pa.concat_tables(pq.ParquetFile(file).read() for file in sorted(folder.iterdir()))

    def deliver(
        self,
        day: date,
        *,
        change: Callable[[pa.Table], pa.Table] = unchanged,
        num_files: int = 1,
        num_copies: int = 0,
    ) -> None:
        """Put a day's events into the inbox, with a marker. Earlier files of the day are replaced.

        Args:
          day: the day.
          change: what happens to the rows on their way.
          num_files: over how many files the rows are spread.
          num_copies: how many of the files come a second time under other names.
        """
        target, fresh, replaced = self.inbox / f"day={day}", self.folder / "arriving", self.folder / "replaced"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        self.inbox.mkdir(exist_ok=True)
        table = change(self.events(day))
        for number in range(num_files):
            start, stop = (len(table) * place // num_files for place in (number, number + 1))
            pq.write_table(table.slice(start, stop - start), fresh / f"part-{number:05d}.parquet")
        for number in range(num_copies):
            shutil.copyfile(fresh / f"part-{number:05d}.parquet", fresh / f"copy-{number:05d}.parquet")
        (fresh / MARKER).touch()
        if target.exists():
            target.rename(replaced)
        fresh.rename(target)
        shutil.rmtree(replaced, ignore_errors=True)

    def deliver_catalogue(self, day: date) -> None:
        """Replace the catalogue with the products that the shop has on a day."""
        plan = plan_of(self.world)
        products = catalogue(plan.world(), seed=plan.seed, until_day=(day - plan.first_day).days)
        (self.folder / "catalogue").mkdir(exist_ok=True)
        pq.write_table(products, self.folder / "arriving.parquet", compression="zstd")
        (self.folder / "arriving.parquet").replace(self.folder / "catalogue" / "products.parquet")


def simulate(folder: Path, settings: dict[str, Any], last_day: date) -> Shop:
    """Simulate a shop until its last day.

    Args:
      folder: gets the days.
      settings: a run config with `input.simulate`.
      last_day: the last day to simulate.
    """
    world = RunConfig.model_validate({**settings, "output_dir": str(folder / "world"), "ds": last_day})
    stages.run("simulate-events", world)
    return Shop(folder, world)


def in_use(root: Path) -> str:
    """The date of the run in use."""
    found = promotions.current(root)
    assert found is not None
    return found.ds


def count_faults(shop: Shop, root: Path, night: date, *, k: int, forgotten: Collection[str] = ()) -> dict[str, int]:
    """Compare the published table of a date with the raw files, with DuckDB.

    Args:
      shop: the delivered files.
      root: the output folder.
      night: the date of the table.
      k: items of a list.
      forgotten: users whom no list may name.

    Returns:
      Each of CHECKS → number of users or items that break it, and `users`, the number of users that the raw files have.
    """
    manifest = whole(root, night.isoformat())
    table = partitions.current(root, "recommendations", night.isoformat())
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'; CREATE TABLE forgotten (user_id VARCHAR)")
    connection.execute("INSERT INTO forgotten SELECT unnest(?)", [list(forgotten)])
    connection.execute(f"""
        CREATE TABLE lists AS SELECT user_id, item_ids FROM read_parquet('{table}/*.parquet');
        CREATE TABLE listed AS SELECT user_id, unnest(item_ids) AS item_id FROM lists;
        CREATE TABLE good AS
          SELECT user_id, item_id, event_id, try_cast(event_time AS TIMESTAMPTZ) AS moment
          FROM read_parquet('{shop.inbox}/*/*.parquet')
          WHERE user_id <> '' AND item_id <> '' AND event_type IN {EVENT_TYPES}
            AND moment < TIMESTAMPTZ '{night} 00:00:00+00' + INTERVAL 1 DAY;
        CREATE TABLE bots AS
          SELECT DISTINCT user_id FROM (SELECT DISTINCT user_id, event_id, moment FROM good)
          GROUP BY user_id, CAST(moment AS DATE) HAVING count(DISTINCT event_id) > 2000;
        CREATE TABLE people AS
          SELECT DISTINCT user_id, item_id FROM good
          WHERE user_id NOT IN (FROM bots) AND user_id NOT IN (FROM forgotten);
        CREATE TABLE sold AS SELECT item_id FROM read_parquet('{shop.folder}/catalogue/*.parquet') WHERE available;
    """)

    def count(query: str) -> int:
        row = connection.execute(f"SELECT count(*) FROM ({query})").fetchone()
        assert row is not None
        return row[0]

    queries = (
        "SELECT user_id FROM people EXCEPT SELECT user_id FROM lists",
        "SELECT user_id FROM lists EXCEPT ALL SELECT DISTINCT user_id FROM people",
        f"FROM lists WHERE len(item_ids) <> {k} OR len(list_distinct(item_ids)) <> {k}",
        "FROM listed SEMI JOIN people USING (user_id, item_id)",
        "FROM listed ANTI JOIN sold USING (item_id)",
    )
    faults = dict(zip(CHECKS, map(count, queries), strict=True))
    users = count("SELECT DISTINCT user_id FROM people")
    assert manifest.rows == users or any(faults.values())
    return faults | {"users": users}
