"""What several rooms' tests share."""

import pytest

from kdlib.config import RunConfig


@pytest.fixture(scope="session")
def spark(tmp_path_factory):
    """One small local Spark for all tests, started as the jobs start it."""
    from jobs._spark import start_spark, stop_spark

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
