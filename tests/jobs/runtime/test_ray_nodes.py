"""What the nodes of a cluster run is compared with what the driver runs. `test_ray_cluster.py` asks a real node."""

import pytest

from jobs.runtime import ray_nodes
from jobs.runtime.ray_nodes import check_here, differences, installed
from kdlib.errors import DistilrecError

DRIVER = {"distilrec": "a1", "Python": "3.12", "torch": "2.13.0", "Ray": "2.60.0"}


def test_nodes_that_run_the_driver_s_code_are_no_fault() -> None:
    """All nodes agree, or no node has answered."""
    assert differences(DRIVER, {"10.0.0.1": DRIVER, "10.0.0.2": dict(DRIVER)}) == ""
    assert differences(DRIVER, {}) == ""


def test_a_difference_names_the_node_and_what_to_do() -> None:
    """Each node at fault has a sentence: what it has in place of what, or why it cannot run distilrec."""
    found = {
        "10.0.0.3": "ModuleNotFoundError: No module named 'jobs'",
        "10.0.0.2": DRIVER | {"distilrec": "b2", "torch": "2.11.0"},
        "10.0.0.1": DRIVER,
    }
    assert differences(DRIVER, found) == (
        "the nodes of the Ray cluster do not run what the driver runs. The node 10.0.0.2 has distilrec b2 in place of a1,"
        " torch 2.11.0 in place of 2.13.0. The node 10.0.0.3 cannot run distilrec (ModuleNotFoundError: No module named"
        " 'jobs'). Start all nodes from images of the same build, named by digest. `distilrec submit` without"
        " --image-code sends distilrec's code along"
    )


def test_the_build_of_torch_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The image for CPUs has torch's build for CPUs, the image for GPUs the one for CUDA."""
    found = []
    for build in ("2.13.0+cpu", "2.13.0+cu130", "2.13.0"):
        monkeypatch.setattr(ray_nodes, "version", lambda _, build=build: build)
        found.append(installed()["torch"])
    assert found == ["2.13.0"] * 3


def test_a_worker_on_a_node_with_other_code_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that joined after the start of the run is checked where a training worker begins."""
    driver = installed()
    check_here(driver)
    monkeypatch.setattr(ray_nodes, "source_version", lambda: "other")
    with pytest.raises(DistilrecError, match=rf"has distilrec other in place of {driver['distilrec']}\. Start all"):
        check_here(driver)
