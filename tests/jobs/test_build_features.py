import json
import os
import shutil
from datetime import date
from functools import partial
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from deltalake import write_deltalake
from pyiceberg.catalog.sql import SqlCatalog

from jobs.__main__ import main
from jobs.runtime.input_files import version_of
from jobs.runtime.inputs import night_input
from jobs.runtime.names import FEATURES
from jobs.runtime.pseudonym_key import checked_key
from jobs.runtime.published import published, user_columns
from kdlib.config.data import UsersConfig
from kdlib.config.features import PrivacyConfig
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError, InputError, LateInputError
from kdlib.features import clean, funnel, privacy, splits, stored_input
from kdlib.features.connectors import has_connector, package_for
from kdlib.features.events import read_events
from kdlib.features.histories import histories, interactions
from kdlib.features.sessions import sessions_table, with_sessions
from kdlib.privacy.pseudonyms import key_check, pseudonym
from kdlib.release import promotions
from kdlib.store import partitions, tables
from kdlib.store.partitions import Manifest
from tests import stages

TAOBAO = Path("../shared/data/taobao/UserBehavior.csv.gz")
GAMES = Path("../shared/data/games")
TABLES = ("quarantine", "sessions", *FEATURES)

ROWS = """u,i,b,t
1,a,view,2024-05-01 10:00:00
1,b,view,2024-05-01 10:01:00
1,b,cart,2024-05-01 10:02:00
1,a,purchase,2024-05-02 09:00:00
1,c,view,2024-05-03 09:00:00
2,b,view,2024-05-01 10:00:00
2,b,view,2024-05-01 10:00:00
2,c,view,2024-05-03 10:00:00
3,d,zap,2024-05-01 10:00:00
3,d,view
"""


def run(config: RunConfig) -> dict[str, Manifest]:
    return stages.run("build-features", config)


def config_for(tmp_path, *, ds="2024-05-03", output="out", events="events", **features) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "tiny",
            "ds": ds,
            "output_dir": str(tmp_path / output),
            "input": {
                "events": {
                    "path": str(tmp_path / events),
                    "format": "csv",
                    "user": "u",
                    "item": "i",
                    "event_type": "b",
                    "time": {"column": "t"},
                },
                "catalogue": {"path": str(tmp_path / "items.csv"), "format": "csv"},
            },
            "features": features,
            "spark": {"shuffle_partitions": 2},
        }
    )


def write_input(folder: Path) -> Path:
    (folder / "events").mkdir()
    (folder / "events" / "1.csv").write_text(ROWS)
    (folder / "items.csv").write_text("item_id,title\na,The A\na,Another A\nd,The D\n")
    return folder


@pytest.fixture
def tiny(spark, tmp_path):
    """A folder with ten event rows and a catalogue."""
    return write_input(tmp_path)


@pytest.fixture(scope="module")
def first_night(spark, tmp_path_factory):
    """The folder, the config and the manifests of one run over the ten rows."""
    folder = write_input(tmp_path_factory.mktemp("night"))
    config = config_for(folder)
    return folder, config, run(config)


def table(config, name):
    return pq.read_table(partitions.current(config.root, name, config.day)).to_pylist()


