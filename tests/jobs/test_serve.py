"""`distilrec serve`: what it refuses before it starts; and on a real Ray Serve, lists of a run, a switch, and its end."""

import signal
import socket
import time
from pathlib import Path

import httpx
import pytest
import yaml

from jobs.__main__ import main
from jobs.runtime import extras
from kdlib.config.data import EVENT_TYPES
from kdlib.release import promotions
from tests import whole_nights
from tests.ports import free_port
from tests.serving import nights
from tests.serving.nights import Made

DAYS = ("2026-11-21", "2026-11-22")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    ray = {"num_cpus": 2, "object_store_megabytes": 100}
    document = {"name": "shop", "output_dir": str(tmp_path / "output"), "input": {"simulate": {}}, "ray": ray}
    path.write_text(yaml.safe_dump(document))
    return path


def _serve(config: Path, *more: str) -> int:
    return main(["serve", "--config", str(config), *more])


def test_a_missing_package_is_named(config: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The error says which extra to install."""
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "starlette" else object())
    assert _serve(config) == 2
    printed = capsys.readouterr().err
    assert "`distilrec serve` needs starlette, not installed here: install the extra `serve`" in printed


def test_a_date_is_refused(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The server follows the run in use."""
    assert _serve(config, "--ds", DAYS[0]) == 2
    assert f"--ds {DAYS[0]}: serve follows the run in use and takes no date" in capsys.readouterr().err


def test_a_port_that_is_taken_is_an_error(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the port and the option for another one, before Ray starts."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert _serve(config, "--port", str(port)) == 2
    printed = capsys.readouterr().err
    assert f"cannot listen on port {port} of 127.0.0.1: " in printed
    assert "Give a free port with --port" in printed


@pytest.mark.e2e
def test_the_server_answers_follows_and_ends(config: Path) -> None:
    """Users get their lists of the table, also after a rollback, bad requests 4xx; SIGTERM ends the server with status 0."""
    root, port = config.parent / "output", free_port()
    for ds in DAYS:
        nights.promote(Made(root, ds=ds, items=f"{ds}-"))
    process = whole_nights.start(config, "--port", str(port), "--set", "serve.replicas=2", command="serve")

    def ask() -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            for ds in reversed(DAYS):
                made = Made(root, ds=ds, items=f"{ds}-")
                end = time.monotonic() + 60
                while any(client.get("/health").json()["ds"] != ds for _ in range(8)):
                    assert time.monotonic() < end
                    time.sleep(0.2)
                for number, row in enumerate(nights.table(made)[:16]):
                    events = nights.events_of(nights.history(number), made.item_ids, EVENT_TYPES)
                    body = client.post("/recommend", json={"session": events, "user": row["user_id"]}).json()
                    assert [one["item_id"] for one in body["items"]] == row["item_ids"]
                    assert body["ds"] == ds
                promotions.rollback(root, DAYS[0])
            assert client.post("/recommend", json={"session": "x"}).status_code == 400
            assert client.post("/recommend", json={"session": "x" * 70_000}).status_code == 413
            assert client.get("/nothing").status_code == 404
            assert "distilrec_serve_requests_total" in client.get("/metrics").text
        process.send_signal(signal.SIGTERM)

    printed = whole_nights.follow(process, "Ctrl-C ends it", ask)
    assert process.returncode == 0, printed
    assert f"serve: shop, http://127.0.0.1:{port}, run of {DAYS[1]}; Ctrl-C ends it" in printed
    assert printed.rstrip().endswith("serve: ended")
    assert "Traceback" not in printed
