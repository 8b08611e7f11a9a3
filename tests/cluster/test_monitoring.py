"""What monitoring gets: the text file, the alert rules, the dashboard; with a real Prometheus where there is one."""

import json
import re
import shutil
import subprocess
import time
from contextlib import nullcontext
from datetime import UTC, date, datetime
from pathlib import Path
from unittest.mock import Mock
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from jobs import promote
from jobs.__main__ import main
from jobs.runtime import telemetry
from jobs.runtime.lock import run_lock
from kdlib.config.load import load_config
from kdlib.config.run import RunConfig
from kdlib.errors import DeliveryError
from kdlib.report.content import Night
from kdlib.report.exposition import InUse, exposition
from tests.ports import free_port
from tests.report.nights import BEFORE, DS, METRICS, NIGHT, blocked_before_training

MONITORING = Path(__file__).parents[2] / "cluster" / "monitoring"
IN_USE = InUse(BEFORE, 1_790_000_000.5, {"recommendations": 80})
LIVE = {"ray_distilrec_training_epoch", "ray_distilrec_training_ndcg"}
"""From Ray, while a training runs: `jobs.runtime.train_worker`."""


def series(night: Night = NIGHT, **facts) -> dict[tuple, float]:
    """(name, sorted labels but `run`) → value; every series has the label `run`."""
    text = exposition(night, in_use=facts.get("in_use", IN_USE), status=facts.get("status", 0)).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("run") == night.name
            found[sample.name.removeprefix("distilrec_"), *sorted(labels.values())] = sample.value
    return found


def expressions() -> list[str]:
    """All queries of the dashboard, for every run."""
    board = json.loads((MONITORING / "grafana.json").read_text())
    found = [target["expr"].replace("$run", ".*") for panel in board["panels"] for target in panel["targets"]]
    assert len(found) > 10
    return found


def test_the_file_tells_the_night() -> None:
    """Rows, gates, quality, stages and the run in use have their values. A skipped gate has no value and no bound."""
    found = series()
    assert found["night_exit_status",] == 0
    assert found["in_use_day_timestamp_seconds",] == 1_795_219_200  # 2026-11-21
    assert found["in_use_rows", "recommendations"] == 80
    assert found["input_rows", "kept"] == 900
    assert found["quarantined_rows", "bot_user"] == 10
    assert found["stage_seconds", "build_features"] == 30
    assert found["gate_value", "history_length"] == 12.5
    assert (found["gate_bound", "history_length", "low"], found["gate_bound", "high", "history_length"]) == (5, 20)
    assert ("gate_value", "student_over_last_night") not in found
    assert found["gate_failed", "student_over_last_night"] == 0
    assert found["quality", "ndcg@10", "student"] == METRICS["student", "ndcg@10"].value
    assert not [key for key in found if "student - control" in key or "ndcg@10/head" in key]
    assert found["model_parameters", "student"] == 50_080


def test_a_night_that_got_nowhere_is_told_too() -> None:
    """After a failed gate the file has no series for unknown values: no status, nothing in use."""
    found = series(blocked_before_training(), in_use=None, status=3)
    assert found["gate_failed", "history_length"] == 1
    assert found["night_exit_status",] == 3
    assert not [key for key in found if key[0].startswith("in_use")]
    assert ("night_exit_status",) not in series(Night(name="shop", ds=DS, k=10), status=None)


def shop(folder: Path, ds: str) -> RunConfig:
    """A run config that writes telemetry to shop.prom."""
    document = {"name": "shop", "output_dir": str(folder / "out"), "input": {"simulate": {}}}
    (folder / "run.yaml").write_text(json.dumps(document | {"telemetry": {"textfile": str(folder / "shop.prom")}}))
    return load_config(folder / "run.yaml", ds=ds)


def told(folder: Path) -> tuple[str, float | None]:
    """Day and exit status in shop.prom."""
    found = dict(re.findall(r'^distilrec_night_(\w+)\{run="shop"\} (\S+)$', (folder / "shop.prom").read_text(), re.M))
    day = datetime.fromtimestamp(float(found["day_timestamp_seconds"]), UTC).date().isoformat()
    return day, float(found["exit_status"]) if "exit_status" in found else None


def test_a_stage_run_by_itself_keeps_the_night_s_status(tmp_path: Path) -> None:
    """`distilrec telemetry` without a status keeps the failed run's alert. Another date has no status yet."""
    found = []
    for ds, status in (("2024-11-21", 1), ("2024-11-21", None), ("2024-11-22", None)):
        telemetry.write(shop(tmp_path, ds), status=status)
        found.append(told(tmp_path))
    assert found == [("2024-11-21", 1), ("2024-11-21", 1), ("2024-11-22", None)]
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".new"] == []


@pytest.mark.parametrize("status", [None, 0, 1])
def test_an_earlier_day_does_not_take_the_last_night_s_alert_back(tmp_path: Path, status: int | None) -> None:
    """A rerun or a report of an earlier date, also a failed one, leaves the last run in the file."""
    telemetry.write(shop(tmp_path, "2024-11-22"), status=3)
    telemetry.write_or_warn(shop(tmp_path, "2024-11-20"), status)
    assert told(tmp_path) == ("2024-11-22", 3)


