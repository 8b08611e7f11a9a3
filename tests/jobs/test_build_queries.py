"""The job: the search log in, three tables out."""

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.runtime.inputs import night_input, search_input
from jobs.runtime.names import QUERIES
from jobs.runtime.product_search import typed_queries
from jobs.runtime.published import published
from kdlib.config.run import RunConfig
from kdlib.data.queries import normalise_query
from kdlib.errors import ConfigError, InputError
from kdlib.privacy import forgetting
from kdlib.store import partitions, tables
from kdlib.store.partitions import Manifest
from tests import stages

TABLES = (*QUERIES, "search_quarantine")

ROWS = """u,q,i,b,p,t
1,Tent,,search,,2024-05-03 10:00:00
1,tent,a,click,2,2024-05-03 10:00:05
1,tent,a,click,2,2024-05-03 10:00:05
2, TENT ,,search,,2024-05-02 10:00:00
2,tent,a,purchase,4,2024-05-02 10:01:00
2,my  own name,c,click,1,2024-05-02 11:00:00
3,mug,,click,1,2024-05-03 10:00:00
3,mug
4,mug,b,click,1,2024-04-01 10:00:00
"""


def run(config: RunConfig) -> dict[str, Manifest]:
    return stages.run("build-queries", config)


def config_for(folder: Path, *, output: str = "out", searches: dict | None = None, **sections) -> RunConfig:
    log = {
        "path": str(folder / "searches"),
        "format": "csv",
        "user": "u",
        "query": "q",
        "item": "i",
        "event_type": "b",
        "position": "p",
        "time": {"column": "t"},
    }
    events = {"path": str(folder / "events.txt"), "format": "sequences"}
    return RunConfig.model_validate(
        {
            "name": "tiny",
            "search": {},
            "ds": "2024-05-03",
            "output_dir": str(folder / output),
            "input": {"events": events, "searches": log | (searches or {})},
            "spark": {"shuffle_partitions": 2},
            **sections,
        }
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "searches").mkdir()
    (folder / "searches" / "1.csv").write_text(ROWS)
    return folder


@pytest.fixture(scope="module")
def night(spark, shop):
    """The config and the manifests of one run over the nine rows."""
    config = config_for(shop)
    return config, run(config)


def table(config, name):
    return pq.read_table(partitions.current(config.root, name, config.day)).to_pylist()


def test_nine_rows_become_three_tables(night, capsys):
    """Each table holds what the rows say, the line for the person adds up, and an unchanged night is skipped."""
    config, manifests = night
    assert run(config) == manifests
    assert capsys.readouterr().out == (
        "queries, query_items, search_quarantine: up to date\n"
        "build_queries: 8 rows read = 5 kept + 1 duplicate + 2 quarantined (corrupt_row 1, missing_item 1), "
        "1 rows before the period skipped; 2 queries, 2 pairs of query and item\n"
    )
    for name in TABLES:
        tables.check_files(tables.ALL[name], partitions.current(config.root, name, config.day))
    assert [tuple(row.values()) for row in table(config, "queries")] == [
        ("my own name", 0, 1, 1, 0, 0),
        ("tent", 2, 2, 1, 0, 1),
    ]
    assert [tuple(row.values()) for row in table(config, "query_items")] == [
        ("my own name", "c", 1, 0, 0, 1.0),
        ("tent", "a", 1, 0, 1, 2.0 + 5 * 4),
    ]
    assert [(row["reason"], row["raw"]) for row in table(config, "search_quarantine")] == [
        ("corrupt_row", '{"found":"5 characters, 2 fields","expected":"6 fields"}'),
        ("missing_item", '{"u":"3","q":"mug","i":null,"b":"click","p":"1","t":"2024-05-03 10:00:00"}'),
    ]


def test_the_same_input_gives_the_same_files(night, shop):
    """A run into another folder gives files of equal content."""
    again = run(config_for(shop, output="again"))
    files = [[(f["path"], f["sha256"]) for name in TABLES for f in made[name].files] for made in (night[1], again)]
    assert files[0] == files[1]


