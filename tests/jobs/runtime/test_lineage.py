"""OpenLineage events of stages, as a receiver gets them."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
import yaml

from jobs.runtime import lineage
from jobs.runtime.console import RUN_ID
from kdlib.store import partitions
from tests.jobs.handmade import DAYS, put_night, root_of, run

pytest.importorskip("openlineage.client")


class Receiver(BaseHTTPRequestHandler):
    """Keeps the events that are posted to it, or answers 503."""

    def do_POST(self) -> None:
        kept: Any = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kept.events.append((self.path, json.loads(body)))
        self.send_response(kept.answer)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def receiver(config, monkeypatch) -> Iterator[Any]:
    """A receiver that the run config names."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.events, server.answer = [], 201
    Thread(target=server.serve_forever, daemon=True).start()
    place = {"openlineage": {"url": f"http://127.0.0.1:{server.server_port}"}}
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"tracking": place}))
    monkeypatch.setattr(lineage, "_spent", 0.0)
    monkeypatch.setenv(RUN_ID, "run1")
    yield server
    server.shutdown()
    server.server_close()


def test_a_stage_tells_what_it_reads_and_makes(config, receiver):
    """START and COMPLETE belong to one run. They name the tables with versions, in the output folder, and the day."""
    from openlineage.client.event_v2 import Job, Run, RunEvent, RunState

    root = put_night(config, DAYS[0])
    assert run("check-gates", config, "--ds", DAYS[0]) == 0
    (path, start), (_, complete) = receiver.events
    assert path == "/api/v1/lineage"
    assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
    assert start["run"]["runId"] == complete["run"]["runId"]
    assert start["job"]["namespace"] == "distilrec"
    assert start["job"]["name"] == "small.check-gates"
    assert start["run"]["facets"]["nominalTime"]["nominalStartTime"] == f"{DAYS[0]}T00:00:00Z"
    read = {one["name"]: one["facets"]["version"]["datasetVersion"] for one in complete["inputs"]}
    assert read == {name: partitions.manifest_of(root, name, DAYS[0]).version for name in ("histories", "metrics")}
    assert {one["namespace"] for one in complete["inputs"]} == {f"file://{root_of(config)}"}
    for event in (start, complete):  # the client's own classes check times and identities
        RunEvent(
            eventTime=event["eventTime"],
            eventType=RunState[event["eventType"]],
            run=Run(event["run"]["runId"]),
            job=Job(event["job"]["namespace"], event["job"]["name"]),
        )


def test_a_built_table_is_an_output_with_its_version(config, receiver):
    """The event at the end names the table that the stage has published."""
    config.write_text(
        config.read_text().replace("simulate: {}", "simulate: {num_events: 10000, num_items: 200, num_days: 12}")
    )
    assert run("simulate-events", config, "--ds", DAYS[0]) == 0
    (_, start), *_, (_, complete) = receiver.events
    assert [one["name"] for one in start["outputs"]] == ["events", "catalogue"]
    made = {one["name"]: one["facets"]["version"]["datasetVersion"] for one in complete["outputs"]}
    assert made == {name: partitions.manifest_of(root_of(config), name, DAYS[0]).version for name in made}
    assert list(made) == ["events", "catalogue"]
    assert run("simulate-events", config, "--ds", DAYS[0]) == 0
    assert len(receiver.events) == 2  # a stage that is up to date does not run


def test_a_stage_that_fails_says_why(config, receiver):
    """The event is FAIL, with the error's text. The exit status stays the stage's own."""
    put_night(config, DAYS[0], kept=0, day_events=0)
    assert run("check-gates", config, "--ds", DAYS[0]) == 3
    _, fail = receiver.events[-1]
    assert fail["eventType"] == "FAIL"
    assert "events_of_the_day 0, must be at least 1" in fail["run"]["facets"]["errorMessage"]["message"]


def test_a_receiver_that_refuses_is_one_warning(config, receiver, capfd):
    """After one refusal no event is sent, and the stages go on."""
    receiver.answer = 503
    put_night(config, DAYS[0])
    assert run("check-gates", config, "--ds", DAYS[0]) == run("promote", config, "--ds", DAYS[0]) == 0
    assert len(receiver.events) == 1
    printed = capfd.readouterr().out
    assert printed.count("lineage   warning") == 1
    assert "Check that tracking.openlineage.url answers" in printed
