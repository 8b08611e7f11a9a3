"""Deliveries to an S3 server that are hit by a fault, while a reader looks."""

import json
import random
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import ClientError

from kdlib.privacy import forgetting
from kdlib.release import delivery
from tests.faults.proxy import KINDS, Fault, Proxy
from tests.faults.publish import start, status_of
from tests.release.deliveries import put

BUCKET = "shop"
SCENES = ("first", "next", "forget")
"""The first delivery to a place; the next night; and one after a user was erased, which switches the pointer twice."""
NEVER = Fault("cut", request=10**9)
LASTING = ("cut", "503", "no answer")
"""Faults that may also hit every later request. 403 is never tried again."""


@dataclass(frozen=True)
class Outcome:
    """What a fault did."""

    status: int | None
    """Exit status of the delivery that was hit."""
    seconds: float
    """From its start to its end."""
    seen: Counter[str]
    """What the reader found → how often."""
    faults: tuple[str, ...]
    """What must not happen, in words; empty where all is well."""


class Scene:
    """An output folder with a run in use, and a place as it is before the delivery.

    Args:
      name: one of `SCENES`.
      folder: for the output folder.
      proxy: stands before the S3 server, which `AWS_ENDPOINT_URL` names.
    """

    statuses = frozenset({0, 74, 143, -9})
    """How a process may end that a fault has hit: done, DeliveryError, SIGTERM, SIGKILL."""
    pointers = re.compile("PUT /shop/PLACE/promoted")
    """The requests that replace a pointer."""

    def __init__(self, name: str, folder: Path, proxy: Proxy) -> None:
        self.name, self.root, self._proxy, self._cases = name, folder / name, proxy, 0
        store: Any = boto3.resource("s3")
        self._bucket = store.Bucket(BUCKET)
        self._start = f"start-{name}-{folder.name}"
        self._nights = {(100, 1): "the new run"}
        self._prepare()
        place = self._new_place()
        self._proxy.begin(NEVER)
        assert status_of(self._started(place, self._proxy.url)) == 0
        self.requests = [one.replace(place, "PLACE") for one in self._proxy.requests]
        """The requests of a delivery without a fault."""
        self._whole = self._content(place)

    def _prepare(self) -> None:
        """Make the output folder, and what the place holds before the delivery."""
        if self.name != "first":
            put(self.root, "2026-11-01", 1, users=100, files=2)
            delivery.deliver(self.root, f"s3://{BUCKET}/{self._start}", keep=5)
            put(self.root, "2026-11-02", 2, users=120, files=2)
            self._nights = {(100, 1): "the run before", (120, 2): "the new run"}
        else:
            put(self.root, "2026-11-01", 1, users=100, files=2)
        if self.name == "forget":
            forgetting.remember_to_forget(self.root, ["u7"])
            forgetting.erase(self.root, ["u7"])
            self._nights[119, 2] = self._nights.pop((120, 2))

    def _started(self, place: str, endpoint: str) -> BaseProcess:
        """Start a process that delivers through an endpoint."""
        return start(self.root, f"s3://{BUCKET}/{place}", endpoint)

    def _files_in_use(self, pointer: bytes, place: str) -> list[str]:
        """The files of the lists that a pointer names, relative to the place."""
        return [file["path"] for file in json.loads(pointer)["files"]["recommendations"]]

    def pointer_writes(self) -> list[int]:
        """Numbers of the requests that replace the pointer."""
        return [number for number, one in enumerate(self.requests, 1) if self.pointers.match(one)]

    def pointer_faults(self) -> Iterator[Fault]:
        """Every fault at every write of the pointer."""
        for number in self.pointer_writes():
            for kind in KINDS:
                for done in (True,) if kind == "cut within the answer" else (False, True):
                    yield Fault(kind, number, done)
                    if kind in LASTING:
                        yield Fault(kind, number, done, lasting=True)

    def other_faults(self, chance: random.Random) -> Iterator[Fault]:
        """A random fault at each other request."""
        for number in sorted(set(range(1, len(self.requests) + 1)) - set(self.pointer_writes())):
            kind = chance.choice(KINDS)
            yield Fault(kind, number, chance.random() < 0.5, lasting=kind in LASTING and chance.random() < 0.5)

    def run(self, fault: Fault) -> Outcome:
        """Deliver to a new place with a fault, then once more without."""
        place, wrong = self._new_place(), list[str]()
        with _Reader(self._bucket, place, self._nights, self._files_in_use) as reader:
            self._proxy.begin(fault)
            started = time.monotonic()
            process = self._started(place, self._proxy.url)
            self._proxy.client = process.pid
            status = status_of(process)
            seconds = time.monotonic() - started
            if status not in self.statuses:
                wrong.append(f"the delivery ended with {status}")
            if not self._proxy.hits:
                wrong.append("the fault did not happen")
            self._proxy.begin(None)
            if again := status_of(self._started(place, self._proxy.url)):
                wrong.append(f"the second delivery ended with {again}")
            reader.look()
        if reader.seen[-1] != "the new run":
            wrong.append(f"at the end a reader found {reader.seen[-1]}")
        wrong += reader.wrong()
        if (found := self._content(place)) != self._whole:
            wrong.append(f"at the end the place differs in {sorted(found.items() ^ self._whole.items())}")
        self._bucket.objects.filter(Prefix=f"{place}/").delete()
        return Outcome(status, seconds, Counter(reader.seen), tuple(wrong))

    def close(self) -> None:
        """Remove the output folder and the place."""
        self._bucket.objects.filter(Prefix=f"{self._start}/").delete()
        shutil.rmtree(self.root)

    def _new_place(self) -> str:
        """A folder of the bucket with what the place holds before the delivery."""
        self._cases += 1
        place = f"{self._start}-{self._cases}"
        for one in self._bucket.objects.filter(Prefix=f"{self._start}/"):
            source = {"Bucket": BUCKET, "Key": one.key}
            self._bucket.copy(source, one.key.replace(self._start, place, 1))
        return place

    def _content(self, place: str) -> dict[str, str]:
        """Object → hash of its content."""
        found = self._bucket.objects.filter(Prefix=f"{place}/")
        return {one.key.removeprefix(place): one.e_tag for one in found}


