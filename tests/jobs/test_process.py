"""A stage in a process of its own."""

import subprocess
import sys

import pytest

from jobs._process import run_in_own_process
from kdlib.errors import DistilrecError


@pytest.mark.parametrize(("code", "status"), [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_the_stage_s_exit_status_is_passed_on(monkeypatch: pytest.MonkeyPatch, code: str, status: int) -> None:
    """A stage that a signal ends has the status that a shell would give it."""
    really = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda _, **options: really([sys.executable, "-c", code], **options))
    with pytest.raises(DistilrecError, match=f"exit status {status}") as caught:
        run_in_own_process("build_features", "run.yaml", ds=None, overrides=())
    assert caught.value.exit_status == status
