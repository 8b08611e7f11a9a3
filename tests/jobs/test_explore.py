"""`distilrec explore`: what it refuses before it serves. `tests/explore/test_pages.py` looks at the pages."""

import socket
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.__main__ import main
from jobs.runtime import extras
from tests.jobs.handmade import DAYS, put, root_of


@pytest.fixture
def published(config: Path) -> Path:
    """The run config of a folder with one table."""
    put(root_of(config), "recommendations", DAYS[0], pa.table({"ds": [DAYS[0]]}))
    return config


def _explore(config: Path, *more: str) -> int:
    return main(["explore", "--config", str(config), "--no-browser", *more])


def test_a_missing_package_is_named(config: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The error says which extra to install, before anything is imported or read."""
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "nicegui" else object())
    assert _explore(config) == 2
    printed = capsys.readouterr().err
    assert (
        "needs nicegui, not installed here: install the extra `explore` (`pip install 'distilrec[explore]'`)" in printed
    )


def test_nothing_published_is_an_error(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No server starts where there is nothing to show."""
    assert _explore(config, "--ds", DAYS[0]) == 2
    printed = capsys.readouterr().err
    assert f"nothing is published for {DAYS[0]} under {root_of(config)}, so there is nothing to explore" in printed
    assert "run `distilrec nightly" in printed


def test_a_port_that_is_taken_is_an_error(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the port and the option for another one."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert _explore(published, "--ds", DAYS[0], "--port", str(port)) == 2
    printed = capsys.readouterr().err
    assert f"cannot listen on port {port} of 127.0.0.1: " in printed
    assert "Address already in use" in printed
    assert "Give a free port with --port" in printed


@pytest.mark.parametrize(("option", "value"), [("--host", "203.0.113.1"), ("--port", "70000")])
def test_an_address_that_is_none_is_an_error(
    published: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    """The error names an address of another machine, or a port that cannot exist."""
    assert _explore(published, "--ds", DAYS[0], option, value) == 2
    printed = capsys.readouterr().err
    assert "cannot listen on port" in printed
    assert value in printed


def test_a_person_is_warned_of_other_machines(
    published: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line warns if other machines reach the pages, and none if only this machine does."""
    from jobs import explore

    monkeypatch.setattr(explore.uvicorn.Server, "run", lambda self, sockets: sockets[0].close())
    monkeypatch.setattr(explore, "_application", lambda shop, host: None)
    for host, warned in (("0.0.0.0", True), ("127.0.0.1", False), ("localhost", False)):
        assert _explore(published, "--ds", DAYS[0], "--host", host, "--port", "0") == 0
        printed = capsys.readouterr().out
        assert ("The pages have no login and show what users did" in printed) == warned
        assert f"explore: small, http://{host}:" in printed
