"""Whole nights on real Spark, Ray and DeepSpeed, through the command line, undisturbed and killed."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.__main__ import main
from kdlib.release import delivery, promotions
from kdlib.store import partitions, tables
from tests.jobs.conftest import DS, NIGHT, copy_of
from tests.whole_nights import run, whole

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_a_night_ends_with_a_whole_table(night: tuple[Path, Path, str]) -> None:
    """Every user once, at most k distinct items, none seen before, none unavailable. The rows of the input add up."""
    _, root, printed = night
    whole(root, DS)
    rows = pq.read_table(partitions.current(root, "recommendations", DS)).to_pylist()
    histories = pq.read_table(partitions.current(root, "histories", DS)).to_pylist()
    vocabulary = pq.read_table(partitions.current(root, "item_vocabulary", DS)).sort_by("item_index").to_pylist()
    seen = {row["user_id"]: {vocabulary[item]["item_id"] for item in row["item_indices"]} for row in histories}
    unavailable = {item["item_id"] for item in vocabulary if not item["available"]}
    assert unavailable
    assert sorted(row["user_id"] for row in rows) == sorted(seen)
    for row in rows:
        assert len(row["item_ids"]) == len(set(row["item_ids"])) == len(row["scores"]) == 7
        assert not set(row["item_ids"]) & (seen[row["user_id"]] | unavailable)
        assert row["scores"] == sorted(row["scores"], reverse=True)
    assert delivery.read(f"file://{root.parent}/shop", "recommendations").to_table().to_pylist() == rows
    metrics = pq.read_table(partitions.current(root, "metrics", DS)).to_pylist()
    users = {row["metric"]: row["num_users"] for row in metrics if row["model"] == "student - control"}
    types = [name for name in ("view", "cart", "purchase") if f"recall@10/{name}" in users]
    assert "view" in types
    assert sum(users[f"recall@10/{name}"] for name in types) == users["recall@10"]
    assert ("otto@10" in users) == (len(types) == 3)
    told = (root.parent / "distilrec_small.prom").read_text()
    assert 'distilrec_night_exit_status{run="small"} 0.0' in told
    assert f'distilrec_in_use_rows{{run="small",table="recommendations"}} {float(len(rows))}' in told
    for model in ("teacher", "student", "control"):  # they read features of the items
        trained = partitions.manifest_of(root, f"models/{model}", DS)
        assert trained.inputs["item_features"] == partitions.manifest_of(root, "item_features", DS).version
    manifest = partitions.read_manifest(root, "histories", DS)
    events = partitions.read_manifest(root, "events", DS)
    assert manifest is not None
    assert events is not None
    funnel, planted = manifest.details["funnel"], events.details["planted"]
    assert funnel["rows_read"] == funnel["kept"] + funnel["duplicate"] + funnel["quarantined"] == events.rows
    assert funnel["kept"] == planted["clean"]
    assert funnel["duplicate"] == planted["duplicate"]
    assert funnel["reasons"] == {kind: n for kind, n in planted.items() if n and kind not in ("clean", "duplicate")}
    for expected in (
        "teacher epoch",
        "student epoch",
        "KL",
        "best reachable",
        "student without teacher",
        "recommended",
        f"reports/ds={DS}/index.html",
    ):
        assert expected in printed, printed
    assert not re.search(r"\(pid=|WARN|Traceback", printed), printed


def test_all_spark_stages_share_one_java(night: tuple[Path, Path, str]) -> None:
    """Java starts in the first Spark stage, whose log has its first lines."""
    _, root, _ = night
    first, second = (
        (root / "logs" / f"ds={DS}" / f"{stage}.log").read_text() for stage in ("build_features", "build_side_features")
    )
    assert "log4j profile" in first
    assert "log4j profile" not in second


def test_every_table_and_model_of_a_night_is_as_its_manifest_says(night: tuple[Path, Path, str]) -> None:
    """Files, bytes, hashes, rows and columns are those of the manifests, and each input is the version in use."""
    _, root, _ = night
    made = {name: whole(root, DS, name) for name in partitions.published_on(root, DS)}
    assert {"events", "models/student", "quarantine", "histories", "metrics", "gates", "recommendations"} <= set(made)
    for table, manifest in made.items():
        assert (manifest.table, manifest.ds) == (table, DS)
        assert partitions.current(root, table, DS).samefile(
            partitions.version_folder(root, table, DS, manifest.version)
        )
        inputs = {name: version for name, version in manifest.inputs.items() if name in made}
        assert inputs == {name: made[name].version for name in inputs}


def test_a_night_publishes_the_further_lists(night: tuple[Path, Path, str]) -> None:
    """Each list is in use and delivered, keeps its contract, and holds available items only, as DuckDB finds them."""
    duckdb = pytest.importorskip("duckdb")
    _, root, printed = night
    folders = {name: (root / "promoted" / name).resolve() for name in (*promotions.LINKED, *promotions.LISTS)}
    for name in promotions.LISTS:
        rows = tables.check_files(tables.ALL[name], folders[name])
        assert rows > 0
        assert delivery.read(f"file://{root.parent}/shop", name).to_table().num_rows == rows
        assert f"recommend_lists: {name}: {rows:,} rows" in printed
    vocabulary = f"(select item_id from '{folders['item_vocabulary']}/*.parquet' where available)"
    for name, k in NIGHT["recommend"]["lists"].items():
        rows = f"(select unnest(item_ids) as item, item_ids from '{folders[name]}/*.parquet')"
        [(longest, repeats, only_available)] = duckdb.sql(
            f"select max(len(item_ids)), max(len(item_ids) - len(list_distinct(item_ids))),"
            f" bool_and(item in {vocabulary}) from {rows}"
        ).fetchall()
        assert (1 <= longest <= k, repeats, only_available) == (True, 0, True), name
    long, wide = (f"'{folders[name]}/*.parquet'" for name in ("recommendations_long", "recommendations"))
    ranked = "list(item_id order by rank), list(score order by rank)"
    back = duckdb.sql(f"select user_id, any_value(variant), {ranked} from {long} group by 1 order by 1").fetchall()
    assert back == duckdb.sql(f"select user_id, variant, item_ids, scores from {wide} order by 1").fetchall()
    assert {variant for _, variant, *_ in back} == {"holdout", "control", "treatment"}


def test_the_export_of_a_night_makes_its_lists(night: tuple[Path, Path, str]) -> None:
    """From the clean events alone, the reader makes each user's published list; the delivered files are the same."""
    reader_of = pytest.importorskip("kdlib.export.reader")
    _, root, printed = night
    assert "lists equal to the table's: float32 100.0%, int8 " in printed
    in_use = (root / "promoted" / "export").resolve()
    reader = reader_of.Reader(in_use)
    columns = ["user_id", "item_id", "event_type", "event_time", "event_id"]
    events = pq.read_table(partitions.current(root, "clean_events", DS), columns=columns)
    order = ["user_id", "event_time", "event_id", "item_id", "event_type"]
    events_of: dict[str, list[dict[str, Any]]] = {}
    for row in events.sort_by([(name, "ascending") for name in order]).to_pylist():
        events_of.setdefault(row["user_id"], []).append(row)
    lists = pq.read_table(partitions.current(root, "recommendations", DS)).to_pylist()
    assert len(lists) > 700
    for row in lists:
        own = events_of.get(row["user_id"], [])
        times = np.array([one["event_time"].replace(tzinfo=None) for one in own], "datetime64[us]")
        raw = reader_of.History(
            [one["item_id"] for one in own], [one["event_type"] for one in own], times, [0] * len(own)
        )
        made = reader.list_of(reader_of.history_of_events(reader.policy, raw))
        assert (made.item_ids, made.source) == (row["item_ids"], row["source"])
        np.testing.assert_allclose(made.scores, row["scores"], atol=1e-4)
    sent = delivery.delivered(f"file://{root.parent}/shop")
    assert sent is not None
    assert {Path(file["path"]).name for file in sent.files["export"]} >= {"encoder.onnx", "topk.int8.onnx", "card.md"}
    for file in sent.files["export"]:
        [here] = in_use.rglob(Path(file["path"]).name)
        assert (root.parent / "shop" / file["path"]).read_bytes() == here.read_bytes()
    card = (in_use / "card.md").read_text()
    assert "## Quality by segment" in card
    assert str(root) not in card


