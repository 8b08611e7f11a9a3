"""An ASGI application that listens for HTTP in a thread of its own (uvicorn)."""

import socket
import threading
from contextlib import suppress

import uvicorn
from starlette.types import ASGIApp

from kdlib.errors import DistilrecError

KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open: longer than load balancers keep theirs, which is a minute."""
_STEP_SECONDS = 0.02


class Listener:
    """A server that has started.

    Args:
      app: it starts and ends with the server.
      socket_: it listens already. Processes of one machine may share its port (SO_REUSEPORT): the kernel gives each new
        connection to one of them.
      drain_seconds: how long `stop` waits for requests in work.

    Raises:
      DistilrecError: the application does not start.
    """

    def __init__(self, app: ASGIApp, socket_: socket.socket, *, drain_seconds: float) -> None:
        settings = uvicorn.Config(
            app,
            lifespan="on",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=int(drain_seconds),
        )
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._run, args=(socket_,), daemon=True, name="http")
        self._thread.start()
        while not self._server.started:
            self._thread.join(_STEP_SECONDS)
            self.check()

    def _run(self, socket_: socket.socket) -> None:
        with socket_, suppress(SystemExit):  # uvicorn would end its process where the application does not start
            self._server.run([socket_])

    def check(self) -> None:
        """Raise DistilrecError where the server has ended."""
        if not self._thread.is_alive():
            raise DistilrecError("the HTTP server has ended; its log says more")

    def stop(self) -> None:
        """Take no more connections, answer what is in work, and end."""
        self._server.should_exit = True
        self._thread.join()
