"""A run is published and promoted in an output folder in an S3 server, and hit by a fault, while a reader looks."""

import json
import os
import re
import shutil
import signal
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

from kdlib.errors import DistilrecError
from kdlib.store import leases, objects
from kdlib.store.folders import StoreError
from kdlib.store.mirror import attach
from kdlib.store.working_copy import held, refresh
from tests.faults.delivery_cases import BUCKET, Scene
from tests.faults.publish import DEADLINES, PROCESSES
from tests.release.deliveries import put

YESTERDAY, TODAY = "2026-11-01", "2026-11-02"


def publish(root: Path, url: str, environment: dict[str, str], term: float) -> None:
    """Publish and promote a run, and end as the command line does: with 0, the error's status, or 143 after SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.update(environment)
    for name, value in DEADLINES.items():
        setattr(objects, name, value)
    leases.TERM_SECONDS = term
    try:
        attach(root, url)
        refresh(root)
        with held(root, leases.of_date(TODAY), "nightly"):
            put(root, TODAY, 2, users=120, files=2)
    except DistilrecError as error:
        sys.exit(error.exit_status)
    except StoreError:
        sys.exit(75)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGTERM)


class OutputScene(Scene):
    """An output folder with a run in use, as it is before the next run is published. Each attempt has an empty working copy."""

    statuses = frozenset({0, 75, 143, -9})
    pointers = re.compile(r"PUT /shop/PLACE/(promoted|recommendations/ds)")

    def _prepare(self) -> None:
        first = self.root / "first"
        attach(first, f"s3://{BUCKET}/{self._start}")
        put(first, YESTERDAY, 1, users=100, files=2)
        self._nights = {(100, 1): "the run before", (120, 2): "the new run"}

    def _started(self, place: str, endpoint: str) -> BaseProcess:
        settings = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        fresh = self.root / "machine"
        shutil.rmtree(fresh, ignore_errors=True)
        # The attempt that is hit beats too seldom to change the number of a request. The second one does not wait long for the lease.
        term = 60.0 if self._proxy.fault else 2.0
        arguments = (fresh, f"s3://{BUCKET}/{place}", settings | {"AWS_ENDPOINT_URL": endpoint}, term)
        process = PROCESSES.Process(target=publish, args=arguments)
        process.start()
        return process

    def _files_in_use(self, pointer: bytes, place: str) -> list[str]:
        record = json.loads(
            self._bucket.Object(f"{place}/{json.loads(pointer)['target']}/promotion.json").get()["Body"].read()
        )
        folder = f"_versions/recommendations/ds={record['ds']}.{record['versions']['recommendations']}/data/"
        found = self._bucket.objects.filter(Prefix=f"{place}/{folder}")
        return [one.key.removeprefix(f"{place}/") for one in found]

    def _content(self, place: str) -> dict[str, str]:
        """Object → hash of its content; records, manifests and leases hold times, so only their names count.

        A process that is killed while it tries the store's conditions leaves an empty probe.
        """
        found = {name: tag for name, tag in super()._content(place).items() if "/_locks/probe." not in name}
        return {name: "" if re.search("manifest|promotion.json|_locks", name) else tag for name, tag in found.items()}