def test_a_query_of_few_users_is_in_no_table(spark, shop, capsys):
    """With k = 2 the name is gone from all three, and the line counts it."""
    config = config_for(shop, output="anonymous", privacy={"min_query_users": 2})
    run(config)
    assert "1 queries (1 typed by too few users left out), 1 pairs" in capsys.readouterr().out
    assert [row["query"] for row in table(config, "queries")] == ["tent"]
    assert [row["query"] for row in table(config, "query_items")] == ["tent"]
    assert "mug" not in str(table(config, "search_quarantine"))


def test_a_log_without_a_query_to_go_on_with_is_a_warning(spark, shop, tmp_path, capsys):
    """Of too few users, of other days, or of no rows at all: the tables are empty, the reason is said, and said again when the
    tables are up to date."""
    too_few = config_for(shop, output="nobody", privacy={"min_query_users": 3})
    for times in range(2):
        run(too_few)
        assert "none of the 2 queries of" in (said := capsys.readouterr().out), times
        assert "was typed by 3 users or more (privacy.min_query_users). Lower it" in said
        assert "0 queries (2 typed by too few users left out), 0 pairs" in said
    assert typed_queries(published(too_few, *QUERIES)) == []
    header, *rows = ROWS.splitlines()
    for lines, why in (
        ([], "it has no rows at all"),
        (rows[-1:], "its last row is of 2024-04-01 10:00:00 UTC"),
    ):
        (tmp_path / "searches").mkdir(exist_ok=True)
        (tmp_path / "searches" / "1.csv").write_text("\n".join([header, *lines, ""]))
        config = config_for(tmp_path)
        run(config)
        assert (
            f"has no searches of the 30 days to 2024-05-03: {why}. Check that it is the right file"
            in capsys.readouterr().out
        )
        assert [table(config, name) for name in TABLES] == [[], [], []]


def test_a_forgotten_user_is_taken_in_no_more(night, shop):
    """The next run sees another input, and does not read the user's rows."""
    config = config_for(shop, output="forgetful")
    forgetting.remember_to_forget(config.root, ["2"])
    made = run(config)
    assert made["queries"].details["funnel"]["reasons"]["forgotten_user"] == 3
    assert made["queries"].fingerprint != night[1]["queries"].fingerprint
    assert [tuple(row.values()) for row in table(config, "queries")] == [("tent", 1, 1, 1, 0, 0)]
    assert {row["raw"][:7] for row in table(config, "search_quarantine")} == {"forgott", '{"found', '{"u":"3'}


def test_when_all_rows_are_quarantined_they_can_be_looked_at(spark, shop):
    """The error counts the reasons, the rows lie where it says, and nothing is published."""
    config = config_for(shop, output="bad", searches={"event_types": {"seek": "search"}})
    with pytest.raises(
        InputError, match=r"all 8 rows .*\(corrupt_row 1, unknown_event_type 7\)\. Look at them in .*failed"
    ):
        run(config)
    assert pq.read_table(config.root / "search_quarantine_failed" / "ds=2024-05-03").num_rows == 8
    assert [partitions.read_manifest(config.root, name, config.day) for name in TABLES] == [None] * len(TABLES)


def test_a_log_without_clicks_has_no_pairs(spark, shop):
    """No item column is needed for the queries alone; the table of pairs is then empty."""
    config = config_for(shop, output="typed", searches={"item": None, "event_type": None, "position": None})
    run(config)
    assert {row["query"]: row["num_searches"] for row in table(config, "queries")} == {
        "tent": 2,  # users, on one day each
        "mug": 1,
        "my own name": 1,
    }
    assert table(config, "query_items") == []


