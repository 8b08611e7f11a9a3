"""The server on Ray Serve: replicas of the application of `kdlib.serving`, each with a run of its own in memory."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from ray import serve
from ray.serve.config import HTTPOptions

from jobs.runtime.console import warn
from jobs.runtime.extras import check_search_extra
from jobs.runtime.output import open_output
from jobs.runtime.ray_cluster import own_signal_handlers
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError, DistilrecError
from kdlib.privacy.pseudonyms import pseudonym, read_key
from kdlib.serving.app import Server
from kdlib.serving.figures import Figures
from kdlib.serving.follow import Follower
from kdlib.serving.night import Night
from kdlib.serving.stock import StockFile

NAME = "distilrec"
DRAIN_SECONDS = 10.0


def start(config: RunConfig, *, host: str, port: int) -> None:
    """Start the replicas and the proxies that listen. Ray must run. Returns when the replicas can answer.

    Raises:
      DistilrecError: a replica does not start.
    """

    def build() -> Any:
        return server(config).app()

    deployment = serve.deployment(
        name=NAME,
        num_replicas=config.serve.replicas,
        # the application itself refuses what is too much, with a text; so Ray's limit is above it
        max_ongoing_requests=2 * config.serve.max_requests,
        ray_actor_options={"num_cpus": 1},
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=DRAIN_SECONDS,
    )(serve.ingress(build)())
    quiet = {"enable_access_log": False, "log_level": logging.WARNING}
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with own_signal_handlers():
        serve.start(http_options=HTTPOptions(host=host, port=port), logging_config=quiet)
        try:
            serve.run(deployment.bind(), name=NAME, route_prefix="/", logging_config=quiet)
        except RuntimeError as error:
            raise DistilrecError(f"the server does not start: {error}") from None


def stop() -> None:
    """Answer what is in work, then end the replicas. New requests get status 404 meanwhile.

    The proxies end with a local Ray. Those of a cluster may be others', too.
    """
    serve.delete(NAME)


def server(config: RunConfig) -> Server:
    """The server of one process."""
    open_output(config)
    figures = Figures()
    load = partial(
        Night,
        config.root,
        item_block=config.recommend.item_block,
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
