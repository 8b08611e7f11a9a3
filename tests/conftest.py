"""Fixtures for the tests of several rooms."""

import pytest

from jobs.runtime.ray_cluster import _set_token
from kdlib.config.run import RunConfig

# Ray reads the token only once, at its import, and any test may be the first to import Ray. Jobs do the same.
_set_token()


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
