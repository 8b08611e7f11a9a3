"""Check that the nodes of a Ray cluster run the driver's code."""

import platform
import socket
from collections.abc import Mapping
from importlib.metadata import version

from jobs.runtime.code import source_version
from kdlib.errors import DistilrecError

ANSWER_SECONDS = 120.0
"""How long to wait for the nodes. A node that does not answer is not judged: it may be starting, or gone."""


def installed() -> dict[str, str]:
    """What this process runs: the hash of distilrec's code, and the versions of Python, torch and Ray.

    The build of torch does not count: the nodes without a GPU have another one.
    """
    return {
        "distilrec": source_version(),
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "torch": version("torch").partition("+")[0],
        "Ray": version("ray"),
    }


def check_nodes(expected: Mapping[str, str]) -> None:
    """Check all nodes that are alive; Ray must run.

    Args:
      expected: `installed()` of the driver.

    Raises:
      DistilrecError: a node runs something else, or cannot import distilrec.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task, asked = ray.remote(num_cpus=0, max_retries=0)(installed), {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[task.options(scheduling_strategy=there).remote()] = node["NodeManagerAddress"]
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
    found: dict[str, Mapping[str, str] | str] = {}
    for answer in answered:
        try:
            found[asked[answer]] = ray.get(answer)
        except RayTaskError as error:
            found[asked[answer]] = str(error).strip().splitlines()[-1]
        except RayError:  # the node has died meanwhile
            continue
    if faults := differences(expected, found):
        raise DistilrecError(faults)


def check_here(expected: Mapping[str, str]) -> None:
    """Check the node of this process, for a worker on a node that has joined since `check_nodes`.

    Raises:
      DistilrecError: this node runs something else.
    """
    if faults := differences(expected, {socket.gethostname(): installed()}):
        raise DistilrecError(faults)


def differences(expected: Mapping[str, str], found: Mapping[str, Mapping[str, str] | str]) -> str:
    """What is wrong with the nodes, in one sentence a node, and what to do. Empty: nothing.

    Args:
      expected: `installed()` of the driver.
      found: node → its `installed()`, or the reason why it has none.
    """
    faults = []
    for node, there in sorted(found.items()):
        if isinstance(there, str):
            faults.append(f"The node {node} cannot run distilrec ({there}).")
        elif unlike := [name for name, value in expected.items() if there.get(name) != value]:
            pairs = [f"{name} {there.get(name)} in place of {expected[name]}" for name in unlike]
            faults.append(f"The node {node} has {', '.join(pairs)}.")
    if not faults:
        return ""
    return " ".join(
        [
            "the nodes of the Ray cluster do not run what the driver runs.",
            *faults,
            "Start all nodes from images of the same build, named by digest. `distilrec submit` without --image-code sends"
            " distilrec's code along",
        ]
    )
