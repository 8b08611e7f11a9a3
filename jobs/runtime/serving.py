"""The server on Ray Serve: replicas of the application of `kdlib.serving`, each with a run of its own in memory.

Ray Serve places the replicas, looks after them and starts a dead one again. Each replica listens itself, and the replicas
of a machine share the port. Ray Serve's own proxy would take as much time for a request as the answer takes.
"""

import gc
import logging
from collections.abc import Callable
from functools import partial

from ray import serve
from ray.serve.config import ProxyLocation

from jobs.runtime.console import warn
from jobs.runtime.extras import check_search_extra
from jobs.runtime.listening import listen
from jobs.runtime.output import open_output
from jobs.runtime.ray_cluster import own_signal_handlers
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError, DistilrecError
from kdlib.privacy.pseudonyms import pseudonym, read_key
from kdlib.serving.app import Server
from kdlib.serving.figures import Figures
from kdlib.serving.follow import Follower
from kdlib.serving.listener import Listener
from kdlib.serving.night import Night
from kdlib.serving.stock import StockFile

NAME = "distilrec"
DRAIN_SECONDS = 10.0


class Replica:
    """A process that answers.

    Args:
      config: the run config.
      host: the address to listen on.
      port: the port, which replicas of one machine share.

    Raises:
      DistilrecError: nothing can listen there.
    """

    def __init__(self, config: RunConfig, host: str, port: int) -> None:
        gc.freeze()  # what is imported stays: the collector need not look at it while requests wait
        open_socket = listen(host, port, shared=True)
        self._listener = Listener(server(config).app(), open_socket, drain_seconds=DRAIN_SECONDS)

    def check_health(self) -> None:
        """Ray Serve asks every ten seconds, and replaces a replica that raises an error."""
        self._listener.check()

    def __del__(self) -> None:
        """Ray Serve calls this before it ends the process."""
        self._listener.stop()


def start(config: RunConfig, *, host: str, port: int) -> None:
    """Start the replicas. Ray must run. Returns when they can answer.

    Raises:
      DistilrecError: a replica does not start.
    """
    deployment = serve.deployment(
        name=NAME,
        num_replicas=config.serve.replicas,
        ray_actor_options={"num_cpus": 1},
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=2 * DRAIN_SECONDS,
    )(Replica)
    quiet = {"enable_access_log": False, "log_level": logging.WARNING}
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with own_signal_handlers():
        serve.start(proxy_location=ProxyLocation.Disabled, logging_config=quiet)
        try:
            serve.run(deployment.bind(config, host, port), name=NAME, route_prefix=None, logging_config=quiet)
        except RuntimeError as error:
            raise DistilrecError(f"the server does not start: {error}") from None


def stop() -> None:
    """Answer what is in work, then end the replicas. New connections are refused meanwhile."""
    serve.delete(NAME)


def server(config: RunConfig) -> Server:
    """The server of one process."""
    open_output(config)
    figures = Figures()
    load = partial(
        Night,
        config.root,
        pseudonym_of=_pseudonym_of(config),
        search_missing=_search_missing(),
    )
    stock = StockFile(config.serve.out_of_stock) if config.serve.out_of_stock else None
    follower = Follower(config.root, load, stock=stock, figures=figures, warn=warn)
    return Server(follower, figures, max_requests=config.serve.max_requests)


def _pseudonym_of(config: RunConfig) -> Callable[[str], str] | None:
    return partial(pseudonym, read_key(config.privacy.key)) if config.privacy.key else None


def _search_missing() -> str:
    try:
        check_search_extra()
    except ConfigError as error:
        return str(error)
    return ""