def test_without_a_search_log_the_person_is_told_how_to_name_one(tmp_path, capsys):
    """The stage says why it is skipped, and its input is a config error. A missing simulated log is an input error."""
    base = config_for(tmp_path).model_dump(mode="json")

    def simulated(search_fraction: float) -> RunConfig:
        return RunConfig.model_validate(base | {"input": {"simulate": {"search_fraction": search_fraction}}})

    own = RunConfig.model_validate(base | {"input": {"events": base["input"]["events"]}})
    for config, message in (
        (own, r"run config tiny: build-queries needs the section input\.searches"),
        (simulated(0.0), "found input.simulate.search_fraction 0"),
    ):
        assert run(config) == {}
        assert "no search log (input.searches, input.simulate.search_fraction)" in capsys.readouterr().out
        with pytest.raises(ConfigError, match=message):
            search_input(config)
    with pytest.raises(InputError, match=r"needs searches of 2024-05-03.*`distilrec simulate-events` first"):
        run(simulated(0.5))
    with pytest.raises(InputError, match=r"no simulated searches for 2024-05-03 .*`distilrec simulate-events` first"):
        search_input(simulated(0.5))
    with pytest.raises(InputError, match=r"no file matches .*searches"):
        run(config_for(tmp_path))


def test_simulated_searches_become_queries_and_leave_the_events_alone(spark, tmp_path):
    """All rows are found again, those of a day that say the same once; the input of the other features is the same with searches
    and without."""
    simulate = {"num_events": 10_000, "num_items": 200, "num_days": 4, "events_per_user": 20}
    base = config_for(tmp_path).model_dump(mode="json")
    plain, searching = (
        RunConfig.model_validate(base | {"input": {"simulate": simulate | {"search_fraction": fraction}}})
        for fraction in (0.0, 0.5)
    )
    assert set(stages.run("simulate-events", plain)) == {"events", "catalogue"}
    before = night_input(plain, None)
    planted = stages.run("simulate-events", searching)["searches"].details["rows"]
    after = night_input(searching, None)
    assert (after.versions, after.settings) == (before.versions, before.settings)
    log, versions = search_input(searching)
    assert set(versions) == {"searches"}
    typed = pq.ParquetDataset(log.path).read().to_pylist()
    funnel = run(searching)["queries"].details["funnel"]
    assert funnel["kept"] + funnel["duplicate"] == funnel["rows_read"] == sum(planted.values()) == len(typed)
    said = {
        (r["user_id"], r["event_time"][:10], normalise_query(r["query"]), r["event_type"], r["item_id"]) for r in typed
    }
    once_a_day = Counter(type_ for _, _, _, type_, _ in said)
    rows = table(searching, "queries")
    assert {row["query"] for row in rows} == {normalise_query(row["query"]) for row in typed}
    for type_, name in (("search", "searches"), ("click", "clicks"), ("cart", "carts"), ("purchase", "purchases")):
        assert sum(row[f"num_{name}"] for row in rows) == once_a_day[type_] > 0


def test_days_outside_the_period_are_not_read(spark, tmp_path):
    """With `{day}` the tables are those of reading everything; files of other days may even be damaged; the day itself must be there."""
    header, *rows = ROWS.splitlines()
    for day in ("2024-03-01", "2024-04-01", "2024-05-02", "2024-05-03"):
        (tmp_path / f"searches/day={day}").mkdir(parents=True)
        found = [row for row in rows if f",{day} " in row]
        (tmp_path / f"searches/day={day}/1.csv").write_text("\n".join([header, *found, ""]))
    whole = config_for(tmp_path, output="whole")
    run(whole)
    (tmp_path / "searches/day=2024-03-01/1.csv").write_text("another;header\n")
    by_day = config_for(tmp_path, output="by_day", searches={"path": str(tmp_path / "searches/day={day}")})
    funnel = run(by_day)["queries"].details["funnel"]
    for name in ("queries", "query_items"):
        assert table(by_day, name) == table(whole, name)
    assert (funnel["rows_read"], funnel["earlier"]) == (7, 0)  # the row of 1 April is not read
    (tmp_path / "searches/day=2024-05-03/1.csv").unlink()
    with pytest.raises(InputError, match=r"no file of 2024-05-03 matches .*files of 2024-03-01 to 2024-05-02"):
        run(by_day)
