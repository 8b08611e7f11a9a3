"""Local Ray."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from jobs.runtime import ray_cluster
from jobs.runtime.ray_cluster import KEEPS_MEMORY, check_room, ray_ahead, read_parquet, start_ray
from jobs.runtime.ray_nodes import installed
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError, DistilrecError, UnreachableError

HOME = Path(__file__).parents[3]
LISTENERS = """
import json, os, sys, time
from pathlib import Path
import psutil
from jobs.runtime import epoch_lines
from jobs.runtime.ray_train import run_workers
from jobs.runtime.ray_cluster import start_ray
from jobs.runtime.ray_nodes import check_nodes, installed
from kdlib.config.run import RunConfig
from kdlib.errors import DistilrecError

def listening(processes):
    return [s.laddr.ip for p in processes for s in p.net_connections("inet") if s.status == "LISTEN"]

def train(spec):
    import ray, torch
    from ray.train import get_context, report
    rank, group = get_context().get_world_rank(), torch.distributed.group.WORLD
    seen = torch.ones(1)
    group.allreduce([seen]).wait()
    of_its_own = ray.get_runtime_context().runtime_env
    found = [int(seen), listening([psutil.Process()]), dict(of_its_own)]
    Path(spec["folder"], f"{rank}.json").write_text(json.dumps(found))
    spec["lines"].add(f"epoch of worker {rank}")
    group.allreduce([seen]).wait()
    if rank == 1:
        time.sleep(1)  # the driver asks three times a second
        ray.kill(spec["lines"].kept)
        spec["lines"].add("a line that nobody keeps")
    report({})

epoch_lines.say = print

config = RunConfig.model_validate({
    "name": "x", "output_dir": sys.argv[1], "input": {"simulate": {}},
    "ray": {"num_cpus": 3, "object_store_megabytes": 80}, "training": {"workers": 2},
})
with start_ray(config):
    import ray
    check_nodes(installed())
    try:
        check_nodes(installed() | {"torch": "1.0"})
    except DistilrecError as error:
        print(error)
    print(json.dumps(ray.get(ray.remote(lambda: dict(os.environ)).remote())))
    print(json.dumps(listening([psutil.Process(), *psutil.Process().children(recursive=True)])))
    run_workers(config, train, {"folder": sys.argv[1]}, ray.data.range(2), name="t", stage="t", epochs=2)
    session = ray._private.worker._global_node.get_session_dir_path()
print("session", os.path.exists(session))
"""


@pytest.mark.e2e
def test_local_ray_listens_on_loopback_only(tmp_path: Path) -> None:
    """No process of local mode listens on an address that another machine reaches, also while workers train. The workers keep
    freed memory, and have no runtime environment of their own. Their node says what it runs. The lines that they add are
    printed, each once; a lost line fails no worker. Ray's folder in /tmp goes with it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MALLOC_"))}
    printed = subprocess.run(
        [sys.executable, "-c", LISTENERS, str(tmp_path)],
        cwd=HOME,
        env=environment | {"PYTHONPATH": str(HOME)},
        text=True,
        capture_output=True,
        check=True,
    ).stdout
    difference, *lines = printed.splitlines()
    assert f"The node 127.0.0.1 has torch {installed()['torch']} in place of 1.0. Start all nodes from" in difference
    of_a_worker, addresses = map(json.loads, lines[:2])
    assert of_a_worker.items() >= KEEPS_MEMORY.items()
    assert len(addresses) >= 4  # Ray's servers, its agent, the driver, a worker
    for rank in range(2):
        workers, of_training, own_environment = json.loads((tmp_path / f"{rank}.json").read_text())
        assert workers == 2
        assert own_environment == {}  # with one, it could not use a waiting process of Ray
        assert of_training  # gloo's
        addresses += of_training
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}
    assert sorted(lines[2:-1]) == ["  epoch of worker 0", "  epoch of worker 1"]
    assert lines[-1] == "session False"


