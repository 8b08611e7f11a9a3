"""The HTTP API: lists, search, health, figures, limits; and the batches behind it."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from kdlib.release import promotions
from kdlib.serving import app as app_module
from kdlib.serving.batches import Batches
from kdlib.serving.night import Night
from kdlib.serving.requests import RequestError
from kdlib.store import partitions
from tests.explore import made_shop
from tests.serving import nights
from tests.serving.nights import Made


def test_a_session_gets_a_list(post: Callable[..., Any], made: Made) -> None:
    """The answer names the run and the student, and each item with score, source and reasons; unknown items are named."""
    answer = post({"session": [{"item": "item001"}, {"item": "new"}, {"item": "new"}], "k": 3})
    assert answer.status_code == 200
    body = answer.json()
    assert list(body) == ["ds", "model_version", "source", "items", "unknown_items"]
    assert (body["ds"], body["source"], body["unknown_items"]) == (made.ds, "model", ["new"])
    assert len(body["items"]) == 3
    assert body["items"][0]["because"] == ["item001"]
    assert list(body["items"][0]) == ["item_id", "score", "source", "because"]


@pytest.mark.parametrize("session", [[], [{"item": "unknown"}]])
def test_without_a_known_item_the_list_is_popular(post: Callable[..., Any], session: list[Any]) -> None:
    """An empty session, or one of unknown items, gets the items with the most training interactions."""
    body = post({"session": session, "user": None, "k": None}).json()
    assert body["source"] == "popular"
    assert [one["item_id"] for one in body["items"]] == ["item000", "item001", "item002", "item003", "item004"]
    assert [one["because"] for one in body["items"]] == [[]] * 5


def test_times_may_be_texts_or_seconds(post: Callable[..., Any]) -> None:
    """The same moment in seconds, in UTC or with another offset gives the same list."""
    times = [1_763_805_600, 1_763_805_600.0, "2025-11-22T10:00:00Z", "2025-11-22T11:00:00+01:00", "2025-11-22 10:00Z"]
    lists = [
        post({"session": [{"item": "item001", "time": 1_763_800_000}, {"item": "item005", "time": one}]}).json()[
            "items"
        ]
        for one in times
    ]
    assert all(one == lists[0] for one in lists)


def test_pseudonyms_are_looked_up(tmp_path: Path) -> None:
    """Where the tables hold pseudonyms, the shop's own id finds the user's segment."""
    segments = {"segments": {"feature": "country", "rules": {"de": {"exclude": {"brand": ["b0", "b1", "b2"]}}}}}
    users = {"users": {"path": "u.csv", "format": "csv", "features": {"country": "category"}}}
    made = Made(
        tmp_path,
        recommend={"policy": {"exclude": {"brand": ["b3"]}} | segments},
        settings={"input": {"simulate": {}} | users},
    )
    nights.promote(made)
    used = nights.load(tmp_path).used
    night = Night(tmp_path, used, pseudonym_of=lambda user: {"Ann": "user0000"}[user])
    [ann] = night.recommend([nights.asked([], user=" Ann ")], now=1)
    [other] = night.recommend([nights.asked([], user=None)], now=1)
    assert isinstance(ann, dict)
    assert isinstance(other, dict)
    assert {int(one["item_id"][-3:]) % 4 for one in ann["items"]} == {3}
    assert {int(one["item_id"][-3:]) % 4 for one in other["items"]} == {0, 1, 2}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run with lists and product search."""
    made = Made(tmp_path_factory.mktemp("searched"))
    made_shop.put_search(made.root, made.ds)
    nights.promote(made)
    return made.root


def test_a_search_gets_products(searched: Path) -> None:
    """The run's own search answers, without the items that are out of stock."""
    night = nights.load(searched)
    body = night.search("red lamp 5", k=3)
    assert list(body) == ["ds", "model_version", "query", "note", "items"]
    assert body["items"][0]["item_id"] == "item005"
    assert body["items"][0]["title"] == "Red lamp 5"
    night.leave_out(["item005", "unknown"])
    assert "item005" not in [one["item_id"] for one in night.search("red lamp 5", k=60)["items"]]
    night.leave_out([])
    assert night.search("red lamp 5", k=1)["items"][0]["item_id"] == "item005"


def test_without_the_extra_a_search_says_so(searched: Path) -> None:
    """The text is that of the missing extra."""
    used = nights.load(searched).used
    with pytest.raises(RequestError, match="needs bm25s") as error:
        Night(searched, used, search_missing="product search needs bm25s").search("lamp", k=1)
    assert error.value.status == 404