def test_ten_rows_become_five_tables(first_night, capsys):
    """Each table holds what the ten rows say, and the line for the person adds up."""
    _, config, manifests = first_night
    assert run(config) == manifests
    assert capsys.readouterr().out == (
        "quarantine, sessions, histories, item_vocabulary, item_statistics: up to date\n"
        "build_features: 10 rows read = 7 kept + 1 duplicate + 2 quarantined (corrupt_row 1, unknown_event_type 1); "
        "2 users, 5 sessions, 6 interactions, 3 items, 0 events out of vocabulary\n"
        "build_features: warning: 2 of the items, with 71.4% of the events, are not in the catalogue, for example 'b'\n"
    )
    for name in TABLES:
        tables.check_files(tables.ALL[name], partitions.current(config.root, name, config.day))
    one, two = sorted(table(config, "histories"), key=lambda row: row["user_id"])
    assert (one["item_indices"], one["event_types"], one["session_numbers"]) == (
        [1, 0, 1, 2],
        [0, 2, 3, 0],
        [0, 0, 1, 2],
    )
    assert (one["num_train"], one["validation_position"], one["test_position"]) == (2, 2, 3)
    assert (two["item_indices"], two["num_train"], two["validation_position"], two["test_position"]) == (
        [0, 2],
        1,
        None,
        1,
    )
    assert [(row["item_id"], row["title"]) for row in table(config, "item_vocabulary")] == [
        ("b", None),
        ("a", "Another A"),
        ("c", None),
    ]
    statistics = [
        (r["num_interactions"], r["num_users"], r["num_purchases"], r["num_train"])
        for r in table(config, "item_statistics")
    ]
    assert statistics == [(3, 2, 0, 2), (2, 1, 1, 1), (2, 2, 0, 0)]
    assert sorted(row["raw"] for row in table(config, "quarantine")) == [
        '{"found":"8 characters, 3 fields","expected":"4 fields"}',
        '{"u":"3","i":"d","b":"zap","t":"2024-05-01 10:00:00"}',
    ]
    details = manifests["item_vocabulary"].details
    assert details["catalogue"] == {
        "rows_read": 3,
        "without_id": 0,
        "corrupt": 0,
        "long_id": 0,
        "repeated_id": 1,
        "items": 2,
    }


def test_the_next_night_appends_to_the_vocabulary(first_night):
    """Known items keep their index, the most frequent new ones follow up to max_items, the others are left out."""
    folder, *_ = first_night
    config = config_for(folder, ds="2024-05-04", events="more", max_items=4)
    (folder / "more").mkdir()
    new = "".join(f"{user},new,view,2024-05-04 10:00:00\n" for user in (1, 2, 9))
    (folder / "more" / "1.csv").write_text(ROWS + new + "9,rare,view,2024-05-04 10:00:01\n")
    made = run(config)
    found = [(row["item_id"], row["first_seen"]) for row in table(config, "item_vocabulary")]
    assert found == [("b", "2024-05-03"), ("a", "2024-05-03"), ("c", "2024-05-03"), ("new", "2024-05-04")]
    assert made["histories"].inputs["item_vocabulary"].startswith("2024-05-03.")
    assert made["histories"].details["funnel"]["out_of_vocabulary"] == 1


def reading_users(config: RunConfig, lines: str) -> RunConfig:
    """The run config with a student that reads the country of the users, from a list with these lines."""
    path = Path(config.output_dir).parent / "users.csv"
    path.write_text("u,country\n" + lines)
    users = UsersConfig.model_validate(
        {"path": str(path), "format": "csv", "user": "u", "features": {"country": "category"}}
    )
    student = config.student.model_copy(update={"user_features": ("country",)})
    return config.model_copy(update={"input": config.input.model_copy(update={"users": users}), "student": student})


def test_the_next_night_appends_to_the_codes_of_users(tiny):
    """A value keeps its code for as long as runs follow each other. Models find the column by the vocabulary's manifest."""
    first = reading_users(config_for(tiny), "1,de\n2,de\n")
    made = run(first)
    assert [row["user_values"] for row in table(first, "histories")] == [[1], [1]]
    inputs = published(first, *FEATURES)
    assert user_columns(first, inputs, ["country"]) == {"country": 0}
    second = reading_users(config_for(tiny, ds="2024-05-04"), "1,fr\n2,fr\n")
    then = run(second)
    assert [row["user_values"] for row in table(second, "histories")] == [[2], [2]]
    [coding] = then["item_vocabulary"].details["user_values"]
    assert coding == {"feature": "country", "kind": "category", "codes": ["de", "fr"]}
    assert made["histories"].inputs["users"] != then["histories"].inputs["users"]


def test_a_model_that_reads_a_feature_which_the_histories_lack_is_an_error(first_night):
    """The error names the feature and what to do."""
    _, config, _ = first_night
    wanting = reading_users(config, "1,de\n")
    with pytest.raises(
        InputError, match=r"user feature country, but no model .* 2024-05-03 reads it.*run build-features"
    ):
        user_columns(wanting, published(config, *FEATURES), ["country"])


