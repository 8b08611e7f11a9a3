"""Create the RayJob of one run: night.yaml with a name, a command line and the nodes of the RayCluster `distilrec`.

It runs in the CronJob's pod, which may only read this RayCluster and create RayJobs. The date is in the RayJob's name:
if the RayJob exists, nothing happens. Needs only PyYAML.
"""

import argparse
import copy
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

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SUSPEND = "suspend"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


def night(
    template: dict[str, Any], cluster: dict[str, Any], *, ds: str, run: str, options: str, queue: str
) -> dict[str, Any]:
    """The RayJob of a run.

    Args:
      template: night.yaml.
      cluster: the RayCluster whose nodes the run gets.
      ds: the run's day, YYYY-MM-DD.
      run: the run config's name, for the submission id that `distilrec status` looks for.
      options: of the command line, as `--config … --set …`.
      queue: a Kueue LocalQueue, which starts the run when there is room; empty: the run starts at once.
    """
    spec = dict(template["spec"])
    nodes = {key: value for key, value in cluster["spec"].items() if key != SUSPEND}
    if queue or nodes.get("enableInTreeAutoscaling"):
        nodes["workerGroupSpecs"] = [_fresh(group, whole=bool(queue)) for group in nodes["workerGroupSpecs"]]
    if queue:  # Kueue gives a run all its nodes at once and refuses clusters that grow
        nodes["enableInTreeAutoscaling"] = False
        nodes.pop("autoscalerOptions", None)
        nodes["headGroupSpec"] = _without_token(nodes["headGroupSpec"], nodes["workerGroupSpecs"])
    spec["rayClusterSpec"] = nodes
    image = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
    submitter = spec["submitterPodTemplate"]["spec"]["containers"][0]
    spec["submitterPodTemplate"]["spec"]["containers"] = [submitter | {"image": image}]
    spec["jobId"] = f"distilrec-{run}-nightly-{ds}"
    spec["entrypoint"] = shlex.join(["python", "-m", "jobs", "nightly", "--ds", ds, *shlex.split(options)])
    spec[SUSPEND] = bool(queue)
    labels = template["metadata"]["labels"] | {"distilrec/ds": ds} | ({QUEUE_LABEL: queue} if queue else {})
    return template | {"metadata": {"name": f"distilrec-{ds}", "labels": labels}, "spec": spec}


def _fresh(group: dict[str, Any], *, whole: bool) -> dict[str, Any]:
    """The worker group at its least size (`whole`: at its full size), without an autoscaler's requests."""
    size = group["maxReplicas"] if whole else group.get("minReplicas", 0)
    return {k: v for k, v in group.items() if k != "scaleStrategy"} | {"replicas": size, "minReplicas": size}


def _without_token(head: dict[str, Any], workers: list[dict[str, Any]]) -> dict[str, Any]:
    """The head with the workers' account: KubeRay makes an account for a head only if it has an autoscaler."""
    head = copy.deepcopy(head)
    accounts = [group["template"]["spec"].get("serviceAccountName") for group in workers]
    head["template"]["spec"] |= {"automountServiceAccountToken": False} | (
        {"serviceAccountName": accounts[0]} if any(accounts) else {}
    )
    return head


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
    parser.add_argument("--ds", required=True, help="the run's day, YYYY-MM-DD")
    ds = parser.parse_args().ds
    template = yaml.safe_load(Path(__file__).with_name("night.yaml").read_text())
    try:
        job = night(
            template,
            call("GET", "rayclusters/distilrec"),
            ds=ds,
            run=os.environ["RUN"],
            options=os.environ["OPTIONS"],
            queue=os.environ.get("QUEUE", ""),
        )
        # Strict: otherwise an old KubeRay silently drops fields that it does not know
        call("POST", "rayjobs?fieldValidation=Strict", job)
    except urllib.error.HTTPError as error:
        if error.code == 409:
            print(f"distilrec-{ds} exists already: nothing to do")
            return 0
        print(
            f"cannot create distilrec-{ds}: Kubernetes answers {error.code}: {error.read().decode()[:500]}",
            file=sys.stderr,
        )
        return 1
    print(f"created distilrec-{ds}: {job['spec']['entrypoint']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
