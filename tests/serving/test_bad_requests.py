"""Bad requests: each gets a status 4xx with a text that says what was expected, never 5xx."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

ITEM = {"item": "item001"}
LATER = int(time.time()) + 86_400


def event(**more: Any) -> dict[str, Any]:
    return {"session": [ITEM | more]}


TIME = "session.0.time must be an ISO 8601 time with an offset, or seconds since 1970"
RANGE = "before 1970 or in the future. A number counts seconds, not milliseconds"
TYPE = "session.0.event_type"
TEXT = "Input should be a valid string"
NUMBER = "k: Input should be a valid integer"
DEEP = "nested too deeply"

BODIES: dict[str, tuple[Any, str]] = {
    # no JSON
    "empty": ("", "must be JSON"),
    "blank": ("  \n", "must be JSON"),
    "text": ("hello", "must be JSON"),
    "half a text": ('"abc', "must be JSON"),
    "form": ("session=item001&k=3", "must be JSON"),
    "xml": ("<session/>", "must be JSON"),
    "cut off": ('{"session": [', "must be JSON"),
    "two values": ('{"session": []} {"session": []}', "must be JSON"),
    "trailing comma": ('{"session": [],}', "must be JSON"),
    "single quotes": ("{'session': []}", "must be JSON"),
    "comment": ('{"session": [] /* none */}', "must be JSON"),
    "bare key": ("{session: []}", "must be JSON"),
    "undefined": ('{"session": undefined}', "must be JSON"),
    "leading zeros": ('{"session": [], "k": 007}', "must be JSON"),
    "hexadecimal": ('{"session": [], "k": 0x10}', "must be JSON"),
    "bad escape": (r'{"session": [{"item": "\x41"}]}', "must be JSON"),
    "control character": ('{"session": [{"item": "a\x01"}]}', "must be JSON"),
    "byte order mark": (b"\xef\xbb\xbf{}", "must be JSON"),
    "zero byte": (b"\x00", "must be JSON"),
    # not UTF-8
    "latin 1": ('{"session": [{"item": "Söhne"}]}'.encode("latin-1"), "must be UTF-8, found the byte 0xf6 at 24"),
    "utf-16": ('{"session": []}'.encode("utf-16"), "must be UTF-8"),
    "overlong": (b'{"session": [{"item": "\xc0\xaf"}]}', "must be UTF-8"),
    "bytes of a surrogate": (b'{"session": [{"item": "\xed\xa0\x80"}]}', "must be UTF-8"),
    "gzip": (b"\x1f\x8b\x08\x00", "must be UTF-8"),
    # JSON that is no JSON
    "nan": ('{"session": [{"item": "a", "time": NaN}]}', "NaN is no JSON number"),
    "infinity": ('{"session": [], "k": Infinity}', "Infinity is no JSON number"),
    "minus infinity": ('{"session": [], "k": -Infinity}', "-Infinity is no JSON number"),
    "key twice": ('{"session": [], "session": []}', "the key 'session' stands twice"),
    "key twice inside": ('{"session": [{"item": "a", "item": "b"}]}', "the key 'item' stands twice"),
    "deep lists": ("[" * 30_000, DEEP),
    "deep lists, closed": ("[" * 20_000 + "]" * 20_000, DEEP),
    "deep objects": ('{"session":' * 5_000, DEEP),
    "deep in a time": ('{"session": [{"item": "a", "time": ' + "[" * 20_000 + "]" * 20_000 + "}]}", DEEP),
    "digits": ('{"session": [], "k": ' + "9" * 5_000 + "}", "thousands of digits"),
    "digits of a time": ('{"session": [{"item": "a", "time": ' + "1" * 10_000 + "}]}", "thousands of digits"),
    # another shape
    "null": (None, "top level"),
    "true": (True, "top level"),
    "number": (5, "top level"),
    "string": ('"x"', "top level"),
    "list": ([], "top level"),
    "list of events": ([ITEM], "top level"),
    "no keys": ({}, "missing key session"),
    "no session": ({"user": "u1"}, "missing key session"),
    "unknown key": ({"session": [], "size": 3}, "unknown key size"),
    "key in capitals": ({"Session": []}, "missing key session"),
    "key of a prototype": ({"session": [], "__proto__": {}}, "unknown key __proto__"),
    "session null": ({"session": None}, "session: Input should be a valid list"),
    "session text": ({"session": "item001"}, "session: Input should be a valid list"),
    "session object": ({"session": {"item": "a"}}, "session: Input should be a valid list"),
    "session number": ({"session": 3}, "session: Input should be a valid list"),
    "event null": ({"session": [None]}, "session.0"),
    "event text": ({"session": ["item001"]}, "session.0"),
    "event list": ({"session": [["item001"]]}, "session.0"),
    "event number": ({"session": [1]}, "session.0"),
    "second event": ({"session": [ITEM, 1]}, "session.1"),
    "event without item": ({"session": [{}]}, "missing key session.0.item"),
    "unknown key of an event": (event(price=3), "unknown key session.0.price"),
    "item null": ({"session": [{"item": None}]}, TEXT),
    "item number": ({"session": [{"item": 17}]}, TEXT),
    "item true": ({"session": [{"item": True}]}, TEXT),
    "item list": ({"session": [{"item": ["a"]}]}, TEXT),
    "item object": ({"session": [{"item": {"id": "a"}}]}, TEXT),
    "item empty": ({"session": [{"item": ""}]}, "at least 1 character"),
    "item long": ({"session": [{"item": "a" * 257}]}, "at most 256 characters"),
    "item half a character": ('{"session": [{"item": "\\ud800"}]}', "session.0.item"),
    "user number": ({"session": [], "user": 5}, TEXT),
    "user empty": ({"session": [], "user": ""}, "at least 1 character"),
    "user long": ({"session": [], "user": "u" * 300}, "at most 256 characters"),
    "user list": ({"session": [], "user": []}, TEXT),
    "user false": ({"session": [], "user": False}, TEXT),
    "user half a character": ('{"session": [], "user": "\\udfff"}', "user"),
    # k
    "k 0": ({"session": [], "k": 0}, "k: Input should be greater than or equal to 1"),
    "k negative": ({"session": [], "k": -1}, "k: Input should be greater than or equal to 1"),
    "k above the list": ({"session": [], "k": 6}, "k must be at most 5 (recommend.k), found 6"),
    "k a billion": ({"session": [], "k": 10**9}, "k must be at most 5 (recommend.k), found 1000000000"),
    "k beyond 64 bits": ({"session": [], "k": 2**70}, "k must be at most 5"),
    "k exponent": ('{"session": [], "k": 1e9}', NUMBER),
    "k text": ({"session": [], "k": "10"}, NUMBER),
    "k true": ({"session": [], "k": True}, NUMBER),
    "k fraction": ({"session": [], "k": 2.5}, NUMBER),
    "k whole fraction": ({"session": [], "k": 3.0}, NUMBER),
    "k overflow": ('{"session": [], "k": 1e999}', NUMBER),
    "k list": ({"session": [], "k": [3]}, NUMBER),
    # event types
    "type unknown": (event(event_type="buy"), f"{TYPE} must be one of view, favourite, cart, purchase, found 'buy'"),
    "type in capitals": (event(event_type="VIEW"), f"{TYPE} must be one of"),
    "type of a search": (event(event_type="search"), f"{TYPE} must be one of"),
    "type number": (event(event_type=0), TEXT),
    "type empty": (event(event_type=""), "at least 1 character"),
    "type list": (event(event_type=["view"]), TEXT),
    # times
    "time text": (event(time="yesterday"), TIME),
    "time empty": (event(time=""), TIME),
    "time true": (event(time=True), TIME),
    "time list": (event(time=[1]), TIME),
    "time object": (event(time={"$date": 1}), TIME),
    "time as text of a number": (event(time="1700000000"), TIME),
    "time without offset": (event(time="2026-11-22T10:00:00"), "has no offset. Write 2026-12-01T10:00:00Z"),
    "date alone": (event(time="2026-11-22"), "has no offset"),
    "month 13": (event(time="2026-13-01T00:00:00Z"), TIME),
    "29 February": (event(time="2026-02-29T00:00:00Z"), TIME),
    "hour 25": (event(time="2026-11-22T25:00:00Z"), TIME),
    "offset of 30 hours": (event(time="2026-11-22T10:00:00+30:00"), TIME),
    "American": (event(time="11/22/2026 10:00 AM"), TIME),
    "year 10000": (event(time="10000-01-01T00:00:00Z"), TIME),
    "year 9999": (event(time="9999-12-31T23:59:59Z"), RANGE),
    "year 1": (event(time="0001-01-01T00:00:00+14:00"), RANGE),
    "before 1970": (event(time="1969-12-31T23:59:59Z"), RANGE),
    "negative": (event(time=-1), RANGE),
    "tomorrow": (event(time=LATER), RANGE),
    "milliseconds": (event(time=1_700_000_000_000), RANGE),
    "microseconds": (event(time=1_700_000_000_000_000), RANGE),
    "beyond 64 bits": (event(time=2**80), RANGE),
    "below 64 bits": (event(time=-(2**80)), RANGE),
    "huge fraction": (event(time=1e300), RANGE),
    "overflow": ('{"session": [{"item": "a", "time": 1e999}]}', TIME),
    "time of one of two": ({"session": [ITEM | {"time": 1}, ITEM]}, "session.1.time is missing, and other events have"),
    # lengths
    "too many events": ({"session": [{"item": "a"}] * 1_001}, "at most 1000 items"),
    "session id number": (event(session=1), TEXT),
}


def _is_told(answer: Any, status: int, text: str) -> None:
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert text in answer.json()["error"]
    assert len(answer.json()["error"]) < 900


@pytest.mark.parametrize("kind", BODIES)
def test_a_bad_body_is_told(post: Callable[..., Any], kind: str) -> None:
    """The answer has status 400, says what is wrong and shows a good body."""
    body, text = BODIES[kind]
    answer = post(body)
    _is_told(answer, 400, text)
    if "must be" not in text and "recommend.k" not in text:
        assert '{"session": [{"item": "sku-1"' in answer.json()["error"]


def test_there_are_a_hundred_kinds() -> None:
    """The list above has a hundred kinds of bad bodies and more."""
    assert len(BODIES) >= 100


REQUESTS: dict[str, tuple[str, str, dict[str, Any], int, str]] = {
    "get": ("GET", "/recommend", {}, 405, "there is no GET /recommend. Expected POST /recommend"),
    "put": ("PUT", "/recommend", {}, 405, "there is no PUT /recommend"),
    "delete": ("DELETE", "/recommend", {}, 405, "there is no DELETE /recommend"),
    "post to search": ("POST", "/search?q=a", {}, 405, "there is no POST /search"),
    "post to health": ("POST", "/health", {}, 405, "there is no POST /health"),
    "unknown path": ("GET", "/", {}, 404, "there is no GET /."),
    "slash at the end": ("POST", "/recommend/", {}, 404, "there is no POST /recommend/"),
    "path above": ("GET", "/../etc/passwd", {}, 404, "there is no GET"),
    "long path": ("GET", "/" + "a" * 5_000, {}, 404, "there is no GET /aaa"),
    "no type": ("POST", "/recommend", {"content": "{}"}, 415, "Content-Type must be application/json, found none"),
    "plain text": (
        "POST",
        "/recommend",
        {"content": "{}", "headers": {"content-type": "text/plain"}},
        415,
        "text/plain",
    ),
    "form": ("POST", "/recommend", {"data": {"session": "a"}}, 415, "found application/x-www-form-urlencoded"),
    "parameters": ("POST", "/recommend?k=3", {"json": {"session": []}}, 400, "takes no parameters in its address"),
    "large": ("POST", "/recommend", {"json": {"session": "a" * 65_536}}, 413, "at most 65,536 bytes"),
    "no search": ("GET", "/search?q=lamp", {}, 404, "has no product search. Add the section search"),
    "no query": ("GET", "/search", {}, 400, "q must be a text of 1 to 500 characters, found 0"),
    "blank query": ("GET", "/search?q=%20", {}, 400, "q must be a text"),
    "long query": ("GET", "/search?q=" + "a" * 501, {}, 400, "found 501"),
    "search k 0": ("GET", "/search?q=a&k=0", {}, 400, "k must be a whole number from 1 to 100, found '0'"),
    "search k text": ("GET", "/search?q=a&k=ten", {}, 400, "found 'ten'"),
    "search k in other digits": ("GET", "/search?q=a&k=٣", {}, 400, "k must be a whole number"),
    "search k large": ("GET", "/search?q=a&k=101", {}, 400, "found '101'"),
    "search k twice": ("GET", "/search?q=a&k=1&k=2", {}, 400, "each of q and k once"),
    "search unknown": ("GET", "/search?q=a&category=b", {}, 400, "/search takes q, k and item, found 'category'"),
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_bad_request_is_told(client: TestClient, kind: str) -> None:
    """A wrong method, path, type, size or parameter has a status of its own and a text."""
    method, path, more, status, text = REQUESTS[kind]
    _is_told(client.request(method, path, **more), status, text)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
MOSTLY_RIGHT = st.fixed_dictionaries(
    {"session": st.lists(st.fixed_dictionaries({"item": st.just("item001") | JSON_VALUES}, optional={
        "event_type": st.sampled_from(["view", "cart"]) | JSON_VALUES,
        "time": st.integers(-10, 2**40) | JSON_VALUES,
        "session": JSON_VALUES,
    }), max_size=3) | JSON_VALUES},
    optional={"user": st.just("user0001") | JSON_VALUES, "k": st.integers(-1, 7) | JSON_VALUES},
)  # fmt: skip


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(body=MOSTLY_RIGHT | JSON_VALUES)
def test_any_json_is_answered(post: Callable[..., Any], body: Any) -> None:
    """Any JSON value gets a list, or status 400 with a text."""
    answer = post(json.dumps(body))
    assert answer.status_code in (200, 400), answer.text
    assert ("items" if answer.status_code == 200 else "error") in answer.json()


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(start=st.binary(max_size=30), end=st.integers(0, 80))
def test_any_bytes_are_answered(post: Callable[..., Any], start: bytes, end: int) -> None:
    """Bytes of any kind, and a good body that is cut off or has bytes before it, get status 200 or 400."""
    good = json.dumps({"session": [ITEM | {"event_type": "view", "time": 1_700_000_000}], "user": "u1"}).encode()
    assert post(start + good[:end]).status_code == 400
    assert post(good + start).status_code in (200, 400)
