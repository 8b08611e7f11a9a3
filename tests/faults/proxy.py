"""An HTTP proxy before an object store. It injects one fault at a chosen request.

with proxy_before("http://127.0.0.1:5000") as proxy:
    proxy.fault = Fault("cut", request=3, done=True)     # the store has done the request; the client gets no answer
    ...                                                  # a client of proxy.url
"""

import http.client
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

KINDS = ("cut", "cut within the answer", "delay", "503", "403", "no answer", "SIGKILL", "SIGTERM")
"""What may happen to a request. `SIGKILL` and `SIGTERM` go to the client's process."""
DELAY_SECONDS = 0.3
SILENT_SECONDS = 60
"""How long the proxy keeps a connection open without an answer, if the client does not close it."""


@dataclass(frozen=True)
class Fault:
    """One fault."""

    kind: str
    """One of `KINDS`."""
    request: int
    """Which request it hits, from 1."""
    done: bool = False
    """The store gets the request and does it, and the fault hits the answer. False: the request never arrives."""
    lasting: bool = False
    """It also hits all later requests: a retry does not help."""


class Proxy(ThreadingHTTPServer):
    """The proxy. `requests` lists what came since `begin`, as `PUT /shop/there/promoted.json`."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(target).netloc
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.counting = threading.Lock()
        self.ended = threading.Event()
        self.begin(None)

    def begin(self, fault: Fault | None, *, client: int | None = None) -> None:
        """Count requests from 1 again.

        Args:
          fault: what to inject; None for a proxy that only passes on.
          client: number of the process that `SIGKILL` and `SIGTERM` hit. None: whoever sets `client` later.
        """
        self.fault, self.client = fault, client
        self.requests: list[str] = []
        self.hits = 0

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is what the faults are about."""


class _Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.counting:
            self.server.requests.append(f"{self.command} {self.path}")
            number, fault = len(self.server.requests), self.server.fault
            hit = fault is not None and (number == fault.request or (fault.lasting and number > fault.request))
            self.server.hits += hit
        if fault is None or not hit:
            self._send(*self._forward(body))
        elif fault.done:
            self._answer_with(fault.kind, self._forward(body), body)
        else:
            self._answer_with(fault.kind, None, body)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """The store's answer: status, headers, content."""
        to = http.client.HTTPConnection(self.server.target, timeout=60)
        try:
            to.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    to.putheader(name, value)
            to.endheaders(body)
            answer = to.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            to.close()

    def _answer_with(self, kind: str, answer: tuple[int, list[tuple[str, str]], bytes] | None, body: bytes) -> None:
        """Inject a fault. Without `answer` the store does not know of the request."""
        if kind in ("SIGKILL", "SIGTERM"):
            while self.server.client is None:
                time.sleep(0.001)
            with suppress(ProcessLookupError):
                os.kill(self.server.client, getattr(signal, kind))
            if kind == "SIGKILL":
                return self._cut()
            time.sleep(DELAY_SECONDS)  # a client that heeds the signal is gone by then
            return self._send(*(answer or self._forward(body)))
        if kind == "delay":
            time.sleep(DELAY_SECONDS)
            return self._send(*(answer or self._forward(body)))
        if kind == "no answer":
            self.connection.settimeout(SILENT_SECONDS)
            with suppress(OSError):
                self.connection.recv(1)  # until the client goes
            return self._cut()
        if kind in ("503", "403"):
            code = {"503": "SlowDown", "403": "AccessDenied"}[kind]
            text = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
            return self._send(int(kind), [("Content-Type", "application/xml")], text)
        if kind == "cut within the answer":
            status, headers, content = answer or self._forward(body)
            whole = self._head(status, headers, content) + content
            self.wfile.write(whole[: len(whole) - max(1, len(content) // 2 or 20)])
        self._cut()
        return None

    def _send(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.wfile.write(self._head(status, headers, content) + content)

    def _head(self, status: int, headers: list[tuple[str, str]], content: bytes) -> bytes:
        skipped = {"transfer-encoding", "connection"}
        kept = [(name, value) for name, value in headers if name.lower() not in skipped]
        if self.command != "HEAD":
            kept = [(name, value) for name, value in kept if name.lower() != "content-length"]
            kept.append(("Content-Length", str(len(content))))
        lines = [f"HTTP/1.1 {status} {http.client.responses.get(status, '')}", *(f"{a}: {b}" for a, b in kept), "", ""]
        return "\r\n".join(lines).encode("latin-1")

    def _cut(self) -> None:
        """Close the connection with a reset."""
        self.close_connection = True
        with suppress(OSError):
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, format: str, *words: object) -> None:
        """Nothing is printed."""


@contextmanager
def proxy_before(target: str) -> Iterator[Proxy]:
    """A proxy that runs within the block, before the server at a URL."""
    with Proxy(target) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield proxy
        proxy.shutdown()