class _Reader:
    """Reads `promoted.json` and the files that it names, again and again, past the proxy and with another client."""

    def __init__(
        self,
        bucket: Any,
        place: str,
        nights: dict[tuple[int, int], str],
        files_in_use: Callable[[bytes, str], list[str]],
    ) -> None:
        self._bucket, self._place, self._nights, self._ended = bucket, place, nights, threading.Event()
        self._files_in_use = files_in_use
        self.seen: list[str] = []
        self._thread = threading.Thread(target=self._loop)

    def __enter__(self) -> "_Reader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def wrong(self) -> list[str]:
        """What a reader must not find: anything but a whole run, or the run before after the new one."""
        whole = ["nothing", "the run before", "the new run"]
        odd = [one for one in self.seen if one not in whole]
        steps = [whole.index(one) for one in self.seen if one in whole]
        return odd + (["a reader went back"] if steps != sorted(steps) else [])

    def look(self) -> None:
        """Read once. Files that are gone are no fault if the pointer has changed meanwhile."""
        try:
            while True:
                pointer, found = self._content("promoted.json"), "nothing"
                if pointer is not None:
                    found = self._run_in([self._content(path) for path in self._files_in_use(pointer, self._place)])
                if found != "missing files" or pointer == self._content("promoted.json"):
                    break
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        self.seen.append(found)

    def _loop(self) -> None:
        while not self._ended.wait(0.02):
            self.look()

    def _content(self, path: str) -> bytes | None:
        try:
            return self._bucket.Object(f"{self._place}/{path}").get()["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchKey":
                raise
            return None

    def _run_in(self, contents: list[bytes | None]) -> str:
        if None in contents:
            return "missing files"
        parts = [pq.read_table(pa.BufferReader(one), columns=["mark"])["mark"].to_pylist() for one in contents]
        marks = [mark for part in parts for mark in part]
        return self._nights.get((len(marks), marks[0]), f"{len(marks)} rows") if len(set(marks)) == 1 else "a mix"