def test_the_same_input_gives_the_same_files(spark, first_night):
    """A run into another folder gives files of equal content, on a cluster whose own file system is another one too."""
    folder, _, manifests = first_night
    hadoop = spark.sparkContext._jsc.hadoopConfiguration()
    usual = hadoop.get("fs.defaultFS")
    hadoop.set("fs.defaultFS", "hdfs://127.0.0.1:1")
    try:
        again = run(config_for(folder, output="again"))
    finally:
        hadoop.set("fs.defaultFS", usual)
    files = [[(f["path"], f["sha256"]) for name in TABLES for f in made[name].files] for made in (manifests, again)]
    assert files[0] == files[1]


def test_only_changed_bytes_make_the_tables_again(first_night, monkeypatch):
    """Files with a new time and equal bytes remake nothing. One changed value remakes every table.

    A file that is replaced while Spark reads it remakes nothing either: the run ends, to be run again.
    """
    folder, config, manifests = first_night
    copied, events = config_for(folder, output="copied"), folder / "events" / "1.csv"
    shutil.copytree(config.root, copied.root, symlinks=True)
    for file in (events, folder / "items.csv"):
        os.utime(file, (1_000, 1_000))
    assert run(copied) == manifests
    try:
        events.write_text(ROWS.replace("2,c,view", "2,c,favourite"))
        with monkeypatch.context() as patch:
            patch.setattr(
                funnel, "check_listed", lambda _: events.write_text(ROWS.replace("2,c,view", "2,c,cart")) and None
            )
            with pytest.raises(
                LateInputError, match=r"the input changed while build-features read it: events\. Nothing"
            ):
                run(copied)
        assert partitions.read_manifest(copied.root, "histories", copied.day) == manifests["histories"]
        again = run(copied)
    finally:
        events.write_text(ROWS)
    for name in TABLES:
        assert again[name].fingerprint != manifests[name].fingerprint
        assert again[name].inputs["events"] != manifests[name].inputs["events"]
        assert again[name].inputs["catalogue"] == manifests[name].inputs["catalogue"]
    two = next(row for row in table(copied, "histories") if row["user_id"] == "2")
    assert two["event_types"] == [0, 2]


def test_files_in_a_store_are_read_from_copies(spark, s3, tmp_path, monkeypatch, capfd):
    """Without a connector, Spark reads copies. Tables, errors and versions name the files of the store.

    An export that is replaced after its fingerprint ends the run with 66. Nothing is published, and the same command works.
    """
    client, lines = boto3.client("s3"), ROWS.splitlines(keepends=True)

    def put(name: str, body: str) -> None:
        client.put_object(Bucket="shop", Key=f"copies/{name}", Body=body.encode())

    for day in (1, 2, 3):
        put(f"in/2024-05-0{day}.csv", lines[0] + "".join(line for line in lines[1:9] if f"-0{day} " in line))
    put("in/2024-05-03.csv", lines[0] + lines[5] + lines[8] + "".join(lines[9:]))
    put("items.csv", "item_id,title\na,The A\nd,The D\n")
    settings = config_for(tmp_path).model_dump(mode="json")
    settings["input"]["events"]["path"] = f"{s3}/copies/in/{{day}}.csv"
    settings["input"]["catalogue"]["path"] = f"{s3}/copies/items.csv"
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    config, command = RunConfig.model_validate(settings), ["build-features", "--config", str(tmp_path / "run.yaml")]
    copies = config.root / "_staging"

    with monkeypatch.context() as patch:
        usual = stored_input.copy_files
        patch.setattr(
            stored_input,
            "copy_files",
            lambda places: put("in/2024-05-02.csv", lines[0] + "1,a,cart,2024-05-02 09:00:00\n") or usual(places),
        )
        assert main(command) == 66
    printed = capfd.readouterr()
    assert "the input changed while build-features read it: events. Nothing is published" in printed.err
    assert not any(partitions.read_manifest(config.root, name, config.day) for name in TABLES)
    assert not list(copies.iterdir())

    assert main(command) == 0
    said = capfd.readouterr().out
    assert f"so 3 files of {s3}/copies/in (0.1 MB) are copied to {copies}/input_copies" in said
    assert f"so {s3}/copies/items.csv (0.1 MB) is copied to" in said
    assert "10 rows read = 7 kept + 1 duplicate + 2 quarantined" in said
    assert {row["file"] for row in table(config, "quarantine")} == {f"{s3}/copies/in/2024-05-03.csv"}
    one = next(row for row in table(config, "histories") if row["user_id"] == "1")
    assert one["event_types"] == [0, 2, 2, 0]  # the cart of the new export, not the purchase before
    assert not list(copies.iterdir())
    assert main(command) == 0
    assert "copied" not in capfd.readouterr().out

    assert has_connector(spark, "file")
    assert not any(has_connector(spark, scheme) for scheme in ("s3", "s3a", "gs", "abfss"))
    assert package_for(spark, "s3").startswith("org.apache.hadoop:hadoop-aws:3.")
    put("in/2024-05-02.csv", "u,b,i,t\n1,cart,a,2024-05-02 09:00:00\n")
    assert main(command) == 2
    printed = capfd.readouterr().err
    assert f"{s3}/copies/in/" in printed
    assert "do not all have the same header" in printed
    assert "_staging" not in printed


