"""Stores that heed the conditions of a write, and stores that do not."""

from collections.abc import Collection
from typing import Any

import pytest

from kdlib.errors import ConfigError
from kdlib.store import conditions
from kdlib.store.conditions import check_conditions
from kdlib.store.folders import ConflictError, Found, StoreError
from kdlib.store.objects import folder_at


class Careless:
    """A store in memory that heeds some conditions only, or answers a write with an error."""

    def __init__(self, *, heeds: Collection[str] = (), error: Exception | None = None) -> None:
        self.url, self.heeds, self.error, self.writes = "s3://careless/out", heeds, error, 0
        self.objects: dict[str, Found] = {}

    def write(self, path, data, *, over):
        self.writes += 1
        if self.error:
            raise self.error
        there = self.objects.get(path)
        if (over is None and there and "new" in self.heeds) or (over and over != there and "same" in self.heeds):
            raise ConflictError("holds something else")
        self.objects[path] = Found(data, str(self.writes))
        return self.objects[path]

    def remove(self, paths):
        for path in paths:
            self.objects.pop(path, None)


def careless(**how: Any) -> Any:
    """A store with the methods of a folder that the check needs."""
    return Careless(**how)


@pytest.fixture(autouse=True)
def nothing_is_checked(monkeypatch):
    """No folder counts as checked."""
    monkeypatch.setattr(conditions, "_checked", set())


def test_a_store_that_heeds_conditions_passes(url):
    """Folders on a disk and in an S3 server pass, and the probe is gone."""
    folder = folder_at(url)
    check_conditions(folder)
    assert folder.files() == {}


@pytest.mark.parametrize(
    ("heeds", "words"),
    [
        ([], r"s3://careless/out ignores the condition that an object is new\. Two runs could then write at the same"),
        (["new"], r"ignores the condition that an object is still the one that was read\. Two runs"),
        (["same"], r"ignores the condition that an object is new\."),
    ],
)
def test_a_store_that_ignores_a_condition_is_refused(heeds, words):
    """The error names the folder, the condition and what to do, and the probe is removed."""
    store = careless(heeds=heeds)
    with pytest.raises(ConfigError, match=words):
        check_conditions(store)
    assert store.objects == {}


def test_a_store_without_conditional_writes_is_refused():
    """A store that answers "not implemented" is refused in the same way; other errors pass."""
    with pytest.raises(ConfigError, match=r"knows no conditional writes: NotImplemented: A header\. Two runs"):
        check_conditions(careless(error=StoreError("NotImplemented: A header")))
    with pytest.raises(StoreError, match=r"^AccessDenied$"):
        check_conditions(careless(error=StoreError("AccessDenied")))


def test_a_folder_is_checked_once():
    """A second check in the same process asks nothing. A store that failed is asked again."""
    store = careless(heeds=["new", "same"])
    check_conditions(store)
    check_conditions(store)
    assert store.writes == 4
    other = careless()
    other.url = "s3://other/out"
    for _ in range(2):
        with pytest.raises(ConfigError):
            check_conditions(other)
    assert other.writes == 4
