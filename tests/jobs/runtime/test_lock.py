"""Two runs of one date never write at the same time, and a dead run blocks nobody."""

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from jobs.__main__ import main
from jobs.runtime.command import Invocation
from jobs.runtime.lock import held_dates, run_lock
from jobs.runtime.process import StageProcess
from kdlib.config.load import load_config
from kdlib.errors import BusyError, DistilrecError
from kdlib.store import leases, partitions

HOLD = "import fcntl, sys; from kdlib.store import leases\n"
HOLD += "if sys.argv[2:]: leases.TERM_SECONDS, fcntl.flock = 2.0, lambda *_: None\n"
HOLD += "from jobs.runtime.lock import run_lock; from kdlib.config.load import load_config\n"
HOLD += "with run_lock(load_config(sys.argv[1]), 'recommend'): print('held', flush=True); sys.stdin.read()"


def _config(folder: Path) -> Path:
    path = folder / "run.yaml"
    path.write_text(
        f"name: n\nds: 2026-11-22\noutput_dir: {folder}/out\ninput: {{simulate: {{num_events: 10000, num_days: 4}}}}\n"
    )
    return path


def _holder(config: Path, *more: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(config), *more], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_of_the_date_is_turned_away_and_told_by_whom(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second run ends with status 75 and names the holder. It writes nothing. SIGKILL of the holder frees the date."""
    config = _config(tmp_path)
    holder = _holder(config)
    try:
        assert main(["nightly", "--config", str(config)]) == BusyError.exit_status == 75
        error = capsys.readouterr().err
        assert f"recommend, process {holder.pid} on " in error
        assert "another run writes 2026-11-22" in error
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["_locks"]
        with run_lock(load_config(config, ds="2026-11-23"), "nightly"):
            pass
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()
    free = _holder(config)
    free.communicate(input="")
    assert free.returncode == 0


def test_where_locks_protect_nothing_the_second_run_is_turned_away_too(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file system grants each lock to everybody. The second run waits for a beat of the first, and changes nothing."""
    config = _config(tmp_path)
    holder = _holder(config, "without locks")
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    monkeypatch.setattr(leases, "TERM_SECONDS", 2.0)
    try:
        assert main(["nightly", "--config", str(config)]) == 75
        error = capsys.readouterr().err
        assert "waiting up to 2 s to see whether the other run is alive: recommend, process" in caplog.text
        assert f"another run writes 2026-11-22 in {tmp_path}/out: recommend, process {holder.pid} on" in error
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["_locks"]
    finally:
        holder.communicate(input="")
    assert holder.returncode == 0


def test_a_run_that_was_paused_for_too_long_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run has taken its date over in the meantime. Its table stays as the other run leaves it."""
    config = load_config(_config(tmp_path))
    with run_lock(config, "nightly"):
        staging = partitions.new_staging(config.root, "histories", config.day)
        (staging / "a.json").write_text("{}")
        lease = config.root / "_locks" / f"ds={config.day}.json"
        lease.write_text(lease.read_text().replace('"token": "', '"token": "x'))
        with pytest.raises(BusyError, match=r"its lease _locks/ds=2026-11-22\.json has gone to nightly, process"):
            partitions.publish(staging, config.root, "histories", config.day, fingerprint="a")
        with pytest.raises(BusyError, match="has gone to nightly"):
            partitions.new_staging(config.root, "histories", config.day)
    assert partitions.read_manifest(config.root, "histories", config.day) is None


def test_a_stage_in_its_own_process_holds_its_parents_lock(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The parent's lock does not stop the child: the child fails only at its missing input."""
    path = _config(tmp_path)
    with (
        run_lock(load_config(path), "nightly"),
        closing(StageProcess(Invocation(str(path)))) as process,
        pytest.raises(DistilrecError, match="exit status 2"),
    ):
        process.run("build-features")
    assert "build-features needs events of 2026-11-22" in capfd.readouterr().err


def test_the_dates_of_running_runs_are_known(tmp_path: Path) -> None:
    """`held_dates` has the date while the lock is held, and not afterwards."""
    config = load_config(_config(tmp_path))
    assert held_dates(config) == set()
    with run_lock(config, "nightly"):
        assert held_dates(config) == {"2026-11-22"}
    assert held_dates(config) == set()