def test_when_all_rows_are_quarantined_they_can_be_looked_at(tiny):
    """The error counts the reasons, the quarantine lies where it says, and nothing is published."""
    config = config_for(tiny, period_start="2025-01-01")
    with pytest.raises(
        InputError, match=r"all 10 rows .*\(corrupt_row 1, out_of_period 9\)\. Look at them in .*failed"
    ):
        run(config)
    folder = config.root / "quarantine_failed" / "ds=2024-05-03"
    assert pq.read_table(folder).num_rows == 10
    assert [partitions.read_manifest(config.root, name, config.day) for name in TABLES] == [None] * len(TABLES)


def filtered_by(where: str, folder: Path) -> RunConfig:
    settings = config_for(folder).model_dump(mode="json")
    settings["input"]["events"]["where"] = where
    return RunConfig.model_validate(settings)


def test_rows_that_the_filter_leaves_out_are_counted(tiny, capsys):
    """The printed counts add up, and the quarantine has no filtered row."""
    config = filtered_by("b != 'zap'", tiny)
    run(config)
    assert (
        "build_features: 10 rows read = 7 kept + 1 duplicate + 1 filtered + 1 quarantined (corrupt_row 1); 2 users"
        in capsys.readouterr().out
    )
    assert [row["raw"] for row in table(config, "quarantine")] == [
        '{"found":"8 characters, 3 fields","expected":"4 fields"}'
    ]


def test_a_filter_that_leaves_nothing_is_an_error(tiny):
    """The error shows the filter, and counts filtered and quarantined rows apart."""
    with pytest.raises(InputError, match=r"where leaves out all 9 rows of .*events: \"b = 'buy'\"\. Correct it"):
        run(filtered_by("b = 'buy'", tiny))
    with pytest.raises(
        InputError, match=r"all 2 rows of .*that the filter lets pass are quarantined \(corrupt_row 1, unk"
    ):
        run(filtered_by("b = 'zap'", tiny))


