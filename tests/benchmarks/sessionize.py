"""One side of the sessionizing comparison, in its own process: `python -m tests.benchmarks.sessionize spark|duckdb …`.

Both sides read the same simulated raw events (Parquet) and write the same sessions table. They drop faulty rows, keep the
first event of each event_id, and drop users with too many events on a day. A new session begins after a gap of 30 minutes.
The table has one row per session with its items in order.

Prints JSON: `seconds` from reading to the finished table without the engine's start, `sessions`, `events` kept, and
`peak_gigabytes` of memory.
"""

import json
import os
import resource
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

GAP_SECONDS = 1800
MOST_A_DAY = 2_000


def spark(events: Path, out: Path, first_day: date, last_day: date, memory: str) -> None:
    """Run the feature job's own steps up to the sessions table, in local mode on all cores."""
    from jobs.runtime.spark_session import start_spark, stop_spark
    from kdlib.config.data import EventsConfig, TimeConfig
    from kdlib.config.run import RunConfig
    from kdlib.features import clean
    from kdlib.features.events import read_events
    from kdlib.features.sessions import sessions_table, with_sessions

    config = RunConfig.model_validate(
        {"name": "bench", "output_dir": str(out), "input": {"simulate": {}}, "spark": {"driver_memory": memory}}
    )
    source = EventsConfig(
        path=str(events),
        format="parquet",
        user="user_id",
        item="item_id",
        event_type="event_type",
        event_id="event_id",
        time=TimeConfig(format="iso", column="event_time"),
    )
    session = start_spark(config, out.parent / "spark.log")
    started = time.perf_counter()
    judged = clean.with_outcome(
        read_events(session, source, last_day=last_day),
        period_start=first_day,
        last_day=last_day,
        max_events_per_user_day=MOST_A_DAY,
        num_partitions=config.spark.shuffle_partitions,
    )
    sessions_table(with_sessions(clean.kept(judged), gap_seconds=GAP_SECONDS)).write.parquet(str(out))
    seconds = time.perf_counter() - started
    stop_spark(session)
    _say(out, seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def duckdb(events: Path, out: Path, first_day: date, last_day: date, memory: str) -> None:
    """Make the same sessions table by DuckDB's SQL."""
    import duckdb as engine

    out.mkdir()
    connection = engine.connect()
    connection.execute(
        f"SET threads = {len(os.sched_getaffinity(0))}; SET memory_limit = '{memory}b'; SET TimeZone = 'UTC'"
    )
    connection.execute(f"SET temp_directory = '{out.parent / 'spill'}'; SET preserve_insertion_order = false")
    started = time.perf_counter()
    connection.execute(f"""
        COPY (
          WITH parsed AS (
            SELECT user_id, item_id, event_id, event_type, try_cast(event_time AS TIMESTAMPTZ) AS event_time
            FROM read_parquet('{events}/*/*.parquet')
            WHERE user_id <> '' AND item_id <> '' AND event_type IN ('view', 'favourite', 'cart', 'purchase')
          ), good AS (
            SELECT * FROM parsed
            WHERE event_time >= TIMESTAMPTZ '{first_day} 00:00:00+00'
              AND event_time < TIMESTAMPTZ '{last_day} 00:00:00+00' + INTERVAL 1 DAY
          ), single AS (
            SELECT * FROM good
            QUALIFY row_number() OVER (PARTITION BY user_id, event_id ORDER BY event_time, item_id, event_type) = 1
          ), counted AS (
            SELECT *, count(*) OVER (PARTITION BY user_id, CAST(event_time AS DATE)) AS day_events FROM single
          ), kept AS (
            SELECT * FROM counted QUALIFY max(day_events) OVER (PARTITION BY user_id) <= {MOST_A_DAY}
          ), marked AS (
            SELECT *, CASE WHEN event_time - lag(event_time) OVER in_order > INTERVAL {GAP_SECONDS} SECOND THEN 1 ELSE 0 END AS opens,
              row_number() OVER in_order AS position
            FROM kept WINDOW in_order AS (PARTITION BY user_id ORDER BY event_time, event_id, item_id, event_type)
          ), numbered AS (
            SELECT *, sum(opens) OVER (PARTITION BY user_id ORDER BY position) AS session_id FROM marked
          )
          SELECT user_id, session_id, min(event_time) AS started_at, max(event_time) AS ended_at, count(*) AS num_events,
            count_if(event_type = 'cart') AS num_carts, count_if(event_type = 'purchase') AS num_purchases,
            list(item_id ORDER BY position) AS item_ids
          FROM numbered GROUP BY user_id, session_id
        ) TO '{out}/part-0.parquet' (FORMAT parquet)
    """)
    seconds = time.perf_counter() - started
    connection.close()
    _say(out, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _say(out: Path, seconds: float, kilobytes: int) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(out, columns=["num_events"])
    facts = {"seconds": seconds, "sessions": len(table), "events": sum(table["num_events"].to_pylist())}
    print(json.dumps(facts | {"peak_gigabytes": kilobytes / 2**20}))


if __name__ == "__main__":
    side, source, first, last, limit = sys.argv[1:]
    with tempfile.TemporaryDirectory(dir=Path(source).parent) as folder:
        {"spark": spark, "duckdb": duckdb}[side](
            Path(source), Path(folder, "out"), date.fromisoformat(first), date.fromisoformat(last), limit
        )