@pytest.mark.parametrize(
    ("address", "started"), [(None, ["begins", "meanwhile", "ends"]), ("head:6379", ["meanwhile"])]
)
def test_only_a_local_ray_starts_ahead(
    monkeypatch: pytest.MonkeyPatch, address: str | None, started: list[str]
) -> None:
    """A local Ray starts ahead, and lasts as long as its block. A cluster is joined when it is needed."""
    told: list[str] = []

    @contextmanager
    def start_ray(_: RunConfig) -> Iterator[None]:
        told.append("begins")
        yield
        told.append("ends")

    monkeypatch.setattr(ray_cluster, "start_ray", start_ray)
    document = {"name": "x", "output_dir": "out", "input": {"simulate": {}}, "ray": {"address": address}}
    with ExitStack() as block, ray_ahead(RunConfig.model_validate(document), block):
        told.append("meanwhile")
    assert told == started


@pytest.mark.parametrize(("address", "seconds"), [(None, None), ("auto", "3600")])
def test_training_waits_for_the_nodes_of_a_cluster_that_grows(
    monkeypatch: pytest.MonkeyPatch, address: str | None, seconds: str | None
) -> None:
    """An autoscaler or a queue needs longer than Ray's minute to bring a GPU node. A local Ray does not grow."""
    name, found = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", list[str | None]()

    def init(*_: object) -> None:
        found.append(os.environ.get(name))
        raise DistilrecError("no Ray in this test")

    monkeypatch.setattr(ray_cluster, "_init", init)
    document = {"name": "x", "output_dir": "out", "input": {"simulate": {}}, "ray": {"address": address}}
    with patch.dict(os.environ):
        os.environ.pop(name, None)
        with pytest.raises(DistilrecError, match="no Ray"), start_ray(RunConfig.model_validate(document)):
            pass
    assert found == [seconds]


@pytest.mark.parametrize(
    ("files", "own", "readers"), [(1, None, "1"), (25, None, "3"), (5_000, None, "32"), (1, "4", "4")]
)
def test_few_files_are_read_by_few_processes(
    monkeypatch: pytest.MonkeyPatch, files: int, own: str | None, readers: str
) -> None:
    """Ray gets one footer reader for each batch of files. A number in the environment wins."""
    import ray.data

    name = "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS"
    monkeypatch.delenv(name, raising=False)
    if own:
        monkeypatch.setenv(name, own)
    monkeypatch.setattr(ray.data, "read_parquet", lambda paths: (os.environ[name], len(paths)))
    config = RunConfig.model_validate({"name": "x", "output_dir": "out", "input": {"simulate": {}}})
    assert read_parquet(config, [f"{number}.parquet" for number in range(files)]) == (readers, files)
    assert os.environ.get(name) == own


def test_a_local_ray_without_room_for_the_workers_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray would wait for ever. Reading needs a CPU of its own. A cluster at an address may grow, so it is not checked."""
    import ray

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    document = {"name": "x", "output_dir": str(tmp_path), "input": {"simulate": {}}}
    local = RunConfig.model_validate(document)
    check_room(local, "training.workers", 6, cpus=0.5)
    with pytest.raises(
        ConfigError, match=r"training.workers is 8, 0.5 CPU each, and reading needs one more, .* has 4. Lower"
    ):
        check_room(local, "training.workers", 8, cpus=0.5)
    with pytest.raises(ConfigError, match=r"recommend.actors is 4, 1 CPU each"):
        check_room(local, "recommend.actors", 4)
    with pytest.raises(ConfigError, match=r"is 1, 1 GPU each, but the local Ray has 0. Lower .* training.gpus_per"):
        check_room(local, "training.workers", 1, cpus=0.5, gpus=1)
    check_room(RunConfig.model_validate(document | {"ray": {"address": "auto"}}), "training.workers", 8)


def test_a_local_ray_that_has_died_is_no_wrong_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without its raylet Ray has no CPU. A scheduler tries again after status 75, and not after a wrong config."""
    import ray

    monkeypatch.setattr(ray, "cluster_resources", dict)
    local = RunConfig.model_validate({"name": "x", "output_dir": str(tmp_path), "input": {"simulate": {}}})
    with pytest.raises(UnreachableError, match=r"its raylet has died.* Start the same command again") as caught:
        check_room(local, "training.workers", 1, cpus=0.5)
    assert caught.value.exit_status == 75
