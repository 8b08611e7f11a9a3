"""Keyed pseudonyms: a user id becomes an HMAC that nobody without the key can make or undo (RFC 2104, with SHA-256).

The key is read where it is used, from a file or an environment variable; it is in no config, plan, log, manifest or table.
"""

import hmac
import os
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from kdlib.errors import ConfigError

BLANKS = " \t\r\n"
"""Trimmed from every id when the input is read, before its pseudonym is taken."""
DIGITS = 32
"""Hexadecimal digits of a pseudonym: 128 bits, so that no two users of any shop share one."""
LEAST_KEY_BYTES = 16


class KeySource(NamedTuple):
    """Where the key is found; one of the two is given."""

    file: str | None
    environment: str | None


def read_key(source: KeySource) -> bytes:
    """The key, without the line's end that editors add.

    Raises:
      ConfigError: it is not there, or too short to keep anything secret.
    """
    if source.file is not None:
        where = f"the file {source.file} (privacy.key_file)"
        try:
            key = Path(source.file).read_bytes()
        except OSError as error:
            raise ConfigError(f"no pseudonym key: cannot read {where}: {error.strerror}") from None
    else:
        where = f"the environment variable {source.environment} (privacy.key_environment)"
        key = os.environ.get(source.environment or "", "").encode()
    key = key.strip()
    if len(key) < LEAST_KEY_BYTES:
        raise ConfigError(
            f"no pseudonym key: expected {LEAST_KEY_BYTES} bytes or more in {where}, found {len(key)};"
            " make one with `openssl rand -hex 32`"
        )
    return key


def pseudonym(key: bytes, user_id: str) -> str:
    """32 hexadecimal digits for a user id; the same for the same key."""
    return hmac.new(key, user_id.encode(), sha256).hexdigest()[:DIGITS]


def key_check(key: bytes) -> str:
    """What tells two keys apart without telling either: kept in manifests, so that a changed key is noticed."""
    return hmac.new(key, b"distilrec: is this the same key?", sha256).hexdigest()[:8]
