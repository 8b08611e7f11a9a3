"""Fixtures for the tests of several rooms."""

import os

if os.environ.get(
    "PYTEST_XDIST_WORKER"
):  # torch reads it at its import: two test processes must not take all cores each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from jobs.runtime.ray_cluster import set_token
from kdlib.config.run import RunConfig

# Ray reads the token only once, at its import, and any test may be the first to import Ray. Jobs do the same.
set_token()


ENGINES = {"spark", "night", "night_to_change"}
"""Fixtures that start an engine."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts an engine, and keep together what shares a fixture: all tests of a file, and all that look at `night`.

    Files with whole jobs come first, so that the last one to end is a short one.
    """
    slow = set[str]()
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & ENGINES:
            item.add_marker(pytest.mark.engine)
        group = "night" if fixtures & {"night", "night_to_change"} else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
        if item.get_closest_marker("e2e") or group == "night":
            slow.add(item.nodeid.partition("::")[0])
    items.sort(key=lambda item: item.nodeid.partition("::")[0] not in slow)


@pytest.fixture(scope="session")
def spark(tmp_path_factory):
    """One small local Spark for all tests. It is started as in the jobs."""
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
