"""The faults of the row of nights are drawn the same way each time, and its checks find what is wrong in a table."""

from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdlib.config.run import RunConfig
from kdlib.store import list_tables, partitions
from tests.benchmarks.night_faults import BEFORE, DURING, QUIET_NIGHTS, draw
from tests.benchmarks.night_figures import figures
from tests.benchmarks.night_watch import fault_of
from tests.benchmarks.shop_nights import Shop, count_faults
from tests.benchmarks.sixty_nights import SEED

DAY = date(2026, 10, 2)
EVENTS = [
    # user, item, time; u3 comes a day later, and a row has no user
    ("u1", "a", "2026-10-01T10:00:00Z"),
    ("u1", "b", "2026-10-02T10:00:00Z"),
    ("u2", "a", "2026-10-02T11:00:00Z"),
    ("u3", "c", "2026-10-03T00:00:00Z"),
    (None, "c", "2026-10-02T12:00:00Z"),
]
GOOD = {"u1": ["c", "d"], "u2": ["b", "c"]}
NO_FAULT = dict.fromkeys(
    ("users_missing", "users_too_many", "lists_of_another_length", "items_seen_before", "items_not_sold"), 0
)


def _shop(folder: Path, lists: dict[str, list[str]]) -> tuple[Shop, Path]:
    """A shop that has delivered EVENTS and sells a to d, and an output folder with a table of these lists."""
    inbox, root = folder / "inbox" / f"day={DAY}", folder / "output"
    for place in (inbox, folder / "catalogue"):
        place.mkdir(parents=True)
    rows = [
        {"user_id": user, "item_id": item, "event_id": f"e{number}", "event_type": "view", "event_time": time}
        for number, (user, item, time) in enumerate(EVENTS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), inbox / "part-0.parquet")
    products = [{"item_id": item, "available": item != "e"} for item in "abcde"]
    pq.write_table(pa.Table.from_pylist(products), folder / "catalogue" / "products.parquet")
    end = datetime(2026, 10, 3, tzinfo=UTC)
    same = {"source": "model", "model_version": "1", "generated_at": end}
    table = pa.Table.from_pylist(
        [{"user_id": user, "item_ids": items, "scores": [0.0] * len(items)} | same for user, items in lists.items()],
        schema=list_tables.RECOMMENDATIONS.schema,
    )
    staging = partitions.new_staging(root, "recommendations", DAY.isoformat())
    pq.write_table(table, staging / "part-00000.parquet")
    partitions.publish(staging, root, "recommendations", DAY.isoformat(), fingerprint="1")
    world = RunConfig.model_validate({"name": "world", "output_dir": str(folder), "input": {"simulate": {}}})
    return Shop(folder, world), root


@pytest.mark.parametrize(
    ("lists", "faults"),
    [
        (GOOD, {}),
        ({"u1": GOOD["u1"]}, {"users_missing": 1}),
        (GOOD | {"u3": ["a", "b"]}, {"users_too_many": 1}),
        (GOOD | {"u2": ["b"]}, {"lists_of_another_length": 1}),
        (GOOD | {"u1": ["a", "d"]}, {"items_seen_before": 1}),
        (GOOD | {"u1": ["e", "d"]}, {"items_not_sold": 1}),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else None,
)
def test_the_check_finds_each_fault(tmp_path: Path, lists: dict[str, list[str]], faults: dict[str, int]) -> None:
    """A table that fits the raw files has no fault, and each planted fault is counted under its name."""
    shop, root = _shop(tmp_path, lists)
    assert count_faults(shop, root, DAY, k=2) == NO_FAULT | {"users": 2} | faults


def test_a_forgotten_user_may_have_no_list(tmp_path: Path) -> None:
    """A list of a forgotten user is one too many, though the raw files still hold the user's events."""
    shop, root = _shop(tmp_path, GOOD)
    assert count_faults(shop, root, DAY, k=2, forgotten=["u2"]) == NO_FAULT | {"users": 1, "users_too_many": 1}


def test_the_reader_sees_half_a_table(tmp_path: Path) -> None:
    """The reader accepts the published table, and not one with fewer rows than its manifest or shorter lists."""
    _, root = _shop(tmp_path, GOOD)
    folder = partitions.current(root, "recommendations", DAY.isoformat())
    assert fault_of(folder, root, 2, compare_rows=True) == ""
    assert fault_of(folder, root, 3, compare_rows=True) == "lists of [2] items"
    file = next(folder.iterdir())
    pq.write_table(pq.ParquetFile(file).read().slice(1), file)
    assert fault_of(folder, root, 2, compare_rows=True) == "1 rows, the manifest has 2"
    assert fault_of(folder, root, 2, compare_rows=False) == ""


def test_a_seed_gives_the_same_faults_in_rows_of_any_length() -> None:
    """A row of ten nights has the faults of the first ten of sixty."""
    assert draw(SEED, 60)[:10] == draw(SEED, 10)
    assert draw(SEED + 1, 60) != draw(SEED, 60)


def test_the_row_has_every_kind_of_fault() -> None:
    """About half of sixty nights have a fault, each kind at least twice, and the first nights have none."""
    drawn = draw(SEED, 60)
    names = [name for night in drawn for name in night.names]
    assert 25 <= sum(bool(night.names) for night in drawn) <= 35
    assert all(names.count(name) >= 2 for name in (*BEFORE, *DURING))
    assert not any(night.names for night in drawn[:QUIET_NIGHTS])
    assert {name for night in drawn[:14] for name in night.names} == {*BEFORE, *DURING}


def test_a_wrong_table_counts_in_the_figures() -> None:
    """The figures count each table with a fault, those after a rollback too, and rises leave out the first week."""
    nights = [
        {
            "faults": ["rollback"] if number == 8 else [],
            "published": True,
            "seconds": 60.0 + number,
            "cpu_seconds": 70.0 if number else None,
            "peak_gigabytes": 2.5,
            "output_megabytes": 10.0 * number,
            "delivered_megabytes": 1.0,
            "temporary_megabytes": 0.0,
            "events": 100,
            "users": 2,
            "items": 5,
            "ndcg@10": {"student": 0.2, "popularity": 0.1},
            "wrong": {"users": 2, "users_missing": int(number == 3)},
            "left_processes": [],
            "tries": [{"status": 0, "wrong": {"users": 2, "items_not_sold": 4}}] if number == 8 else [{"status": 0}],
        }
        for number in range(12)
    ]
    found = figures(nights)
    assert (found["tables_checked"], found["wrong_tables"]) == (13, 2)
    assert found["faults"] == {"rollback": 1}
    assert found["rise_a_night"]["output_megabytes"] == 10.0
    assert found["median_cpu_seconds"] == {"without_faults": 70.0, "with_faults": 70.0}
    assert found["median_seconds"] == {"without_faults": 65.0, "with_faults": 68.0}
