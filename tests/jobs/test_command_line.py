"""The command line: what it prints for a person who makes a mistake, and the exit status."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from jobs import plan
from jobs.__main__ import cli, main
from jobs.runtime import console
from jobs.runtime.command import Invocation, execute
from jobs.runtime.console import in_utf8, say
from jobs.runtime.process import StageProcess
from jobs.runtime.published import published
from jobs.runtime.ray_cluster import own_signal_handlers
from jobs.runtime.teachers import teacher_folders
from kdlib.config.load import load_config
from kdlib.config.run import RunConfig
from kdlib.errors import InputError, ModelError
from kdlib.models.files import save_model
from kdlib.models.sequence import SequenceModel
from kdlib.store import format as store_format
from kdlib.store import partitions, tables
from tests import stages
from tests.jobs import handmade
from tests.jobs.handmade import DAYS

DS = "2026-11-22"


def _config(folder: Path, **more: object) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "run.yaml"
    document = {"name": "broken", "ds": DS, "output_dir": str(folder / "output"), "input": {"simulate": {}}}
    path.write_text(yaml.safe_dump(document | more))
    return path


@pytest.mark.parametrize("stage", ["train-teacher", "train-text-encoder"])
def test_a_missing_input_is_an_error_before_ray_starts(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error costs no start of Ray, which takes seconds."""
    started: list[RunConfig] = []
    monkeypatch.setattr("jobs.runtime.runner.start_ray", started.append)
    config = load_config(_config(tmp_path, teachers=[{"name": "a", "text": {"adapt": {}}}]))
    with pytest.raises(InputError, match=f"{stage} needs histories of {DS}.*Run `distilrec build-features` first"):
        stages.run(stage, config)
    assert not started


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """`distilrec --help` names every command once, with a line about it."""
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    named = re.findall(r"^  ([a-z][a-z-]+)  +\S", printed, re.MULTILINE)
    assert sorted(named) == sorted(cli.commands)


