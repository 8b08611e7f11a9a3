"""Session features from a Spark standalone cluster."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pyspark
import pytest
import yaml

from jobs.runtime.names import FEATURES
from jobs.runtime.spark_session import java_home
from kdlib.store import partitions
from tests.jobs.conftest import DS
from tests.ports import free_port
from tests.whole_nights import run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def spark_master() -> Iterator[str]:
    """The address of a Spark standalone master with one worker, in processes of their own."""
    home = java_home()
    environment = os.environ | {"SPARK_LOCAL_IP": "127.0.0.1"} | ({"JAVA_HOME": str(home)} if home else {})
    master = f"spark://127.0.0.1:{free_port()}"
    launch = str(Path(pyspark.__file__).parent / "bin" / "spark-class")
    with tempfile.TemporaryDirectory() as folder:
        common = ["--host", "127.0.0.1", "--webui-port"]
        commands = [
            ["master.Master", *common, str(free_port()), "--port", master.rpartition(":")[2]],
            [
                "worker.Worker",
                *common,
                str(free_port()),
                "--cores",
                "1",
                "--memory",
                "1g",
                "--work-dir",
                folder,
                master,
            ],
        ]
        running = [
            subprocess.Popen(
                [launch, f"org.apache.spark.deploy.{name}", *arguments],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for name, *arguments in commands
        ]
        yield master
        for process in running:
            process.terminate()
            process.wait()


def test_a_cluster_makes_the_features_of_a_laptop(
    spark_master: str, night: tuple[Path, Path, str], night_to_change: tuple[Path, Path, str]
) -> None:
    """The driver is here and the executor is a process of the cluster. All tables have the rows of local mode's tables."""
    path, root, _ = night_to_change
    made = ("sessions", "quarantine", *FEATURES)
    for name in made:
        (root / name / f"ds={DS}").unlink()
    document = yaml.safe_load(path.read_text())
    conf = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", "spark.executor.memory": "512m"}
    document["spark"] |= {"master": spark_master, "conf": conf}
    path.write_text(yaml.safe_dump(document))
    assert "up to date" not in run(path, command="build-features")
    for name in made:
        ours, laptops = (partitions.current(folder, name, DS) for folder in (root, night[1]))
        tables = [pq.read_table(folder) for folder in (ours, laptops)]
        if name == "quarantine":  # the path of a file has the output folder in it
            tables = [table.drop_columns("file") for table in tables]
        assert tables[0].equals(tables[1]), name
