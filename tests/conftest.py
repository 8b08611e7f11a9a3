"""Fixtures for the tests of several rooms."""

import os

if os.environ.get(
    "PYTEST_XDIST_WORKER"
):  # torch reads it at its import: two test processes must not take all cores each
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Spark's tests are short: Java's second compiler would cost them more time than it saves
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")

import pytest

from jobs.runtime.ray_cluster import set_token
from kdlib.config.run import RunConfig

# Ray reads the token only once, at its import, and any test may be the first to import Ray. Jobs do the same.
set_token()


ENGINES = {"spark", "night", "night_to_change", "browser"}
"""Fixtures that start an engine, or a browser."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts an engine. Whole jobs come first and short tests last, so that all test processes end together."""
    for item in items:
        if set(getattr(item, "fixturenames", ())) & ENGINES:
            item.add_marker(pytest.mark.engine)
    items.sort(key=lambda item: 0 if item.get_closest_marker("e2e") else 1 if item.get_closest_marker("engine") else 2)


@pytest.fixture(scope="session")
def spark(tmp_path_factory):
    """One small local Spark for all tests of a process. It is started as in the jobs."""
    from jobs.runtime.spark_session import start_spark, stop_spark

    folder = tmp_path_factory.mktemp("spark")
    config = RunConfig.model_validate(
        {
            "name": "tests",
            "output_dir": str(folder),
            "input": {"simulate": {}},
            "spark": {"master": "local[2]", "driver_memory": "1g", "shuffle_partitions": 2},
        }
    )
    session = start_spark(config, folder / "spark.log")
    yield session
    stop_spark(session)
