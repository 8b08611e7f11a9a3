"""A shop with one run in use, and a server of it without Ray."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.s3 import s3 as s3
from tests.serving import nights
from tests.serving.nights import Made


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The run in use. No test changes what it has published."""
    made = Made(tmp_path_factory.mktemp("night"))
    nights.promote(made)
    return made


@pytest.fixture(scope="session")
def client(made: Made) -> Any:
    """A client of the server. An error that the server does not expect is an answer with status 500."""
    with TestClient(nights.server(made.root).app(), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="session")
def post(client: TestClient) -> Callable[..., Any]:
    """Asks for a list with a body of JSON text, of bytes, or of a value."""

    def ask(body: Any, **headers: str) -> Any:
        data = body if isinstance(body, str | bytes) else json.dumps(body)
        return client.post("/recommend", content=data, headers={"content-type": "application/json"} | headers)

    return ask