@pytest.mark.parametrize(
    ("words", "status", "then"),
    [
        (["report"], 2, ("2024-11-22", 3)),
        (["evaluate"], 2, ("2024-11-22", 3)),
        (["telemetry", "--status", "1"], 0, ("2024-11-23", 1)),
        (["telemetry"], 0, ("2024-11-23", None)),
    ],
)
def test_only_telemetry_tells_another_run(
    tmp_path: Path, words: list[str], status: int, then: tuple[str, float | None]
) -> None:
    """A report or a stage that fails, here because nothing is published, leaves the file.

    `telemetry` takes the status.
    """
    telemetry.write(shop(tmp_path, "2024-11-22"), status=3)
    assert main([*words, "--config", str(tmp_path / "run.yaml"), "--ds", "2024-11-23"]) == status
    assert told(tmp_path) == then


def test_what_a_later_job_has_made_good_is_told(tmp_path: Path) -> None:
    """`deliver` ends the alert of status 74, of any date. Another status stays."""
    config, found = shop(tmp_path, "2024-11-21"), []
    for status in (74, 3):
        telemetry.write(config, status=status)
        telemetry.tell(config, mends=(74,))
        found.append(told(tmp_path))
    assert found == [("2024-11-21", 0), ("2024-11-21", 3)]
    telemetry.write(config.model_copy(update={"ds": date(2024, 11, 22)}), status=74)
    telemetry.tell(config, mends=(74,))
    assert told(tmp_path) == ("2024-11-22", 0)


def test_a_place_that_others_read_and_that_could_not_be_reached_is_told(tmp_path: Path) -> None:
    """A `rollback` or `forget` whose delivery fails sets 74 for the run that the file describes."""
    telemetry.write(shop(tmp_path, "2024-11-22"), status=0)
    telemetry.tell(shop(tmp_path, "2024-11-20"), status=74)
    assert told(tmp_path) == ("2024-11-22", 74)


def nightly_of(folder: Path, *words: str, **more: object) -> int:
    """The exit status of a nightly run whose run config has these sections."""
    shop(folder, "2024-11-22")
    document = json.loads((folder / "run.yaml").read_text()) | more
    (folder / "run.yaml").write_text(json.dumps(document))
    return main(["nightly", "--config", str(folder / "run.yaml"), *words])


@pytest.mark.parametrize(
    ("words", "more"),
    [
        ((), {"distillation": {"temprature": 2}}),
        ((), {"input": {}}),
        (("--set", "training.workers=0"), {}),
        ((), {"output_dir": "/dev/null/out"}),
    ],
)
def test_a_night_of_a_wrong_config_is_told(tmp_path: Path, words: tuple[str, ...], more: dict) -> None:
    """Status 2 of its date, if the run config still says the run's name and file. An earlier date does not count."""
    telemetry.write(shop(tmp_path, "2024-11-21"), status=0)
    assert nightly_of(tmp_path, "--ds", "2024-11-20", *words, **more) == 2
    assert told(tmp_path) == ("2024-11-21", 0)
    assert nightly_of(tmp_path, "--ds", "2024-11-22", *words, **more) == 2
    assert told(tmp_path) == ("2024-11-22", 2)


