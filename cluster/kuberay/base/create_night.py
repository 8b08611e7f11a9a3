"""Create the RayJobs of a day: one for each run config in a folder.

A RayJob is night.yaml with a name, a command line and the nodes of the RayCluster `distilrec`. The script runs in the
CronJob's pod, which may read this RayCluster, and create and read RayJobs. Run and date are in the RayJob's name, so no
run is created twice.
"""

import argparse
import copy
import hashlib
import json
import os
import shlex
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from kdlib.config.load import load_config
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError, DistilrecError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MOST_LETTERS = 47
"""KubeRay refuses a RayJob with a longer name."""
SUSPEND = "suspend"
RAY_LOGS = "DISTILREC_RAY_LOGS"
CREATED_AS = "distilrec/created-as"
"""Annotation: hash of what a RayJob was created with. It tells our RayJob from another one of the same name."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
ELASTIC = "kueue.x-k8s.io/elastic-job"
"""Annotation: Kueue admits the head first, and later each node that the autoscaler asks for."""


def night(
    template: dict[str, Any], cluster: dict[str, Any], config: RunConfig, path: Path, *, queue: str
) -> dict[str, Any]:
    """The RayJob of a run. It starts with a head alone: no GPU is held while Spark builds the features.

    Args:
      template: night.yaml.
      cluster: the RayCluster whose nodes the run gets.
      config: the run config, with the run's day.
      path: the run config's file on the head.
      queue: a Kueue LocalQueue, which starts nodes when there is room; empty: nodes start at once.

    Raises:
      ConfigError: the run config's name is too long, or its output_dir is neither a folder of the lake nor of a store.
    """
    name = f"distilrec-{config.name.replace('_', '-')}-{config.day}"
    if len(name) > MOST_LETTERS:
        most = MOST_LETTERS - len(name) + len(config.name)
        raise ConfigError(
            f"{path}: name is {config.name}, {len(config.name)} letters. On Kubernetes it has at most {most}, because it"
            f" is part of the RayJob's name, {name}. Shorten the name"
        )
    output = os.path.expandvars(config.output_dir)
    if "$" in output or not (config.store or output.startswith("/")):
        raise ConfigError(
            f"{path}: output_dir is {config.output_dir}. It must be an absolute path on the lake, such as"
            " ${DISTILREC_LAKE}/distilrec, or a folder of an object store, such as s3://bucket/distilrec"
        )
    spec = copy.deepcopy(template["spec"])
    nodes = {key: value for key, value in copy.deepcopy(cluster["spec"]).items() if key != SUSPEND}
    nodes["workerGroupSpecs"] = [_fresh(group) for group in nodes["workerGroupSpecs"]]
    for group in (nodes["headGroupSpec"], *nodes["workerGroupSpecs"]):
        if not config.store:
            _set(group["template"]["spec"]["containers"][0], RAY_LOGS, f"{output}/logs/ds={config.day}/ray")
    spec["rayClusterSpec"] = nodes
    image = nodes["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
    spec["submitterPodTemplate"]["spec"]["containers"][0]["image"] = image
    spec["jobId"] = f"distilrec-{config.name}-nightly-{config.day}"
    spec["entrypoint"] = shlex.join(["python", "-m", "jobs", "nightly", "--config", str(path), "--ds", config.day])
    spec[SUSPEND] = bool(queue)
    labels = template["metadata"]["labels"] | {"distilrec/run": config.name, "distilrec/ds": config.day}
    metadata: dict[str, Any] = {"name": name, "labels": labels, "annotations": {}}
    if queue:
        metadata["labels"][QUEUE_LABEL] = queue
        metadata["annotations"][ELASTIC] = "true"
    job = template | {"metadata": metadata, "spec": spec}
    metadata["annotations"][CREATED_AS] = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:16]
    return job


def _fresh(group: dict[str, Any]) -> dict[str, Any]:
    """The worker group at its least size, without what an autoscaler has asked for."""
    return {k: v for k, v in group.items() if k != "scaleStrategy"} | {"replicas": group.get("minReplicas", 0)}


def _set(container: dict[str, Any], variable: str, value: str) -> None:
    """Set an environment variable of a container."""
    others = [one for one in container.get("env", []) if one["name"] != variable]
    container["env"] = [*others, {"name": variable, "value": value}]


def create(job: dict[str, Any]) -> str:
    """Create a RayJob, unless it exists; returns what was done.

    Raises:
      DistilrecError: a RayJob of this name is another run.
    """
    name = job["metadata"]["name"]
    try:
        # Strict: otherwise an old KubeRay silently drops fields that it does not know
        call("POST", "rayjobs?fieldValidation=Strict", job)
    except urllib.error.HTTPError as error:
        if error.code != 409:
            raise
        there = call("GET", f"rayjobs/{name}")["metadata"].get("annotations", {}).get(CREATED_AS)
        if there != job["metadata"]["annotations"][CREATED_AS]:
            raise DistilrecError(
                f"{name} exists, but is another run: its nodes, its run config's file or its output_dir are not those of"
                " today's schedule. Give each run config a name of its own. To replace the RayJob, delete it first:"
                f" kubectl delete rayjob {name}"
            ) from None
        return f"{name} exists already: nothing to do"
    return f"created {name}: {job['spec']['entrypoint']}"


def call(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Call the Kubernetes API for Ray objects of this namespace, with the pod's service account."""
    server = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT_HTTPS']}"
    namespace = (ACCOUNT / "namespace").read_text().strip()
    request = urllib.request.Request(
        f"{server}/apis/ray.io/v1/namespaces/{namespace}/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "Authorization": f"Bearer {(ACCOUNT / 'token').read_text().strip()}",
            "Content-Type": "application/json",
        },
    )
    trusted = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    with urllib.request.urlopen(request, timeout=30, context=trusted) as answer:
        return json.load(answer)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ds", required=True, help="the runs' day, YYYY-MM-DD")
    parser.add_argument("--runs", required=True, type=Path, help="folder of the run configs, *.yaml")
    options = parser.parse_args()
    template = yaml.safe_load(Path(__file__).with_name("night.yaml").read_text())
    queue, status = os.environ.get("QUEUE", ""), 0
    paths = sorted(options.runs.glob("*.yaml"))
    if not paths:
        print(f"no run config in {options.runs}: the ConfigMap distilrec-runs needs one NAME.yaml", file=sys.stderr)
        return 2
    for path in paths:  # a fault of one shop does not keep the others from running
        try:
            config = load_config(path, ds=options.ds, expand=False)
            print(create(night(template, call("GET", "rayclusters/distilrec"), config, path, queue=queue)))
        except DistilrecError as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            status = 2
        except urllib.error.HTTPError as error:
            said = error.read().decode()[:500]
            print(f"{path.name}: no RayJob created: Kubernetes answers {error.code}: {said}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