@pytest.mark.parametrize(("format_", "place"), [("delta", "disk"), ("delta", "store"), ("iceberg", "disk")])
def test_a_table_is_read_again_when_it_has_a_new_version(spark, tmp_path, capsys, request, format_, place):
    """The table's version makes the stage stale, and all rows add up."""
    names, *lines = (line.split(",") for line in ROWS.splitlines()[:-1])
    rows = pa.table(dict(zip(names, zip(*lines, strict=True), strict=True)))
    if format_ == "delta":
        path = str(tmp_path / "events") if place == "disk" else f"{request.getfixturevalue('s3')}/{tmp_path.name}"
        write_deltalake(path, rows, partition_by=["b"])
        more = partial(write_deltalake, path, rows.slice(8), mode="append")
    else:
        catalog = SqlCatalog("shop", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}")
        catalog.create_namespace("shop")
        table_ = catalog.create_table("shop.events", schema=rows.schema)
        table_.append(rows)
        path, more = str(tmp_path / "shop" / "events"), partial(table_.append, rows.slice(8))
    settings = config_for(tmp_path).model_dump(mode="json")
    settings["input"]["events"] |= {"path": path, "format": format_, "where": "b != 'zap'"}
    config = RunConfig.model_validate(settings | {"input": {"events": settings["input"]["events"]}})
    run(config)
    run(config)
    said = capsys.readouterr().out
    assert "build_features: 9 rows read = 7 kept + 1 duplicate + 1 filtered + 0 quarantined; 2 users" in said
    assert said.count("up to date") == 1
    more()
    run(config)
    assert "10 rows read = 7 kept + 1 duplicate + 2 filtered" in capsys.readouterr().out


def test_nothing_to_train_on_ends_the_night(tiny, capsys):
    """The command line exits with 2 and names the windows and the span of the data."""
    path = tiny / "run.yaml"
    path.write_text(json.dumps(config_for(tiny).model_dump(mode="json")))
    assert main(["build-features", "--config", str(path), "--ds", "2024-05-01"]) == 2
    error = capsys.readouterr().err
    assert "all events lie in the days that validate and test (validation window 2024-04-30 to 2024-04-30" in error
    assert "from 2024-05-01 10:00:00 to 2024-05-01 10:02:00 UTC" in error
    assert "set features.split.kind: leave_one_out" in error


def test_the_simulator_must_have_run(tmp_path):
    """Without simulated events the error names the stage that makes them."""
    config = RunConfig.model_validate(
        {"name": "t", "ds": "2024-05-03", "output_dir": str(tmp_path), "input": {"simulate": {}}}
    )
    with pytest.raises(InputError, match=r"needs events of 2024-05-03.*`distilrec simulate-events` first"):
        run(config)
    with pytest.raises(InputError, match=r"no simulated events for 2024-05-03 .*`distilrec simulate-events` first"):
        night_input(config, None)


def test_input_versions_follow_the_files(tiny):
    """A new file, a changed one and another glob give another version; hidden files do not; no file is an error."""
    config = config_for(tiny)

    def version(path: str, format_: str) -> str:
        return version_of(path, format_, config.root)

    before = night_input(config, None).versions
    (tiny / "events" / "_SUCCESS").touch()
    assert night_input(config, None).versions == before
    (tiny / "events" / "2.csv").write_text("u,i,b,t\n")
    after = night_input(config, None).versions
    assert after["events"] != before["events"]
    assert after["catalogue"] == before["catalogue"]
    assert (
        version(f"{tiny}/events/*.csv", "csv") == version(f"{tiny}/e*", "csv") != version(f"{tiny}/events/1.*", "csv")
    )
    assert version(f"file://{tiny}/events", "csv") != version(f"file://{tiny}/events/1.csv", "csv")
    (tiny / "linked").mkdir()
    (tiny / "linked" / "day").symlink_to(tiny / "events", target_is_directory=True)
    assert version(f"{tiny}/linked", "csv") != version(f"{tiny}/{{linked,events}}", "csv")
    assert version(f"{tiny}/events/{{1,2}}.csv", "csv") == version(f"{tiny}/events", "csv")
    with pytest.raises(InputError, match=r"no file matches .*/3\.csv"):
        version(f"{tiny}/events/3.csv", "csv")
    with pytest.raises(InputError, match=r"no file matches file:.*/nowhere"):
        version(f"file://{tiny}/nowhere", "csv")
    (tiny / "part.parquet").touch()
    with pytest.raises(InputError, match=r"part\.parquet has no bytes: is the export whole"):
        version(f"{tiny}/*.parquet", "parquet")
    (tiny / "events" / "2.csv.gz").touch()
    for path in (f"{tiny}/events", f"file://{tiny}/events"):
        with pytest.raises(InputError, match=r"2\.csv\.gz has no bytes: is the export whole"):
            version(path, "csv")
    (tiny / "events" / "2.csv.gz").rename(tiny / "events" / "_2.csv.gz")
    for path in (f"{tiny}/events", f"file://{tiny}/events"):
        version(path, "csv")