def test_a_night_measures_what_its_lists_are_like(night: tuple[Path, Path, str]) -> None:
    """Each model has the metrics beyond accuracy, over all test users and by length of history. Nothing is new yet."""
    _, root, _ = night
    metrics = pq.read_table(partitions.current(root, "metrics", DS)).to_pylist()
    found = {(row["model"], row["metric"]): row for row in metrics}
    segments = ["", *(name[len("gini@10") :] for model, name in found if model == "student" and "gini@10/" in name)]
    assert len(segments) == 4
    for model in ("popularity", "markov", "teacher", "student", "control"):
        for segment in segments:
            assert 0 < found[model, f"coverage@10{segment}"]["value"] <= 1
            assert 0 < found[model, f"gini@10{segment}"]["value"] < 1
            for metric in ("novelty@10", "popularity@10", "diversity@10"):
                row = found[model, metric + segment]
                assert 0 < row["low"] <= row["value"] <= row["high"]
                assert row["num_users"] == found[model, f"gini@10{segment}"]["num_users"]
    assert found["popularity", "novelty@10"]["value"] < found["student", "novelty@10"]["value"]
    assert found["popularity", "popularity@10"]["value"] > found["student", "popularity@10"]["value"]
    assert not [metric for _, metric in found if metric.startswith("new_items")]


