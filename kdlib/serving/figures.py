"""What a server tells Prometheus. Each process counts for itself, under its own label `replica`."""

import os
import time
from datetime import date

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from kdlib.store.days import day_start

PATHS = ("/recommend", "/search", "/health", "/metrics")
BUCKETS = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Figures:
    """The series of one process."""

    def __init__(self) -> None:
        disable_created_metrics()
        self._registry, self._replica = CollectorRegistry(), str(os.getpid())
        self._requests = self._of(Counter, "requests", "Answered requests", "path", "status")
        self._seconds = self._of(Histogram, "seconds", "Time from request to answer", "path", buckets=BUCKETS)
        self._batch = self._of(Histogram, "batch_size", "Requests of a batch", buckets=(1, 2, 4, 8, 16, 32, 64))
        self._run = self._of(Gauge, "run_info", "1 for the run that answers", "ds", "model_version")
        self._age = self._of(Gauge, "run_age_seconds", "Age of the run's newest data: time since the start of its day")
        self._failures = self._of(Counter, "failures", "Failed looks at the run in use and at the stock", "what")
        self._out = self._of(Gauge, "out_of_stock_items", "Items in the list serve.out_of_stock")

    def _of(self, kind, name: str, text: str, *labels: str, **more):
        return kind(f"distilrec_serve_{name}", text, ("replica", *labels), registry=self._registry, **more)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count an answer."""
        path = path if path in PATHS else "other"
        self._requests.labels(self._replica, path, str(status)).inc()
        self._seconds.labels(self._replica, path).observe(seconds)

    def batch(self, size: int) -> None:
        """Count a batch."""
        self._batch.labels(self._replica).observe(size)

    def switched(self, ds: str, model_version: str) -> None:
        """Note the run that answers from now on."""
        self._run.clear()
        self._run.labels(self._replica, ds, model_version).set(1)
        start = day_start(date.fromisoformat(ds)).timestamp()
        self._age.labels(self._replica).set_function(lambda: time.time() - start)

    def failed(self, what: str) -> None:
        """Count a failed look: `run` or `stock`."""
        self._failures.labels(self._replica, what).inc()

    def out_of_stock(self, number: int) -> None:
        """Note how many items are out of stock."""
        self._out.labels(self._replica).set(number)

    def text(self) -> bytes:
        """All series in the Prometheus text format."""
        return generate_latest(self._registry)