@pytest.mark.parametrize(
    "more", [{"name": "My shop"}, {"telemetry": {"file": "shop.prom"}}, {"output_dir": "${NOT_SET_ANYWHERE}/out"}]
)
def test_a_night_that_cannot_be_told_leaves_the_file(
    tmp_path: Path, more: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    """The wrong part is the run's name or file.

    The person gets the error alone, and the alert DistilrecSilent notices.
    """
    telemetry.write(shop(tmp_path, "2024-11-21"), status=0)
    assert nightly_of(tmp_path, "--ds", "2024-11-22", **more) == 2
    assert told(tmp_path) == ("2024-11-21", 0)
    found = capsys.readouterr()
    assert found.out == ""
    assert re.match(rf"distilrec: error: the run config ({tmp_path}/run\.yaml is wrong|uses \$\{{NOT_SET)", found.err)


def test_a_night_that_is_turned_away_tells_nothing(tmp_path: Path) -> None:
    """The run that holds the date writes how it ends."""
    telemetry.write(shop(tmp_path, "2024-11-21"), status=0)
    with run_lock(shop(tmp_path, "2024-11-22"), "nightly"):
        assert nightly_of(tmp_path, "--ds", "2024-11-22") == 75
    assert told(tmp_path) == ("2024-11-21", 0)


def test_a_day_to_come_or_rolled_back_tells_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later run replaces a mistyped future date, and a good run that a rollback has withdrawn."""
    telemetry.write(shop(tmp_path, "2999-11-22"), status=2)
    telemetry.write(shop(tmp_path, "2024-11-22"), status=0)
    assert told(tmp_path) == ("2024-11-22", 0)
    back = Mock(ds="2024-11-20", versions={}, unix_seconds=0.0)
    monkeypatch.setattr(telemetry.promotions, "current", lambda root: back)
    telemetry.write(shop(tmp_path, "2024-11-21"), status=3)
    assert told(tmp_path) == ("2024-11-21", 3)


@pytest.mark.parametrize("before", [1, 2, 3, 74, 130, 143])
@pytest.mark.parametrize(
    ("outcome", "after"), [(IN_USE, 0), (None, "before"), (DeliveryError("it does not answer"), 74)]
)
def test_a_night_that_is_promoted_by_hand_is_a_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, outcome: object, after: int | str
) -> None:
    """The status before does not matter. A run that stays beside a later run in use changes nothing."""
    telemetry.write(shop(tmp_path, "2024-11-22"), status=before)
    monkeypatch.setattr(promote, "promote", Mock(side_effect=[outcome]))
    fails = isinstance(outcome, DeliveryError)
    with pytest.raises(DeliveryError) if fails else nullcontext():
        promote.run(shop(tmp_path, "2024-11-22"))
    assert told(tmp_path) == ("2024-11-22", before if after == "before" else after)


def test_telemetry_that_cannot_be_written_fails_no_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The switch is made by then, so the failure is a warning."""
    (tmp_path / "shop.prom").mkdir()
    telemetry.tell(shop(tmp_path, DS))
    assert "telemetry warning: not written" in capsys.readouterr().out


def test_a_file_that_is_broken_is_written_anew(tmp_path: Path) -> None:
    """A file that cannot be read describes no run."""
    (tmp_path / "shop.prom").write_bytes(b"\xff{{")
    telemetry.tell(shop(tmp_path, DS))
    assert told(tmp_path) == (DS, None)


def test_training_speed_is_over_all_epochs() -> None:
    """Positions over seconds. A model without epochs has no speed."""
    epochs = [
        {"positions": 100.0, "train_seconds": 2.0, "data_wait_seconds": 1.0},
        {"positions": 500.0, "train_seconds": 2.0, "data_wait_seconds": 0.0},
    ]
    found = series(Night(name="shop", ds=DS, k=10, models={"student": {"epochs": epochs}, "teacher": {}}))
    assert found["training_positions_per_second", "student"] == 150
    assert found["training_data_wait_share", "student"] == 0.25
    assert ("training_positions_per_second", "teacher") not in found


def test_rules_and_dashboard_ask_for_series_that_there_are() -> None:
    """After a renaming no alert stays silent and no panel stays empty."""
    made = {f"distilrec_{name}" for name, *_ in series()} | LIVE
    made |= {"distilrec_training_positions_per_second", "distilrec_training_data_wait_share"}  # not in this night
    rules = yaml.safe_load((MONITORING / "rules.yaml").read_text())
    asked = [rule["expr"] for group in rules["groups"] for rule in group["rules"]] + expressions()
    for expression in asked:
        names = set(re.findall(r"\b(?:ray_)?(?:distilrec|node)_\w+", expression))
        assert names
        assert names <= made, expression


def test_the_dashboard_is_whole() -> None:
    """Panels have different numbers and do not overlap."""
    panels = json.loads((MONITORING / "grafana.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


@pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool (Debian's package prometheus)")
def test_the_alert_rules_do_what_they_say() -> None:
    """`promtool` runs the rules over made-up days."""
    done = subprocess.run(
        ["promtool", "test", "rules", "rules_test.yaml"], cwd=MONITORING, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("prometheus-node-exporter")),
    reason="no Prometheus (Debian's packages prometheus and prometheus-node-exporter)",
)
def test_a_real_prometheus_answers_every_query_of_the_dashboard(tmp_path) -> None:
    """Text file → node exporter → Prometheus → the dashboard's queries: each finds data."""
    epochs = [{"positions": 100.0, "train_seconds": 2.0, "data_wait_seconds": 1.0}]
    models = {**NIGHT.models, "student": {**NIGHT.models["student"], "epochs": epochs}}
    night = Night(**{**vars(NIGHT), "models": models})
    (tmp_path / "distilrec_shop.prom").write_bytes(exposition(night, in_use=IN_USE, status=0))
    node, server = free_port(), free_port()
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "node", "static_configs": [{"targets": [f"127.0.0.1:{node}"]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    commands = [
        [
            "prometheus-node-exporter",
            "--collector.disable-defaults",
            "--collector.textfile",
            f"--collector.textfile.directory={tmp_path}",
            f"--web.listen-address=127.0.0.1:{node}",
        ],
        [
            "prometheus",
            f"--config.file={tmp_path}/prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{server}",
        ],
    ]
    running = [subprocess.Popen(one, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for one in commands]
    try:
        for expression in expressions():
            if not expression.startswith("ray_"):
                assert _answer(server, expression), expression
    finally:
        for process in running:
            process.terminate()
            process.wait()


def _answer(port: int, expression: str) -> list:
    """The query's result, once there is one."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            query = urlencode({"query": expression})
            with urlopen(f"http://127.0.0.1:{port}/api/v1/query?{query}", timeout=5) as reply:
                if found := json.load(reply)["data"]["result"]:
                    return found
        except OSError:
            pass
        time.sleep(0.2)
    return []