@pytest.fixture(scope="module")
def again(
    night: tuple[Path, Path, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, partitions.Manifest, list[dict[str, str]]]:
    """The run of `night` once more, with `--json-logs`: output folder, the table's manifest before it, and its lines."""
    config, root, _ = copy_of(night, tmp_path_factory.mktemp("again") / "night")
    before = whole(root, DS)
    return root, before, [json.loads(line) for line in run(config, "--json-logs").splitlines()]


def test_the_same_night_again_gives_the_same_table(
    again: tuple[Path, partitions.Manifest, list[dict[str, str]]],
) -> None:
    """A second run skips what is up to date and leaves the published version as it is."""
    root, before, lines = again
    messages = [line["message"] for line in lines]
    assert sum(message.endswith(": up to date") for message in messages) >= 7, messages
    assert not [message for message in messages if "epoch" in message]
    assert whole(root, DS) == before


def test_json_lines_of_a_night_share_one_run_id(
    again: tuple[Path, partitions.Manifest, list[dict[str, str]]],
) -> None:
    """Every line of the run is JSON, also the lines of the Spark process, and has the same run id."""
    _, _, lines = again
    assert all(set(line) == {"time", "level", "run_id", "message"} for line in lines)
    assert len({line["run_id"] for line in lines}) == 1
    messages = [line["message"] for line in lines]
    assert messages[0].startswith(f"nightly: small, {DS}, output in ")
    assert [message for message in messages if message.startswith("build_features: done in ")]
    assert {line["level"] for line in lines} == {"info"}
    assert sorted(lines, key=lambda line: line["time"]) == lines


@pytest.mark.parametrize("command", [["plan"], ["nightly", "--dry-run"]])
def test_the_plan_of_a_finished_night(
    night: tuple[Path, Path, str], capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """Every stage is up to date or acts each time. With a changed setting the plan names the stages and the setting."""
    config, root, _ = night
    before = whole(root, DS)
    assert main([*command, "--config", str(config)]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith("everything is up to date\n"), printed
    assert main([*command, "--config", str(config), "--set", "recommend.k=6"]) == 0
    changed = re.findall(r"^  (\S+) +runs +.* MiB +(\S.*)$", capsys.readouterr().out, re.MULTILINE)
    assert [name for name, _ in changed] == ["recommend", "recommend-lists", "export", "report"], changed
    assert "setting recommend.k: 7 → 6" in changed[0][1]
    assert "after recommend" in changed[1][1]
    assert "setting recommend.k: 7 → 6" in changed[2][1]
    assert "after recommend" in changed[3][1]
    assert whole(root, DS) == before
