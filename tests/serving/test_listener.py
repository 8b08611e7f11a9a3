"""An application that listens: a shared port, a graceful end, an application that does not start."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from threading import Event

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from jobs.runtime.listening import listen
from kdlib.errors import DistilrecError
from kdlib.serving.listener import Listener
from tests.ports import free_port

HOST = "127.0.0.1"


def _app(text: str, asked: Event | None = None) -> Starlette:
    async def answer(request: Request) -> PlainTextResponse:
        if asked is not None:
            asked.set()
            await asyncio.sleep(0.3)
        return PlainTextResponse(text)

    return Starlette(routes=[Route("/", answer)])


def test_replicas_share_a_port() -> None:
    """Both get connections; when one ends, the other gets them all."""
    port = free_port()
    one, other = (Listener(_app(text), listen(HOST, port, shared=True), drain_seconds=1) for text in ("one", "other"))
    assert {httpx.get(f"http://{HOST}:{port}").text for _ in range(40)} == {"one", "other"}
    one.stop()
    with pytest.raises(DistilrecError, match="the HTTP server has ended; its log says more"):
        one.check()
    assert {httpx.get(f"http://{HOST}:{port}").text for _ in range(10)} == {"other"}
    other.stop()


def test_a_request_in_work_is_answered_at_the_end() -> None:
    """`stop` waits for it, and refuses new connections."""
    port, asked = free_port(), Event()
    listener = Listener(_app("answer", asked), listen(HOST, port), drain_seconds=5)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.get, f"http://{HOST}:{port}")
        assert asked.wait(10)
        listener.stop()
        assert answer.result().text == "answer"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{HOST}:{port}")


def test_an_application_that_does_not_start_is_an_error() -> None:
    """The error comes at once, and the port is free again."""

    @asynccontextmanager
    async def fails(app: Starlette) -> AsyncIterator[None]:
        raise OSError("no folder")
        yield

    port = free_port()
    with pytest.raises(DistilrecError, match="the HTTP server has ended"):
        Listener(Starlette(lifespan=fails), listen(HOST, port), drain_seconds=1)
    listen(HOST, port).close()