def test_events_are_shuffled_by_user_once(spark, tiny):
    """From the input to sessions or histories the rows change places once, though windows and groups abound."""
    events = config_for(tiny).input.events
    assert events is not None
    day = config_for(tiny).ds
    assert day is not None
    judged = clean.with_outcome(
        read_events(spark, events, last_day=day),
        period_start=None,
        last_day=day,
        max_events_per_user_day=9,
        num_partitions=2,
    ).persist()
    judged.count()
    sessions = with_sessions(clean.kept(judged), gap_seconds=1800)
    words = spark.createDataFrame([("a", 0)], "item_id string, item_index int").hint("broadcast")
    people = histories(interactions(sessions, collapse_repeats=True), words)
    people = splits.with_splits(people, kind="time", last_day=day, validation_days=1, test_days=1)
    for frame in (sessions_table(sessions), people):
        plan = str(frame._jdf.queryExecution().executedPlan())  # pyright: ignore[reportOptionalCall]
        later, _, cached = plan.partition("InMemoryRelation")
        assert "Window" in later
        assert "Exchange hashpartitioning" not in later
        assert cached.rpartition("Initial Plan")[2].count("Exchange hashpartitioning") == 1
    judged.unpersist()


@pytest.mark.e2e
@pytest.mark.skipif(not TAOBAO.exists(), reason="needs ../shared/data/taobao")
def test_taobao_adds_up(spark, tmp_path):
    """The real clickstream's cut-off last row and its three rows outside the period are quarantined, no others."""
    config = RunConfig.model_validate(
        {
            "name": "taobao",
            "ds": "2017-12-03",
            "output_dir": str(tmp_path),
            "input": {
                "events": {
                    "path": str(TAOBAO),
                    "format": "csv",
                    "header": False,
                    "columns": ["user_id", "item_id", "category_id", "behaviour", "unix_seconds"],
                    "user": "user_id",
                    "item": "item_id",
                    "event_type": "behaviour",
                    "event_types": {"pv": "view", "fav": "favourite", "cart": "cart", "buy": "purchase"},
                    "time": {"format": "epoch_seconds", "column": "unix_seconds"},
                }
            },
            "features": {"period_start": "2017-11-23"},
        }
    )
    funnel = run(config)["histories"].details["funnel"]
    assert (funnel["rows_read"], funnel["kept"], funnel["duplicate"]) == (84_476, 84_472, 0)
    assert funnel["reasons"] == {"corrupt_row": 1, "out_of_period": 3}
    assert funnel["users"] == 815
    statistics = table(config, "item_statistics")
    assert sum(row["num_purchases"] for row in statistics) == 1_750
    assert sum(row["num_interactions"] for row in statistics) == 84_472


@pytest.mark.e2e
@pytest.mark.skipif(not GAMES.exists(), reason="needs ../shared/data/games")
def test_games_replays_every_interaction(spark, tmp_path):
    """All users, items and interactions of the sequences come through, each user with a validation and a test item."""
    config = RunConfig.model_validate(
        {
            "name": "games",
            "ds": "2014-07-23",
            "output_dir": str(tmp_path),
            "input": {
                "events": {"path": str(GAMES / "sequences.txt"), "format": "sequences"},
                "catalogue": {"path": str(GAMES / "items.csv"), "format": "csv"},
            },
            "features": {"split": {"kind": "leave_one_out"}},
        }
    )
    funnel = run(config)["histories"].details["funnel"]
    assert (funnel["users"], funnel["items"], funnel["interactions"]) == (50_546, 16_859, 440_264)
    assert funnel["validation_users"] == funnel["test_users"] == 50_546
    assert all(row["title"] for row in table(config, "item_vocabulary"))


