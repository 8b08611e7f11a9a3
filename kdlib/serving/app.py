"""The HTTP API as an ASGI application. It runs in any ASGI server, and in tests without one."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kdlib.serving.batches import Batches
from kdlib.serving.figures import Figures
from kdlib.serving.follow import Follower
from kdlib.serving.night import Answer, Night
from kdlib.serving.requests import MOST_BYTES, Request, RequestError, parse

BATCH = 32
"""Most requests of a batch."""
SECONDS = 5.0
"""A request that is not answered within this time gets status 503."""
MOST_QUERY_CHARACTERS = 500
MOST_FOUND = 100
_HEADERS = {"Retry-After": "1"}
_API = "POST /recommend, GET /search?q=…, GET /health, GET /metrics"
_JSON = "application/json"


class Server:
    """Answers requests from the run in use.

    Args:
      follower: has the run.
      figures: count the answers.
      max_requests: requests that may be in work or wait. More get status 429: the client should slow down, and the server is
        well, so a load balancer should not take it out as it does at 503.
    """

    def __init__(self, follower: Follower, figures: Figures, *, max_requests: int) -> None:
        self.follower, self._figures, self._max_requests = follower, figures, max_requests
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="answers")
        self._batches: Batches[Request, Answer | RequestError] = Batches(
            self._recommend_batch, most=BATCH, thread=self._thread
        )
        self.in_work = 0

    def app(self) -> Starlette:
        """The application. It follows the run in use from its start to its end."""
        routes = [
            Route("/recommend", self._recommend, methods=["POST"]),
            Route("/search", self._search, methods=["GET"]),
            Route("/health", self._health, methods=["GET"]),
            Route("/metrics", self._metrics, methods=["GET"]),
        ]
        handlers = {RequestError: _request_error, HTTPException: _http_error, Exception: _fault}
        app = Starlette(
            routes=routes,
            middleware=[Middleware(_Counted, figures=self._figures)],
            exception_handlers=handlers,  # pyright: ignore[reportArgumentType]
            lifespan=self._lifespan,
        )
        app.router.redirect_slashes = False
        return app

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        await asyncio.to_thread(self.follower.start)
        yield
        self.follower.stop()
        self._thread.shutdown()

    def _night(self) -> Night:
        if (night := self.follower.night) is None:
            raise RequestError(503, "no run is loaded yet. Run `distilrec nightly`; see the server's log", _HEADERS)
        return night

    def _recommend_batch(self, requests: Sequence[Request]) -> Sequence[Answer | RequestError]:
        """The answers to a batch. All are of the run that is in use now."""
        self._figures.batch(len(requests))
        return self._night().recommend(requests, now=_now())

    async def _recommend(self, http: HttpRequest) -> Response:
        kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != _JSON:
            raise RequestError(415, f"the header Content-Type must be {_JSON}, found {kind or 'none'}")
        if http.query_params:
            raise RequestError(400, "/recommend takes no parameters in its address. Put them into the JSON body")
        request = parse(await _body(http), now=_now())
        self._night()
        answer = await self._in_turn(partial(self._batches.ask, request))
        if isinstance(answer, RequestError):
            raise answer
        return JSONResponse(answer)

    async def _search(self, http: HttpRequest) -> Response:
        query, k, history = _query(http)
        night = self._night()
        found = partial(night.search, query, k=k, history=history)
        return JSONResponse(
            await self._in_turn(partial(asyncio.get_running_loop().run_in_executor, self._thread, found))
        )

    async def _in_turn(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Ask and wait for the answer, if not too many wait already."""
        if self.in_work >= self._max_requests:
            raise RequestError(
                429,
                f"{self._max_requests} requests wait already (serve.max_requests). Ask again after a second, or serve with"
                " more replicas",
                _HEADERS,
            )
        self.in_work += 1
        try:
            return await asyncio.wait_for(ask(), SECONDS)
        except TimeoutError:
            raise RequestError(503, f"not answered within {SECONDS:g} s. Ask again", _HEADERS) from None
        finally:
            self.in_work -= 1

    async def _health(self, http: HttpRequest) -> Response:
        night = self._night()
        return JSONResponse({"status": "ok", "ds": night.used.ds, "model_version": night.model_version})

    async def _metrics(self, http: HttpRequest) -> Response:
        return Response(self._figures.text(), media_type="text/plain; version=0.0.4")


def _now() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1_000


async def _body(http: HttpRequest) -> bytes:
    found = bytearray()
    async for chunk in http.stream():
        found += chunk
        if len(found) > MOST_BYTES:
            raise RequestError(
                413, f"the body must have at most {MOST_BYTES:,} bytes. Send the last events of the session"
            )
    return bytes(found)


def _query(http: HttpRequest) -> tuple[str, int, list[str]]:
    """The query, k and the viewed items of a search."""
    given = http.query_params.multi_items()
    names = [name for name, _ in given if name != "item"]
    if unknown := sorted(set(names) - {"q", "k"}):
        raise RequestError(400, f"/search takes q, k and item, found {unknown[0][:100]!r}")
    if len(set(names)) < len(names):
        raise RequestError(400, "/search takes each of q and k once")
    query, k = dict(given).get("q", ""), dict(given).get("k", "10")
    if not query.strip() or len(query) > MOST_QUERY_CHARACTERS:
        raise RequestError(
            400,
            f"q must be a text of 1 to {MOST_QUERY_CHARACTERS} characters, found {len(query)}. Ask /search?q=red+lamp",
        )
    if not (k.isascii() and k.isdigit() and len(k) < 4 and 1 <= int(k) <= MOST_FOUND):
        raise RequestError(400, f"k must be a whole number from 1 to {MOST_FOUND}, found {k[:100]!r}")
    return query, int(k), [value for name, value in given if name == "item"]


def _request_error(http: HttpRequest, error: RequestError) -> Response:
    return JSONResponse({"error": error.text}, error.status, error.headers)


def _http_error(http: HttpRequest, error: HTTPException) -> Response:
    found = f"{http.method} {http.url.path[:100]}"
    return JSONResponse({"error": f"there is no {found}. Expected {_API}"}, error.status_code, error.headers)


def _fault(http: HttpRequest, error: Exception) -> Response:
    return JSONResponse({"error": f"the server failed ({type(error).__name__}); its log says more"}, 500)


class _Counted:
    """Middleware: counts each answer, with the seconds that it took."""

    def __init__(self, app: ASGIApp, figures: Figures) -> None:
        self._app, self._figures = app, figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def counting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, counting)
        except ClientDisconnect:
            status = 499  # nobody waits for the answer any more
        finally:
            self._figures.answered(scope["path"], status, time.monotonic() - started)
