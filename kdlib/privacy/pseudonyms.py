"""Keyed pseudonyms: the HMAC of a user id (RFC 2104, with SHA-256), which nobody can make or undo without the key.

The key is read where it is used, from a file or an environment variable. No config, log, manifest or table holds it.
"""

import hmac
import os
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from kdlib.errors import ConfigError

BLANKS = " \t\r\n"
"""Characters that are trimmed from every id before its pseudonym is computed."""
DIGITS = 32
"""Hexadecimal digits of a pseudonym: 128 bits, so that no two users of any shop share one."""
LEAST_KEY_BYTES = 16
"""A shorter key can be guessed."""


class KeySource(NamedTuple):
    """Where the key is. Exactly one of the two is given."""

    file: str | None
    environment: str | None


def read_key(source: KeySource) -> bytes:
    """The key, without the line end that editors add.

    Raises:
      ConfigError: the key is missing or too short.
    """
    if source.file is not None:
        where = f"the file {source.file} (privacy.key_file)"
        try:
            key = Path(source.file).read_bytes()
        except OSError as error:
            raise ConfigError(
                f"no pseudonym key: cannot read {where}: {error.strerror}. Create the file or correct the path"
            ) from None
    else:
        where = f"the environment variable {source.environment} (privacy.key_environment)"
        key = os.environ.get(source.environment or "", "").encode()
    key = key.strip()
    if len(key) < LEAST_KEY_BYTES:
        raise ConfigError(
            f"no pseudonym key: expected {LEAST_KEY_BYTES} bytes or more in {where}, found {len(key)}."
            " Make a key with `openssl rand -hex 32`"
        )
    return key


def pseudonym(key: bytes, user_id: str) -> str:
    """The pseudonym of a user id: 32 hexadecimal digits. Equal ids and keys give equal pseudonyms."""
    return hmac.new(key, user_id.encode(), sha256).hexdigest()[:DIGITS]


def key_check(key: bytes) -> str:
    """8 hexadecimal digits that tell keys apart without revealing them. Manifests hold them, to notice a changed
    key."""
    return hmac.new(key, b"distilrec: is this the same key?", sha256).hexdigest()[:8]
