"""Answer requests from the run in use, on Ray Serve: `distilrec serve`. It only reads."""

import os
import time
from contextlib import suppress
from datetime import UTC, datetime

from jobs.runtime.command import Invocation
from jobs.runtime.console import say, warn
from jobs.runtime.listening import in_url, is_local, listen
from jobs.runtime.ray_cluster import check_room, cluster_address, start_ray
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError
from kdlib.privacy.pseudonyms import read_key
from kdlib.release import promotions

_LARGE_PAGES = "glibc.malloc.hugetlb=1"
"""Memory in large pages, for processes that start from now on. Reading an item table takes less time."""


def load(invocation: Invocation) -> RunConfig:
    """The run config. Its date only names the log: the server follows the run in use.

    Raises:
      ConfigError: a date is given.
    """
    if invocation.ds is not None:
        raise ConfigError(f"--ds {invocation.ds}: serve follows the run in use and takes no date")
    return invocation.load().model_copy(update={"ds": datetime.now(UTC).date()})


def run(config: RunConfig, *, host: str, port: int) -> None:
    """Serve until Ctrl-C or SIGTERM. Requests in work are answered first.

    Args:
      config: the run config.
      host: the address to listen on.
      port: the port.

    Raises:
      ConfigError: nothing can listen there, there is no room for the replicas, or the pseudonym key is missing.
      DistilrecError: a replica does not start.
    """
    if not is_local(host):
        warn(f"serve: warning: other machines reach {host}. The server has no login and no TLS: put a proxy before it")
    if config.privacy.key:
        read_key(config.privacy.key)
    if cluster_address(config) is None:
        listen(host, port).close()  # fail now, not in a process of Ray
        os.environ.setdefault("GLIBC_TUNABLES", _LARGE_PAGES)
    with start_ray(config):
        from jobs.runtime import serving

        check_room(config, "serve.replicas", config.serve.replicas, reading=0)
        try:
            serving.start(config, host=host, port=port)
            say(f"serve: {config.name}, http://{in_url(host)}:{port}, {_in_use(config)}; Ctrl-C ends it")
            with suppress(KeyboardInterrupt):
                while True:
                    time.sleep(3_600)
        finally:
            serving.stop()
    say("serve: ended")


def _in_use(config: RunConfig) -> str:
    now = promotions.current(config.root)
    if now is None:
        warn(f"serve: warning: no run is in use in {config.place()} yet. All answers have status 503 until one is")
        return "no run yet"
    return f"run of {now.ds}"
