"""A small server with the embeddings API of OpenAI, which answers as a test tells it to."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

Answer = tuple[int, dict[str, str], Any]
"""Status, headers, and a body: bytes, or a value for JSON."""


@dataclass
class Stub:
    """What the server is asked, and what it answers."""

    url: str = ""
    answers: list[Callable[[list[str]], Answer]] = field(default_factory=list)
    """The answers to the first requests; later ones get vectors."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        """All texts that came, in order."""
        return [text for body in self.bodies for text in body["input"]]


def vector(text: str) -> list[float]:
    """The vector of a text: its length, its number of a's, and 1."""
    return [float(len(text)), float(text.count("a")), 1.0]


def vectors(texts: list[str]) -> Answer:
    """A right answer, in reverse order."""
    data = [{"index": number, "embedding": vector(text)} for number, text in enumerate(texts)]
    return 200, {}, {"data": data[::-1]}


@contextmanager
def serving() -> Iterator[Stub]:
    """A server on a free port, until the end of the block."""
    stub = Stub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            stub.bodies.append(body)
            stub.headers.append(dict(self.headers))
            answer = stub.answers.pop(0) if stub.answers else vectors
            status, headers, found = answer(body["input"])
            sent = found if isinstance(found, bytes) else json.dumps(found).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(sent))}.items():
                self.send_header(name, value)
            with suppress(ConnectionError):  # the client no longer waits
                self.end_headers()
                self.wfile.write(sent)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub.url = f"http://127.0.0.1:{server.server_port}/v1"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
