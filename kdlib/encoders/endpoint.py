"""A server with the embeddings API of OpenAI as an encoder: `POST <url>/embeddings`, which may have a cache.

Requests are retried, and several wait at a time. The key comes from the environment. It stands in no file, log or error.

Shapes: U texts, E text-vector width.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from kdlib.config.text import EndpointConfig
from kdlib.encoders.cache import KEY_BYTES, VectorCache
from kdlib.encoders.vectors import cut, unit_vectors
from kdlib.errors import ConfigError, ModelError, UnreachableError
from kdlib.store.waiting import in_parallel

AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)
"""Statuses after which a request is worth sending again."""
TRIES, LONGEST_PAUSE_SECONDS = 8, 60.0
"""How often a request is sent, and the longest pause between two tries, which starts at a second and doubles."""
LONGEST_WISH_SECONDS = 600
"""The longest pause that a server gets when it asks for one (`Retry-After`)."""
SECONDS = (10.0, 120.0)
"""How long to wait for a connection, and for an answer."""
AT_A_TIME = 4
"""Requests that wait for an answer at the same time."""
PROBE = "A red lamp, 12 V"
"""The text whose vector stands for the model."""
MOST_TEXT = 200
"""At most this many characters of the server's own message are shown."""


class EndpointEncoder:
    """A server's model as an `Encoder`.

    Args:
      endpoint: the setting.
      max_tokens: longer texts are cut.
      batch_size: texts of a request.
      tries: how often a request is sent.

    Raises:
      ConfigError: the environment has no key.
    """

    def __init__(self, endpoint: EndpointConfig, *, max_tokens: int, batch_size: int, tries: int = TRIES) -> None:
        self._endpoint, self._max_tokens, self._batch_size = endpoint, max_tokens, batch_size
        self.cache: VectorCache | None = None
        """Earlier answers. None: every text is sent."""
        self._key = _key(endpoint)
        self._where = f"{endpoint.url.rstrip('/')}/embeddings"
        self._known_width: int | None = None
        self._session = requests.Session()
        self._session.auth = self._with_key  # else requests looks for a password in ~/.netrc
        again = Retry(
            total=tries - 1,
            backoff_factor=0.5,
            backoff_jitter=0.5,
            backoff_max=LONGEST_PAUSE_SECONDS,
            retry_after_max=LONGEST_WISH_SECONDS,
            status_forcelist=AGAIN,
            allowed_methods=None,
            raise_on_status=False,
        )
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=again, pool_maxsize=AT_A_TIME))

    @property
    def width(self) -> int:
        """See `Encoder`. If nothing has been encoded yet, a text is."""
        return self._known_width or len(self.probe())

    def probe(self) -> np.ndarray:
        """The vector of `PROBE`, float32 [E], never from the cache. Raises: as `queries`."""
        return self._ask([self._endpoint.passage_prefix + PROBE], self._endpoint.passage)[0]

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """See `Encoder`.

        Raises:
          ConfigError: the server refuses the key or the request, or has no such model.
          ModelError: the server does not answer with one finite vector of one width for each text.
          UnreachableError: the server does not answer, or is too busy.
        """
        return self._encode(self._endpoint.query_prefix, texts, self._endpoint.query)

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        """See `Encoder`. Raises: as `queries`."""
        return self._encode(self._endpoint.passage_prefix, texts, self._endpoint.passage)

    def _encode(self, prefix: str, texts: Sequence[str], more: dict[str, Any]) -> np.ndarray:
        sent = [prefix + text for text in cut(texts, max_tokens=self._max_tokens)]
        if not sent:
            return np.zeros((0, self.width), np.float32)
        if self.cache is None:
            return self._ask_all(sent, more)
        keys = [hashlib.sha256(json.dumps([more, text]).encode()).digest()[:KEY_BYTES] for text in sent]
        return self.cache.vectors(keys, lambda places: self._ask_all([sent[place] for place in places], more))

    def _ask_all(self, sent: list[str], more: dict[str, Any]) -> np.ndarray:
        batches = [sent[start : start + self._batch_size] for start in range(0, len(sent), self._batch_size)]
        first = self._ask(batches[0], more)  # its width is that of all
        return np.concatenate([first, *in_parallel(lambda one: self._ask(one, more), batches[1:], at_a_time=AT_A_TIME)])

    def _ask(self, texts: list[str], more: dict[str, Any]) -> np.ndarray:
        """The vectors of one request."""
        body = {"model": self._endpoint.model, "input": texts, "encoding_format": "float", **more}
        try:
            answer = self._session.post(self._where, json=body, timeout=SECONDS, allow_redirects=False)
        except requests.RequestException as error:
            raise UnreachableError(
                f"the endpoint {self._where} does not answer: {self._without_key(_reason(error))}. Check endpoint.url and the"
                " server, or try again later"
            ) from None
        if answer.status_code != requests.codes.ok:
            raise self._refused(answer)
        try:
            rows = sorted(answer.json()["data"], key=lambda row: row["index"])
            found = [row["embedding"] for row in rows]
            wrong = [row["index"] for row in rows] != list(range(len(texts)))
        except (ValueError, KeyError, TypeError):
            found, wrong = [], True
        if wrong:
            raise ModelError(
                f"the endpoint {self._where} must answer with JSON that has an embedding for each of {len(texts)} texts, found"
                f" {self._without_key(answer.text)!r}. Check endpoint.url: {self._where} must be an embeddings API of OpenAI's"
                " form"
            )
        vectors = unit_vectors(found, texts=len(texts), width=self._known_width, who=f"the endpoint {self._where}")
        self._known_width = vectors.shape[1]
        return vectors

    def _refused(self, answer: requests.Response) -> Exception:
        """The error for an answer without vectors."""
        status, where = answer.status_code, self._where
        if status in AGAIN:
            return UnreachableError(f"the endpoint {where} still answers with status {status}. Try again later")
        if status in (401, 403):
            name = self._endpoint.api_key_env
            key = f"the key in the environment variable {name}" if name else "a request without a key"
            advice = "Correct the key" if name else "Name the variable of a key in endpoint.api_key_env"
            return ConfigError(f"the endpoint {where} refuses {key}: status {status}. {advice}")
        said = f"status {status}: {self._without_key(answer.text)!r}"
        if status == 404:
            return ConfigError(
                f"the endpoint {where} has no embeddings API, or no model {self._endpoint.model}: {said}. Correct endpoint.url,"
                " which ends before /embeddings, or endpoint.model"
            )
        return ConfigError(
            f"the endpoint {where} refuses {self._endpoint.model} or the texts: {said}. Correct endpoint, or set batch_size or"
            " max_tokens lower"
        )

    def _with_key(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _without_key(self, text: str) -> str:
        """The beginning of a text, with `…` in place of the key."""
        return (text.replace(self._key, "…") if self._key else text)[:MOST_TEXT]


def _key(endpoint: EndpointConfig) -> str:
    """The key from the environment; empty if the endpoint needs none."""
    if endpoint.api_key_env is None:
        return ""
    key = os.environ.get(endpoint.api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"the environment variable {endpoint.api_key_env} is not set: endpoint.api_key_env names it, and it holds the key of"
            f" {endpoint.url}. Set it where the run starts"
        )
    if not key.isascii() or not key.isprintable():
        raise ConfigError(
            f"the environment variable {endpoint.api_key_env} must hold the key of {endpoint.url}, found characters that no key"
            " has. Set it again"
        )
    return key


def _reason(error: requests.RequestException) -> str:
    """Why there is no answer, in one line."""
    cause = getattr(error.args[0], "reason", None) if error.args else None  # urllib3's error after the last try
    return f"{type(error).__name__}: {str(cause or error).rpartition(': ')[2]}"
