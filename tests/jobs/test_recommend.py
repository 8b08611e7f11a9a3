"""`recommend` on a handmade store and a real Ray with two actors, its readers, and `show`."""

import shutil
import threading
import time
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from jobs import show
from jobs.runtime import actors, runner
from jobs.runtime.ray_cluster import start_ray
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError, InputError, ModelError, UnreachableError
from kdlib.experiments import variants
from kdlib.models.files import save_model
from kdlib.models.sequence import SequenceModel
from kdlib.models.vocabulary_hash import vocabulary_hash
from kdlib.report.users import sample_users
from kdlib.store import partitions, tables
from tests import stages

DS = "2026-11-22"
NUM_ITEMS, NUM_USERS = 80, 700
UNAVAILABLE = {5, 6}
ITEM_IDS = [f"item{index:03}" for index in range(NUM_ITEMS)]


def config_for(root, **recommend_settings):
    return RunConfig.model_validate(
        {
            "name": "tiny",
            "ds": DS,
            "output_dir": str(root),
            "input": {"simulate": {}},
            "recommend": {"k": 4, "because": 2, "actors": 2, "batch_size": 64, **recommend_settings},
            "experiment": {"salt": "spring-2026", "variants": {"control": 0.45, "treatment": 0.45}, "holdout": 0.1},
            "ray": {"num_cpus": 3, "object_store_megabytes": 100},
        }
    )


def put(root, name, *row_lists):
    """Publish a table of one file for each list of rows."""
    staging = partitions.new_staging(root, name, DS)
    for number, rows in enumerate(row_lists):
        table = pa.Table.from_pylist(rows, schema=tables.ALL[name].schema)
        pq.write_table(table, staging / f"part-{number:05}.parquet")
    partitions.publish(staging, root, name, DS, fingerprint="by hand")


def history(number):
    """User n has n mod 8 interactions, one a day, each its own session; every eighth user has none."""
    length = number % 8
    start = datetime(2026, 11, 10, 12, tzinfo=UTC)
    return {
        "user_id": f"user{number:04}",
        "item_indices": [(number * 7 + step * 13) % NUM_ITEMS for step in range(length)],
        "event_types": [step % 4 for step in range(length)],
        "event_times": [start + timedelta(days=step) for step in range(length)],
        "session_numbers": list(range(length)),
        "num_train": length,
        "user_values": [],
    }


def put_model(root, item_ids=ITEM_IDS, *, broken=False):
    torch.manual_seed(1)
    model = SequenceModel(num_items=len(item_ids), kind="gru", dim=8, session_flag=True, max_length=5)
    if broken:
        model.item_embedding.data[3] = torch.nan
    staging = partitions.new_staging(root, "models/student", DS)
    facts = {"vocabulary_hash": vocabulary_hash(item_ids), "vocabulary_version": "v1"}
    save_model(staging, model, model.state_dict(), facts)
    partitions.publish(staging, root, "models/student", DS, fingerprint="by hand")


def put_store(root):
    users = [history(number) for number in range(NUM_USERS)]
    put(root, "histories", users[:400], users[400:])
    vocabulary = [
        {
            "item_index": index,
            "item_id": item_id,
            "title": f"Title {index}" if index % 2 else None,
            "available": index not in UNAVAILABLE,
            "in_stock": True,
            "first_seen": DS,
        }
        for index, item_id in enumerate(ITEM_IDS)
    ]
    put(root, "item_vocabulary", vocabulary)
    statistics = [
        {
            "item_index": index,
            "num_interactions": index,
            "num_users": 1,
            "num_purchases": 0,
            "num_train": index,
            "num_in_windows": index,
        }
        for index in range(NUM_ITEMS)
    ]
    put(root, "item_statistics", statistics)
    put_model(root)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with recommendations. The Ray cluster lives as long as the tests of this module."""
    root = tmp_path_factory.mktemp("store")
    put_store(root)
    with start_ray(config_for(root)):
        stages.run("recommend", config_for(root))
        yield root


def read_rows(root):
    return pq.read_table(partitions.current(root, "recommendations", DS)).to_pylist()


@pytest.fixture
def shown(capsys):
    """What `show` prints about a user of a store."""

    def text(root, user):
        show.run(config_for(root), user=user)
        return capsys.readouterr().out.removesuffix("\n")

    return text


@pytest.fixture
def no_ray(monkeypatch):
    """The stage starts no Ray."""
    monkeypatch.setattr(runner, "start_ray", lambda _: nullcontext())


@pytest.fixture
def copy(store, tmp_path):
    """A copy of the store, for a test that changes it."""
    shutil.copytree(store, tmp_path / "store", symlinks=True)
    return tmp_path / "store"


@pytest.mark.e2e
def test_every_user_gets_one_good_list(store):
    """The table has all 700 users once, in the histories' order, with k unseen, available items each."""
    rows = read_rows(store)
    assert [row["user_id"] for row in rows] == [f"user{number:04}" for number in range(NUM_USERS)]
    for number, row in enumerate(rows):
        seen = {ITEM_IDS[index] for index in history(number)["item_indices"]}
        assert len(set(row["item_ids"])) == len(row["scores"]) == 4
        assert not set(row["item_ids"]) & (seen | {"item005", "item006"})
        assert row["source"] == ("model" if number % 8 else "popular")
        assert row["scores"] == sorted(row["scores"], reverse=True)
        reasons = row["because_item_ids"]
        assert (reasons is None) == (row["source"] == "popular")
        assert reasons is None or (len(reasons) == 4 and {name for named in reasons for name in named} <= seen)
        assert row["generated_at"] == datetime(2026, 11, 23, tzinfo=UTC)
    assert rows[0]["item_ids"] == ["item079", "item078", "item077", "item076"]