def test_search_alone_is_served(searched: Path, tmp_path: Path) -> None:
    """A run without recommendations answers searches; asked for a list, it says so."""
    made_shop.put_search(tmp_path, nights.DS)
    names = ("search_index", "models/search_student")
    versions = {name: partitions.manifest_of(tmp_path, name, nights.DS).version for name in names}
    promotions.promote(tmp_path, nights.DS, versions)
    with TestClient(nights.server(tmp_path).app()) as client:
        health = client.get("/health").json()
        assert (health["ds"], health["model_version"]) == (nights.DS, versions["models/search_student"])
        assert client.get("/search", params={"q": "blue lamp", "k": 2}).json()["items"]
        liked = client.get("/search", params={"q": "lamp", "k": 2, "item": ["item030", "unknown"]}).json()["items"]
        assert liked[0]["item_id"] == "item030"
        answer = client.post("/recommend", json={"session": []})
    assert answer.status_code == 404
    assert "has product search alone" in answer.json()["error"]


def test_health_and_figures(made: Made) -> None:
    """Health names the run; a Prometheus can read the figures: answers by path and status, seconds, the run and its age."""
    with TestClient(nights.server(made.root).app()) as client:
        assert client.get("/health").json()["ds"] == made.ds
        client.post("/recommend", json={"session": []})
        client.post("/recommend", json={"session": 1})
        client.get("/secret")
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = {name: value for name, value in sample.labels.items() if name != "replica"}
            found[sample.name, *labels.values()] = sample.value
    count = "distilrec_serve_requests_total"
    assert found[count, "/recommend", "200"] == found[count, "/recommend", "400"] == 1
    assert found[count, "other", "404"] == found[count, "/health", "200"] == 1
    assert found["distilrec_serve_seconds_count", "/recommend"] == 2
    version = nights.table(made)[0]["model_version"]
    assert found["distilrec_serve_run_info", made.ds, version] == 1
    assert found["distilrec_serve_run_age_seconds",] > 86_400


def test_too_many_requests_are_refused(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond `max_requests` an answer has status 429 and says when to ask again. Health still answers."""
    go, begun = threading.Event(), threading.Event()

    def slow(self: Night, requests: Sequence[Any], *, now: int) -> list[Any]:
        begun.set()
        go.wait(30)
        return [{"items": []} for _ in requests]

    monkeypatch.setattr(Night, "recommend", slow)
    server = nights.server(made.root, max_requests=2)
    with TestClient(server.app()) as client:
        answers: list[Any] = []
        threads = [
            threading.Thread(target=lambda: answers.append(client.post("/recommend", json={"session": []})))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        assert begun.wait(30)
        while server.in_work < 2:
            time.sleep(0.001)
        refused = client.post("/recommend", json={"session": []})
        health = client.get("/health")
        go.set()
        for thread in threads:
            thread.join()
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert "2 requests wait already (serve.max_requests)" in refused.json()["error"]
    assert health.status_code == 200
    assert [answer.status_code for answer in answers] == [200, 200]


def test_a_slow_answer_ends(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is not answered in time has status 503, and the next one is answered."""
    monkeypatch.setattr(app_module, "SECONDS", 0.05)
    real, go = Night.recommend, threading.Event()

    def slow(self: Night, requests: Sequence[Any], *, now: int) -> list[Any]:
        go.wait(30)
        return real(self, requests, now=now)

    monkeypatch.setattr(Night, "recommend", slow)
    with TestClient(nights.server(made.root).app()) as client:
        answer = client.post("/recommend", json={"session": []})
        go.set()
        monkeypatch.setattr(app_module, "SECONDS", 30.0)
        after = client.post("/recommend", json={"session": []})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "not answered within 0.05 s" in answer.json()["error"]
    assert after.status_code == 200


def test_a_fault_is_told_without_details(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake of the server has status 500 and a text, and the server goes on."""
    real = Night.recommend
    monkeypatch.setattr(Night, "recommend", lambda self, requests, now: 1 / 0)
    with TestClient(nights.server(made.root).app(), raise_server_exceptions=False) as client:
        answer = client.post("/recommend", json={"session": []})
        monkeypatch.setattr(Night, "recommend", real)
        assert client.post("/recommend", json={"session": []}).status_code == 200
    assert answer.status_code == 500
    assert answer.json() == {"error": "the server failed (ZeroDivisionError); its log says more"}


def test_requests_that_wait_together_are_one_batch() -> None:
    """The first request is answered at once; those that come meanwhile are answered together, at most `most` of them."""
    sizes: list[int] = []
    go = threading.Event()

    def answer(asked: Sequence[int]) -> list[int]:
        sizes.append(len(asked))
        if len(sizes) == 1:
            go.wait(30)
        return [2 * one for one in asked]

    async def run() -> list[int]:
        with ThreadPoolExecutor(1) as thread:
            batches: Batches[int, int] = Batches(answer, most=4, thread=thread)
            tasks = [asyncio.create_task(batches.ask(0))]
            await asyncio.sleep(0.01)
            tasks += [asyncio.create_task(batches.ask(number)) for number in range(1, 7)]
            await asyncio.sleep(0.01)
            tasks.pop(1).cancel()
            go.set()
            return await asyncio.gather(*tasks)

    assert asyncio.run(run()) == [0, 4, 6, 8, 10, 12]
    assert sizes == [1, 3, 2]  # one of the first four was cancelled
