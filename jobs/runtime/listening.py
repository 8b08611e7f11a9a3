"""The address on which a server of this machine listens."""

import ipaddress
import socket
from contextlib import suppress

from kdlib.errors import ConfigError

LOCAL = ("localhost", "127.0.0.1")
_BACKLOG = 2_048
"""Connections that wait to be taken."""


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A socket that listens; ConfigError where none can.

    Args:
      host: an address of this machine.
      port: the port.
      shared: other processes may listen there too, if theirs is shared. The kernel spreads the connections over them.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG, reuse_port=shared)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"cannot listen on port {port} of {host}: {error}. Give a free port with --port, or an address of"
            " this machine with --host"
        ) from None


def in_url(host: str) -> str:
    """A host as a URL writes it."""
    return f"[{host}]" if ":" in host else host


def is_local(host: str) -> bool:
    """Whether only this machine reaches a host."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host in LOCAL