@pytest.mark.e2e
def test_the_same_inputs_give_the_same_files(store, copy):
    """A second run from scratch writes the same files under the same version, although the actors race."""
    first = partitions.read_manifest(store, "recommendations", DS)
    shutil.rmtree(copy / "recommendations")
    shutil.rmtree(copy / "_versions" / "recommendations")
    second = stages.run("recommend", config_for(copy))["recommendations"]
    assert first is not None
    assert len(first.files) > 1
    assert second.files == first.files
    assert second.version == first.version
    assert first.details["model"] + first.details["popular"] == first.details["users"] == NUM_USERS


@pytest.mark.e2e
def test_without_reasons_the_table_is_otherwise_the_same(store, copy, shown):
    """Without reasons the column is null in all rows. The other columns are as before, and `show` prints no reason."""
    shutil.rmtree(copy / "recommendations")
    stages.run("recommend", config_for(copy, because=0))
    rows = read_rows(copy)
    assert {row.pop("because_item_ids") for row in rows} == {None}
    assert rows == [{name: row[name] for name in row if name != "because_item_ids"} for row in read_rows(store)]
    assert "because" not in shown(copy, "user0003")


@pytest.mark.e2e
def test_show_reads_a_table_without_reasons(copy, shown):
    """A table without the column, as earlier versions wrote it, is shown without reasons."""
    for file in partitions.current(copy, "recommendations", DS).glob("*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns(["because_item_ids"]), file)
    text = shown(copy, "user0003")
    assert len(text.splitlines()) == 9


@pytest.mark.e2e
def test_a_table_that_matches_its_inputs_is_not_made_again(store, capsys):
    """With nothing changed but the number of actors, the stage publishes nothing, and says so."""
    before = partitions.read_manifest(store, "recommendations", DS)
    assert stages.run("recommend", config_for(store)) == {"recommendations": before}
    assert stages.run("recommend", config_for(store, actors=1)) == {"recommendations": before}
    assert partitions.read_manifest(store, "recommendations", DS) == before
    assert capsys.readouterr().out.startswith("recommendations: up to date\n")


class _Silent:
    """An actor that lives and does not answer."""

    def __init__(self, folder: str) -> None: ...

    def __call__(self, shards: pa.Table) -> pa.Table:
        time.sleep(8)
        return shards


@pytest.mark.e2e
def test_actors_that_never_answer_end_the_run(store, tmp_path, monkeypatch):
    """The text says what to do, and the exit status is that of a retry."""
    monkeypatch.setattr(actors, "STALL_SECONDS", 2.0)
    histories = partitions.current(store, "histories", DS)
    with pytest.raises(UnreachableError, match=r"has not come for .* Run the same command again"):
        actors.write_by_shards(config_for(store), histories, _Silent, tmp_path, {}, actors=1, batch_size=NUM_USERS)
    next(thread for thread in threading.enumerate() if thread.name == "shards").join()


@pytest.mark.e2e
def test_broken_scores_keep_the_earlier_table(copy):
    """A model whose scores are NaN is an error. Readers still find the earlier table."""
    before = read_rows(copy)
    put_model(copy, broken=True)
    with pytest.raises(ModelError, match="NaN or infinite"):
        stages.run("recommend", config_for(copy))
    assert read_rows(copy) == before
    assert list((copy / "_staging").iterdir()) == []


@pytest.mark.e2e
def test_more_actors_than_cpus_are_refused(copy):
    """Actors that leave no CPU for reading are an error, not an endless wait."""
    shutil.rmtree(copy / "recommendations")
    with pytest.raises(ConfigError, match=r"recommend.actors is 3, 1 CPU each, .* the local Ray has 3"):
        stages.run("recommend", config_for(copy, actors=3))


@pytest.mark.e2e
def test_other_engines_read_the_same_rows(store, spark):
    """pyarrow, pandas, DuckDB, Polars and Spark read the same lists, reasons and nulls through the link, `ds` as a partition.

    The documented SQL gives the users' variants.
    """
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    folder = store / "recommendations"
    names = ("user_id", "item_ids", "scores", "because_item_ids")
    want = [tuple(row[name] for name in names) for row in read_rows(store)]
    table = pq.read_table(folder).sort_by("user_id")
    frame = table.to_pandas()
    reasons = [None if told is None else [list(named) for named in told] for told in frame["because_item_ids"]]
    lists = frame["user_id"], map(list, frame["item_ids"]), map(list, frame["scores"]), reasons
    assert list(zip(*lists, strict=True)) == want
    assert set(table["ds"].to_pylist()) == {DS}

    pattern = f"{folder}/*/*.parquet"
    columns = ", ".join(names)
    relation = duckdb.sql(
        f"select {columns}, ds from read_parquet('{pattern}', hive_partitioning=true) order by user_id"
    )
    assert [row[:4] for row in relation.fetchall()] == want
    assert [str(type_) for type_ in relation.types[1:4]] == ["VARCHAR[]", "FLOAT[]", "VARCHAR[][]"]

    lazy = polars.scan_parquet(f"{folder}/", hive_partitioning=True).sort("user_id").collect()
    assert lazy.select(names).rows() == want
    assert lazy["ds"].cast(str).unique().to_list() == [DS]

    expression = (variants.__doc__ or "").partition("    case")[2].partition("\n\n")[0]
    rows = spark.read.parquet(str(folder)).selectExpr("*", f"case{expression} as by_sql").orderBy("user_id").collect()
    assert [tuple(row[name] for name in names) for row in rows] == want
    assert [row.by_sql for row in rows] == [row.variant for row in rows]
    assert {row.by_sql for row in rows} == {"holdout", "control", "treatment"}
    assert {str(row.ds) for row in rows} == {DS}


def test_k_beyond_the_available_items_is_refused(tmp_path, no_ray):
    """A list longer than the number of available items is an error that names both."""
    put_store(tmp_path)
    with pytest.raises(ConfigError, match=r"recommend.k is 79, but only 78 items are known to the model and available"):
        stages.run("recommend", config_for(tmp_path, k=79))


def test_a_model_of_another_vocabulary_is_refused(tmp_path, no_ray):
    """A model that was trained on other ids at the same indices stops the stage before Ray reads anything."""
    put_store(tmp_path)
    put_model(tmp_path, [*ITEM_IDS[1:], "item000"])
    with pytest.raises(ModelError, match=r"are not the first .* items of this vocabulary"):
        stages.run("recommend", config_for(tmp_path))


def test_a_missing_student_is_named(tmp_path):
    """Without a published student the error says which stage comes first."""
    put_store(tmp_path)
    (tmp_path / "models" / "student" / f"ds={DS}").unlink()
    with pytest.raises(InputError, match=r"recommend needs models/student of 2026-11-22.*`distilrec distill` first"):
        stages.run("recommend", config_for(tmp_path))


@pytest.mark.e2e
def test_show_prints_history_and_list(store, shown):
    """`show` prints the newest interactions and the ranked list with titles, or ids where there is no title."""
    text = shown(store, "user0003").splitlines()
    assert text[:4] == [
        "user user0003: 3 interactions:",
        "  2026-11-10 12:00  view       Title 21",
        "  2026-11-11 12:00  favourite  item034",
        "  2026-11-12 12:00  cart       Title 47",
    ]
    assert text[4].startswith("recommended on 2026-11-22 (source model, model version ")
    best = read_rows(store)[3]
    assert text[4].endswith(f", data until 2026-11-23 00:00 UTC, variant {best['variant']}):")
    index = int(best["item_ids"][0].removeprefix("item"))
    title = f"Title {index}" if index % 2 else best["item_ids"][0]
    assert text[5].split(maxsplit=2) == ["1", f"{best['scores'][0]:.4f}", title]
    called = {"item021": "Title 21", "item034": "item034", "item047": "Title 47"}
    reasons = [", ".join(called[name] for name in named) for named in best["because_item_ids"] if named]
    found = [line.removeprefix(" " * 18 + "because: ") for line in text if "because" in line]
    assert found == reasons
    assert len(text) == 9 + len(reasons) > 9


@pytest.mark.e2e
def test_show_knows_users_without_a_history(store, shown):
    """A user with an empty history has popular items, and `show` prints no interactions."""
    assert "(source popular, model version " in shown(store, "user0008")


@pytest.mark.e2e
def test_show_refuses_a_stranger(store, shown):
    """An unknown user is an error that offers some that exist."""
    with pytest.raises(InputError, match=r"no user 'nobody' in histories of 2026-11-22.*try user0"):
        shown(store, "nobody")


@pytest.mark.e2e
def test_sample_users_are_varied_and_always_the_same(store):
    """Three samples have lists from the model and at least three interactions, of different lengths."""
    users = sample_users(store, DS, 3)
    lengths = [int(user.removeprefix("user")) % 8 for user in users]
    assert users == sample_users(store, DS, 3)
    assert len(set(lengths)) == 3
    assert min(lengths) >= 3