KEY = "3f9a-a-key-of-a-shop-77c1"


def everything_written(root: Path) -> str:
    """All that lies under a folder, as text: Parquet decoded, names included."""
    texts = []
    for path in sorted(root.rglob("*")):
        texts.append(str(path.relative_to(root)))
        if path.suffix == ".parquet":
            texts += [json.dumps(row, default=str) for row in pq.ParquetFile(path).read().to_pylist()]
        elif path.is_file():
            texts.append(path.read_bytes().decode(errors="replace"))
    return "\n".join(texts)


def private(folder: Path, *, output: str = "private", **settings) -> RunConfig:
    (folder / "key").write_text(KEY + "\n")
    return config_for(folder, output=output).model_copy(
        update={"privacy": PrivacyConfig.model_validate({"key_file": str(folder / "key"), **settings})}
    )


def test_with_a_key_no_output_tells_who_a_user_is(spark, tmp_path):
    """Every table, the quarantine, manifests and logs hold pseudonyms only, nobody's key, and the same histories as without."""
    folder = write_input(tmp_path)
    names = {"1": "anna.k", "2": "bruno.w", "3": "carla.z"}
    rows = [f"{names.get(line[0], line[0])}{line[1:]}" for line in ROWS.splitlines()]
    (folder / "events" / "1.csv").write_text(
        "\n".join([*rows, "carla.z,e,view,2024-05-02,surplus", "bruno.w,a,view,yesterday"]) + "\n"
    )
    config = reading_users(private(folder), "anna.k,de\nbruno.w,de\nzoe.q,fr\nyuri.r,fr\n")
    run(config)
    written = everything_written(config.root)
    assert [row["user_values"] for row in table(config, "histories")] == [[1], [1]]
    assert not [word for word in (*names.values(), KEY, "surplus") if word in written]
    plain = config_for(folder)
    run(plain)
    assert [word for word in ("anna.k", "surplus") if word in everything_written(plain.root)] == ["anna.k"]
    known = {pseudonym(KEY.encode(), name): name for name in names.values()}
    found = {known[row["user_id"]]: row["item_indices"] for row in table(config, "histories")}
    assert found == {row["user_id"]: row["item_indices"] for row in table(plain, "histories")}
    reasons = sorted((row["reason"], row["raw"]) for row in table(config, "quarantine"))
    assert [reason for reason, _ in reasons] == ["bad_time", "corrupt_row", "corrupt_row", "unknown_event_type"]
    assert json.loads(reasons[0][1]) == {
        "user_id": pseudonym(KEY.encode(), "bruno.w"),
        "i": "a",
        "b": "view",
        "t": "yesterday",
    }
    assert [raw for reason, raw in reasons if reason == "corrupt_row"] == [
        '{"found":"14 characters, 3 fields","expected":"4 fields"}',
        '{"found":"33 characters, 5 fields","expected":"4 fields"}',
    ]


def test_the_key_stands_in_no_plan(spark, tiny):
    """What Spark would log of the query names the source of the key at most."""
    config = private(tiny)
    assert config.input.events is not None
    frame = read_events(spark, config.input.events, last_day=date(2024, 5, 3), key=config.privacy.key)
    plan = frame._jdf.queryExecution().toString()  # pyright: ignore[reportOptionalCall]
    assert KEY not in plan
    assert "hashed" in plan


def put_under_key(config: RunConfig, name: str, key: str, *, ds: str, key_version: int = 1) -> dict[str, str]:
    """Publish an empty table that says which key it was made under; its version."""
    staging = partitions.new_staging(config.root, name, ds)
    (staging / "x").touch()
    details = {"pseudonyms": {"key_version": key_version, "check": key_check(key.encode())}}
    return {name: partitions.publish(staging, config.root, name, ds, fingerprint=key, details=details).version}