def test_without_arguments_the_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """A person who does not know the commands finds them."""
    main([])
    assert "nightly  " in "".join(capsys.readouterr())


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    """`distilrec --version` prints the installed version."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"distilrec, version {version('distilrec')}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "No such command 'fly'"),
        (["evaluate", "--fly"], "No such option '?--fly"),
        (["rollback"], "Missing option '--to'"),
        (["submit", "show"], "'show' is not one of 'nightly', 'simulate-events'"),
        (["search", "-k", "0", "red shoes"], "'-k'.*0"),
    ],
)
def test_a_mistyped_command_line_exits_with_two(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Standard error says what is wrong and where the help is."""
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.search(message, printed.err), printed.err
    assert re.search(r"Try 'distilrec .*--help' for help", printed.err)
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nightly", "--config", "no/such.yaml"], "cannot read the run config no/such.yaml"),
        (["evaluate", "--ds", "yesterday"], "ds: .*found 'yesterday'"),
        (["distill", "--set", "distillation.temprature=2"], "unknown key distillation.temprature"),
        (["distill", "--set", "distillation.temperature=-1"], "distillation.temperature: .*greater than 0, found -1"),
        (["distill", "--set", "training.workers=3"], "teacher: batch_size 256 is not a multiple of training.workers 3"),
        (["train-teacher"], "train-teacher needs histories of 2026-11-22, and none is published under"),
        (
            ["recommend"],
            "recommend needs histories of 2026-11-22, .*Run `distilrec build-features --set output_dir=.*` first",
        ),
        (["show", "--user", "x"], "no published .* for 2026-11-22"),
    ],
)
def test_errors_exit_with_two(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error that the person can fix is one line on standard error and exit status 2, without a traceback."""
    more = [] if "nightly" in arguments else ["--set", f"output_dir={tmp_path}"]
    assert main([*arguments, *more]) == 2
    printed = capsys.readouterr()
    assert re.search(message, printed.err), printed.err
    assert printed.err.startswith("distilrec: error: ")
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err + printed.out
    assert not list(tmp_path.glob("models*"))


@pytest.mark.parametrize(
    ("command", "default"),
    [
        ("evaluate", "(default: the run config's)"),
        ("report", "(default: the run config's, or the one in use)"),
        ("show", "(default: the run config's, or the one in use)"),
        ("search", "the run's date (default: the one in use)"),
        ("explore", "the run's date (default: the one in use)"),
        ("deliver", "the run in use is delivered"),
        ("forget", "all dates are searched"),
    ],
)
def test_help_says_what_the_date_is_for(command: str, default: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Some commands are about the run in use, or about all runs."""
    assert main([command, "--help"]) == 0
    assert default in " ".join(capsys.readouterr().out.split())


def test_rollback_takes_only_the_date_to_go_back_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--ds` beside `--to` is an error, and the help does not offer it."""
    config = str(_config(tmp_path))
    assert main(["rollback", "--config", config, "--ds", DS, "--to", "2026-11-21"]) == 2
    assert f"--ds {DS}: rollback takes its date with --to" in capsys.readouterr().err
    assert main(["rollback", "--help"]) == 0
    assert "--ds" not in capsys.readouterr().out


def test_a_command_about_what_is_in_use_needs_no_date(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without `ds` in the run config or on the command line its date is that of the run in use; others ask for one."""
    handmade.put_night(config, DAYS[0])
    for stage in ("check-gates", "promote"):
        assert handmade.run(stage, config, "--ds", DAYS[0]) == 0
    days: list[str] = []
    for in_use in (True, False):
        execute("look", Invocation(str(config)), lambda one: days.append(one.day), reads_only=True, in_use=in_use)
    assert days == [DAYS[0]]
    assert "no date: give --ds" in capfd.readouterr().err
    assert handmade.run("evaluate", config) == 2
    assert "no date: give --ds" in capfd.readouterr().err


def test_an_unforeseen_failure_exits_with_one_and_names_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug gives one line and the log's path; the traceback is in the log."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("boom\nmore")

    monkeypatch.setattr("jobs.runtime.runner.run_stage", fail)
    assert main(["evaluate", "--config", str(_config(tmp_path))]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("distilrec: evaluate failed: RuntimeError: boom\n")
    log = Path(printed.splitlines()[1].removeprefix("full text: "))
    assert "Traceback" in log.read_text()


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/out/_locks/a.json"), " (/out/_locks/a.json)"),
        (RuntimeError("java.io.IOException: No space left on device\n\tat org.apache.spark"), ""),
    ],
    ids=["own", "Spark's"],
)
def test_a_full_disk_gives_a_line_that_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    """There is no traceback, although the log cannot be written either."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("jobs.runtime.runner.run_stage", fail)
    monkeypatch.setattr("jobs.runtime.command._log_traceback", lambda log: False)
    assert main(["evaluate", "--config", str(_config(tmp_path))]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"distilrec: evaluate failed: No space left on device{where}. Nothing is half-published")
    assert re.search(r"`distilrec prune .*` removes old runs", printed)
    assert "Traceback" not in printed


def test_a_teacher_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    """Distillation stops before it starts if teacher and features have different items."""
    config = load_config(_config(tmp_path, teachers=[{"name": "teacher"}]))
    staging = partitions.new_staging(config.root, "models/teacher", DS)
    model = SequenceModel(num_items=3, kind="gru", dim=4)
    save_model(
        staging,
        model,
        model.state_dict(),
        {"vocabulary_hash": "other", "vocabulary_items": 3, "vocabulary_version": "abc"},
    )
    partitions.publish(staging, config.root, "models/teacher", DS, fingerprint="x")
    with pytest.raises(ModelError, match=r"teacher teacher at .* another item vocabulary \(3 items, version abc\)"):
        teacher_folders(config, published(config, "models/teacher"), "mine")


def test_metrics_are_printed_beside_each_other(tmp_path: Path) -> None:
    """The quality table shows each model, the differences with a verdict, and the share of the best reachable."""
    import numpy as np

    from jobs.runtime.published import quality_table
    from kdlib.metrics.table import metrics_table

    config = load_config(_config(tmp_path))
    good, bad = np.zeros(50, np.int64), np.full(50, 30)
    table = metrics_table(
        {"popularity": bad, "student": good, "control": bad, "best_reachable": good},
        (5, 10),
        pairs=[("student", "control"), ("teacher", "student")],
        samples=20,
        seed=0,
    )
    tables.check_schema(tables.METRICS, table.schema, where="test")
    staging = partitions.new_staging(config.root, "metrics", DS)
    pq.write_table(table, staging / "part.parquet")
    partitions.publish(
        staging, config.root, "metrics", DS, fingerprint="x", details={"users": 50, "repeats_left_out": 3}
    )
    text = quality_table(config)
    assert "50 test users" in text
    assert "3 left out" in text
    assert "student - student without teacher" in text
    assert "+1.0000 [+1.0000, +1.0000] higher" in text
    assert "the student reaches 100% of the best reachable NDCG@10" in text
    assert "teacher - student" not in text.replace("student - student without teacher", "")
    assert pa.types.is_float64(table.schema.field("value").type)
    assert json.dumps(table["model"].unique().to_pylist()).count(" - ") == 1


@pytest.mark.parametrize(
    ("number", "status", "told"), [(signal.SIGTERM, 143, "stopped by SIGTERM"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_run_that_is_stopped_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals, status: int, told: str
) -> None:
    """Open resources are closed, the status is the shell's for the signal, and the signal handlers are restored."""
    before, closed = signal.getsignal(signal.SIGTERM), []

    def run(config: RunConfig) -> None:
        try:
            with own_signal_handlers():
                signal.signal(number, lambda *_: closed.append("by an engine"))
            signal.raise_signal(number)
        finally:
            closed.append("by us")

    assert execute("evaluate", Invocation(str(_config(tmp_path))), run) == status
    assert closed == ["by us"]
    assert f"distilrec: {told}; nothing is half-published. Run the same command again" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_does_not_silence_the_run(tmp_path: Path) -> None:
    """The log file cannot be written: the person still gets the run's lines, the whole error and its exit status."""
    program = """
import sys
from pathlib import Path
from jobs.runtime import command, console
command.log_file = lambda config, stage: Path("/dev/full")
def run(config):
    print("an engine's chatter")
    console.say("a line")
    raise RuntimeError("no more")
sys.exit(command.execute("evaluate", command.Invocation(sys.argv[1]), run, quiet_engines=True))
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    words = [sys.executable, "-c", program, _config(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "a line\n" in done.stdout
    assert done.stderr.splitlines()[0] == "Traceback (most recent call last):"
    assert done.stderr.splitlines()[-1] == "RuntimeError: no more"


@pytest.mark.parametrize(("reads_only", "status"), [(True, 0), (False, 1)])
def test_a_reader_that_has_enough_ends_what_only_prints(tmp_path: Path, reads_only: bool, status: int) -> None:
    """`distilrec show | head` ends with 0; a run whose pipe to a worker broke has failed."""

    def run(config: RunConfig) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    kept = os.dup(1)
    try:
        found = execute("show", Invocation(str(_config(tmp_path))), run, reads_only=reads_only)
    finally:
        os.dup2(kept, 1)
        os.close(kept)
    assert found == status


def test_hints_name_this_run_s_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A hint gets `--config`, so that it is about this shop. Hints that have it, and `status`, stay as they are."""

    def run(config: RunConfig) -> None:
        say("try `distilrec show --user 7` or `distilrec promote --config x`, or `distilrec status`")

    path = _config(tmp_path / "a b")
    assert execute("show", Invocation(str(path)), run, reads_only=True) == 0
    told = f"try `distilrec show --config '{path}' --user 7` or `distilrec promote --config x`, or `distilrec status`\n"
    assert capsys.readouterr().out == told


def test_hints_repeat_the_settings_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A hint gets the `--set` of this command, because the output folder may depend on it."""
    path, elsewhere = _config(tmp_path), f"output_dir={tmp_path}/other place"
    invocation = Invocation(str(path), overrides=(elsewhere, "seed=2"))
    assert execute("show", invocation, lambda config: say("try `distilrec show`"), reads_only=True) == 0
    told = f"try `distilrec show --config {path} --set '{elsewhere}' --set seed=2`\n"
    assert capsys.readouterr().out == told


def test_under_another_encoding_a_command_begins_again_in_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    """So it works under cron's `LANG=de_DE`. A call from another program, with arguments, does not start again."""
    begun: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda program, words: begun.append(words))
    in_utf8(None)
    monkeypatch.setattr("locale.getencoding", lambda: "ISO-8859-1")
    monkeypatch.setenv("PYTHONUTF8", "0")
    in_utf8(["--ds", DS])
    assert begun == []
    monkeypatch.setattr("sys.orig_argv", ["python", "-m", "jobs", "nightly"])
    in_utf8(None)
    assert begun == [[sys.executable, "-m", "jobs", "nightly"]]
    assert os.environ["PYTHONUTF8"] == "1"


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.usefixtures("own_environment")
def test_verbose_prints_what_the_engines_print(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verbose: bool
) -> None:
    """Without `-v` the engines' output goes to the log file alone."""
    monkeypatch.setattr("jobs.runtime.runner.run_stage", lambda *_, **__: os.write(1, b"an engine's chatter\n"))
    assert main(["evaluate", "--config", str(_config(tmp_path)), *(["-v"] if verbose else [])]) == 0
    assert ("an engine's chatter" in capfd.readouterr().out) == verbose
    log = tmp_path / "output" / "logs" / f"ds={DS}" / "evaluate.log"
    assert (log.is_file() and "an engine's chatter" in log.read_text()) != verbose


def _json_lines(printed: str) -> list[dict[str, str]]:
    lines = [json.loads(line) for line in printed.splitlines()]
    assert all(set(line) == {"time", "level", "run_id", "message"} for line in lines)
    return lines


@pytest.mark.usefixtures("own_environment")
def test_json_logs_are_one_object_a_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Every line of a command and of its processes is an object with time, level, message and the same run id.

    The error, of level `error`, goes to standard error.
    """
    invocation = Invocation(str(_config(tmp_path)), overrides=("input.simulate.num_events=10000",))

    def run(config: RunConfig) -> None:
        say("two\nlines")
        with closing(StageProcess(invocation)) as process:
            process.run("simulate-events")
        raise InputError("no „rows“")

    os.environ[console.JSON_LOGS] = "1"  # as `--json-logs` does
    assert execute("look", invocation, run) == 2
    printed = capfd.readouterr()
    said, [error] = _json_lines(printed.out), _json_lines(printed.err)
    assert said[0]["message"] == "two\nlines"
    assert said[-1]["message"].startswith("simulate_events: done in ")
    assert error["message"] == "distilrec: error: no „rows“"
    assert {line["level"] for line in said} == {"info"}
    assert error["level"] == "error"
    assert {line["run_id"] for line in (*said, error)} == {console.run_id()}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"]) for line in said)


@pytest.mark.usefixtures("own_environment")
@pytest.mark.parametrize(
    "words", [["nightly", "--json-logs", "--from", "x"], ["evaluate", "--json-logs", "--set", "no.such=1"]]
)
def test_errors_are_json_too(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Also the error of a command line that no run begins with."""
    assert main(words) == 2
    [line] = _json_lines(capsys.readouterr().err)
    assert line["level"] == "error"
    assert line["message"].startswith("distilrec: error: ")


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", ["simulate-events", "nightly", "show", "plan"])
def test_outputs_of_a_newer_format_are_refused(
    command: str, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit status 2, advice, and nothing below the output folder is changed."""
    monkeypatch.setattr("jobs.nightly.run_stages", lambda *_, **__: None)
    root = handmade.put_night(config, DAYS[0])
    (root / store_format.FILE).write_text(json.dumps({"format": store_format.FORMAT + 1}))
    before = _files(root)
    assert handmade.run(command, config, "--ds", DAYS[0]) == 2
    printed = capsys.readouterr().err
    assert f"{root} have format {store_format.FORMAT + 1}" in printed
    assert f"formats up to {store_format.FORMAT}" in printed
    assert "Use the version that wrote them, or give another output_dir" in printed
    assert _files(root) == before


def test_a_format_that_cannot_be_read_is_refused(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the file, what it must hold, and how to repair it. The file stays as it is."""
    file = handmade.put_night(config, DAYS[0]) / store_format.FILE
    file.write_text("{")
    assert handmade.run("check-gates", config, "--ds", DAYS[0]) == 2
    assert re.search(
        rf'{file} cannot be read .*"format": {store_format.FORMAT}.*put the file back', capsys.readouterr().err
    )
    assert file.read_text() == "{"


def test_an_output_folder_that_is_a_file_is_an_error(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the setting, and the file stays."""
    handmade.root_of(config).write_text("mine")
    assert handmade.run("check-gates", config, "--ds", DAYS[0]) == 2
    assert f"cannot write below output_dir, {handmade.root_of(config)}" in capsys.readouterr().err
    assert handmade.root_of(config).read_text() == "mine"


def test_outputs_of_format_1_are_taken_over(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A folder without the file has format 1: its tables can be read and are made again, and the format is noted."""
    config.write_text(
        yaml.safe_dump(yaml.safe_load(config.read_text()) | {"input": {"simulate": {"num_events": 10_000}}})
    )
    root = handmade.put_night(config, DAYS[0])
    for name in ("events", "catalogue"):
        handmade.put(root, name, DAYS[0], pa.table({"ds": [DAYS[0]]}))
    for path in root.rglob("manifest.json"):  # format 1 did not have the field
        found = json.loads(path.read_text())
        del found["made_by"]
        path.write_text(json.dumps(found))
    old = partitions.manifest_of(root, "events", DAYS[0]).version
    assert not (root / store_format.FILE).exists()
    steps = {step.stage.name: step for step in plan.plan(load_config(config, ds=DAYS[0]))}
    assert (
        "made by an earlier version of distilrec, which did not record the inputs" in steps["simulate-events"].reasons
    )
    assert handmade.run("check-gates", config, "--ds", DAYS[0]) == 0
    assert json.loads((root / store_format.FILE).read_text()) == {"format": store_format.FORMAT}
    assert handmade.run("simulate-events", config, "--ds", DAYS[0]) == 0
    now = partitions.manifest_of(root, "events", DAYS[0])
    assert now.version != old
    assert now.made_by["stage"] == "simulate-events"
    capfd.readouterr()
    assert handmade.run("simulate-events", config, "--ds", DAYS[0]) == 0
    assert "events, catalogue: up to date" in capfd.readouterr().out
