"""What several rooms' tests share."""

import pytest

from jobs.runtime.ray_cluster import _set_token
from kdlib.config.run import RunConfig

_set_token()  # as a job does before it imports Ray, which reads it then and never again: any test may be the first to import it


@pytest.fixture(scope="session")
def spark(tmp_path_factory):
    """One small local Spark for all tests, started as the jobs start it."""
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