@pytest.mark.parametrize("promoted", ["2024-05-02", "2024-05-03", "2024-05-04"])
def test_a_key_that_changes_or_goes_is_an_error_unless_its_version_is_raised(tmp_path, promoted):
    """In the next night, in a rerun of the promoted one and in a backfill before it: what was expected, where, what to do."""
    config = private(write_input(tmp_path))
    promotions.promote(
        config.root, promoted, put_under_key(config, "histories", "another key", ds=promoted, key_version=2)
    )
    for version, found in ((2, key_check(KEY.encode())), (1, key_check(KEY.encode())), (2, "none"), (1, "none")):
        now = PrivacyConfig(key_file=config.privacy.key_file if found != "none" else None, key_version=version)
        with pytest.raises(ConfigError) as error:
            checked_key(config.model_copy(update={"privacy": now}))
        for words in (
            f"expected that of histories of {promoted} in {config.root} (check value {key_check(b'another key')}, ",
            f"privacy.key_version 2), found {found} (privacy.key_version {version})",
            "If the change is intended, set privacy.key_version to 3",
        ):
            assert words in str(error.value)
        assert ("stored under its own id" in str(error.value)) == (found == "none")
    assert checked_key(private(tmp_path, key_version=3)) == {"key_version": 3, "check": key_check(KEY.encode())}
    assert checked_key(config.model_copy(update={"privacy": PrivacyConfig(key_version=3)})) is None


def test_the_key_that_a_date_was_made_under_holds_before_it_is_promoted(tmp_path):
    """A blocked night, or one that is not judged yet, is not made anew under another key either; the same key is taken."""
    config = private(write_input(tmp_path))
    put_under_key(config, "histories", "another key", ds="2024-05-03")
    for now in (config, config_for(tmp_path, output="private")):
        with pytest.raises(ConfigError, match=r"expected that of histories of 2024-05-03 "):
            checked_key(now)
    put_under_key(config, "histories", KEY, ds="2024-05-03")
    assert checked_key(config) == {"key_version": 1, "check": key_check(KEY.encode())}


def test_the_last_promoted_night_s_key_counts_where_its_files_are(tmp_path):
    """A night whose files are gone can be made anew, as other errors say; the key of the one before it holds."""
    config = private(write_input(tmp_path))
    for ds, key in (("2024-05-02", "another key"), ("2024-05-03", KEY)):
        promotions.promote(config.root, ds, put_under_key(config, "histories", key, ds=ds, key_version=2))
    shutil.rmtree(partitions.current(config.root, "histories", "2024-05-03").parent)
    with pytest.raises(ConfigError, match=r"expected that of histories of 2024-05-02 "):
        checked_key(private(tmp_path, key_version=2))


def test_a_shop_with_search_alone_keeps_its_key(tmp_path):
    """Which has no histories: its newest log counts."""
    config = private(write_input(tmp_path))
    assert config.input.catalogue is not None
    alone = config.model_copy(update={"input": config.input.model_copy(update={"events": None})})
    put_under_key(config, "queries", "another key", ds="2024-05-01")
    with pytest.raises(ConfigError, match=r"expected that of queries of 2024-05-01 "):
        checked_key(alone)
    assert checked_key(config) is not None


def test_a_worker_with_another_key_ends_the_job(spark, tiny, monkeypatch):
    """With the worker's own words and nothing published: the driver finds another key here than the Python workers do."""
    config = private(tiny)
    monkeypatch.setattr(privacy, "read_key", lambda source: b"the driver's key")
    with pytest.raises(
        ConfigError, match=rf"^the pseudonym key in {config.privacy.key_file} on .* differs from .* same key$"
    ):
        run(config)
    assert partitions.read_manifest(config.root, "sessions", config.day) is None


def test_items_of_few_users_are_recommended_to_nobody(spark, tiny):
    """With k = 2 an item that one user has touched is unavailable."""
    config = config_for(tiny, output="anonymous").model_copy(update={"privacy": PrivacyConfig(min_item_users=2)})
    run(config)
    assert {row["item_id"]: row["available"] for row in table(config, "item_vocabulary")} == {
        "a": False,
        "b": True,
        "c": True,
    }
