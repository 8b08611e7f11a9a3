"""The command line: what a person who errs gets to read, and the exit status."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from jobs import train_teacher, train_text_encoder
from jobs.__main__ import JOBS, main
from jobs.cache_teacher import teacher_folders
from jobs.runtime.console import command, in_utf8, say
from jobs.runtime.ray_cluster import own_signal_handlers
from kdlib.config.load import load_config
from kdlib.config.run import RunConfig
from kdlib.errors import InputError, ModelError
from kdlib.models.files import save_model
from kdlib.models.sequence import SequenceModel
from kdlib.store import partitions, tables

DS = "2026-11-22"


def _config(folder: Path, **more: object) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "run.yaml"
    document = {"name": "broken", "ds": DS, "output_dir": str(folder / "output"), "input": {"simulate": {}}}
    path.write_text(yaml.safe_dump(document | more))
    return path


@pytest.mark.parametrize("job", [train_teacher, train_text_encoder])
def test_what_is_missing_is_said_before_ray_starts(
    job: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To start it takes seconds, for nothing."""
    started: list[RunConfig] = []
    monkeypatch.setattr(job, "start_ray", started.append)
    with pytest.raises(InputError, match=f"no published histories for {DS}"):
        job.run(load_config(_config(tmp_path, teachers=[{"name": "a", "text": {"adapt": {}}}])))
    assert not started


def test_help_lists_every_job(capsys: pytest.CaptureFixture[str]) -> None:
    """`distilrec --help` names all jobs."""
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(job in printed for job in JOBS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "unknown job 'fly'; the jobs are nightly"),
        (["nightly", "--config", "no/such.yaml"], "cannot read the run config no/such.yaml"),
        (["evaluate", "--ds", "yesterday"], "ds: .*found 'yesterday'"),
        (["distill", "--set", "distillation.temprature=2"], "unknown key distillation.temprature"),
        (["distill", "--set", "distillation.temperature=-1"], "distillation.temperature: .*greater than 0, found -1"),
        (["distill", "--set", "training.workers=3"], "teacher: batch_size 256 is not a multiple of training.workers 3"),
        (["train-teacher"], "no published histories for 2026-11-22 under"),
        (["recommend"], "no published histories for 2026-11-22 under .*run the stage that makes it"),
        (["show", "--user", "x"], "no published .* for 2026-11-22"),
    ],
)
def test_errors_exit_with_two(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fault that the person can mend is one line on standard error and exit status 2, without a traceback."""
    import re

    more = [] if "nightly" in arguments or "fly" in arguments else ["--set", f"output_dir={tmp_path}"]
    assert main([*arguments, *more]) == 2
    printed = capsys.readouterr()
    assert re.search(message, printed.err), printed.err
    assert printed.err.startswith("distilrec: error: ")
    assert "Traceback" not in printed.err + printed.out
    assert not list(tmp_path.glob("models*"))


@pytest.mark.parametrize(
    ("job", "default"),
    [
        ("evaluate", "(default: the run config's)"),
        ("show", "(default: the run config's, or the night in use)"),
        ("search", "the night, YYYY-MM-DD (default: the one in use)"),
        ("deliver", "what is sent is the night in use"),
        ("forget", "all dates are searched"),
    ],
)
def test_help_says_what_the_date_is_for(job: str, default: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Some jobs are about the night in use, or about all."""
    with pytest.raises(SystemExit):
        main([job, "--help"])
    assert default in " ".join(capsys.readouterr().out.split())


def test_rollback_takes_no_date_but_the_night_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--ds` beside `--to` would be passed over; the help does not offer it."""
    config = str(_config(tmp_path))
    assert main(["rollback", "--config", config, "--ds", DS, "--to", "2026-11-21"]) == 2
    assert f"--ds {DS}: rollback takes no date but that of the night to go back to" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["rollback", "--help"])
    assert "--ds" not in capsys.readouterr().out


def test_an_unforeseen_failure_exits_with_one_and_names_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug gives one line and the log's path; the traceback is in the log."""
    import jobs.evaluate

    def fail(_: object) -> None:
        raise RuntimeError("boom\nmore")

    monkeypatch.setattr(jobs.evaluate, "run", fail)
    assert main(["evaluate", "--config", str(_config(tmp_path))]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("distilrec: evaluate failed: RuntimeError: boom\n")
    log = Path(printed.splitlines()[1].removeprefix("full text: "))
    assert "Traceback" in log.read_text()


def test_a_teacher_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    """Distillation stops before it starts where teacher and features disagree on the items."""
    config = load_config(_config(tmp_path))
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
        teacher_folders(config, "mine")


def test_metrics_are_printed_beside_each_other(tmp_path: Path) -> None:
    """The quality table shows each model, the differences with a verdict, and the share of the best reachable."""
    import numpy as np

    from jobs.runtime.published import quality_table
    from kdlib.metrics.table import metrics_table

    config = load_config(_config(tmp_path))
    good, bad = np.zeros(50, np.int64), np.full(50, 30)
    table = metrics_table(
        {"popularity": bad, "student": good, "control": bad, "best_reachable": good},
        {"student": 0.25},
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
    """What is open is closed, the status is a shell's, and afterwards the signals mean what they meant before."""
    before, closed = signal.getsignal(signal.SIGTERM), []

    def run(config: RunConfig) -> None:
        try:
            with own_signal_handlers():
                signal.signal(number, lambda *_: closed.append("by an engine"))
            signal.raise_signal(number)
        finally:
            closed.append("by us")

    assert command("evaluate", run, ["--config", str(_config(tmp_path))], description="") == status
    assert closed == ["by us"]
    assert f"distilrec: {told}; nothing half-published, run the same command again" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_does_not_silence_the_run(tmp_path: Path) -> None:
    """What engines print cannot be written: the person still gets the run's lines, the failure in full and its exit status."""
    program = """
import sys
from pathlib import Path
from jobs import _console
_console.log_file = lambda config, stage: Path("/dev/full")
def run(config):
    print("an engine's chatter")
    _console.say("a line")
    raise RuntimeError("no more")
sys.exit(_console.command("evaluate", run, ["--config", sys.argv[1]], description=""))
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
    """`distilrec show | head` ends well; a night whose pipe to a worker broke has failed."""

    def run(config: RunConfig, arguments: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    kept = os.dup(1)
    try:
        words = ["--config", str(_config(tmp_path))]
        found = command("show", print, words, description="", with_arguments=run, reads_only=reads_only)
    finally:
        os.dup2(kept, 1)
        os.close(kept)
    assert found == status


def test_hints_name_this_run_s_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A command without it would be about another shop; one that has it, and other commands' hints, stay."""

    def run(config: RunConfig, arguments: object) -> None:
        say("try `distilrec show --user 7` or `distilrec promote --config x`, or `distilrec status`")

    path = _config(tmp_path / "a b")
    assert command("show", print, ["--config", str(path)], description="", with_arguments=run, reads_only=True) == 0
    told = f"try `distilrec show --config '{path}' --user 7` or `distilrec promote --config x`, or `distilrec status`\n"
    assert capsys.readouterr().out == told


def test_under_another_encoding_a_command_begins_again_in_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under cron's `LANG=de_DE`; one that is called with arguments is part of somebody's program, and goes on."""
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
