"""The Kubernetes manifests: all references exist, no pod has more rights than it needs, every pod has limits."""

import copy
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from jobs.runtime.ray_jobs import SUBMISSION
from kdlib.config.load import load_config

CLUSTER = Path(__file__).parents[2] / "cluster"
KUBERAY = CLUSTER / "kuberay"
BASE, SPARK = KUBERAY / "base", CLUSTER / "spark" / "features.yaml"
FILES = sorted(path for folder in ("kuberay", "spark") for path in (CLUSTER / folder).rglob("*.yaml"))
OWN_IMAGES = {"distilrec-cpu", "distilrec-cuda"}
"""Names that the overlays replace by a registry's; nothing else may be in the base."""

OPERATORS = {"RayCluster", "RayJob", "SparkApplication"}


def _documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def _objects() -> list[dict[str, Any]]:
    """All objects of the base, the run's RayJob and the Spark application."""
    names = _documents(BASE / "kustomization.yaml")[0]["resources"]
    files = [BASE / name for name in names] + [BASE / "night.yaml", SPARK]
    return [document for file in files for document in _documents(file)]


def _pods(node: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod template at any depth, with its labels beside its spec."""
    if isinstance(node, dict):
        if "containers" in node.get("spec", {}):
            yield where, node
        for key, value in node.items():
            yield from _pods(value, f"{where}.{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _pods(value, f"{where}[{number}]")


PODS = [(f"{document['kind']}{where}", pod) for document in _objects() for where, pod in _pods(document)]
CORE = [o for o in _objects() if o["kind"] not in OPERATORS] + [
    {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": where.lower()}, "template": pod}
    for where, pod in PODS
    if where.startswith(tuple(OPERATORS))
]


def _object(kind: str, name: str | None = None) -> dict[str, Any]:
    return next(o for o in _objects() if o["kind"] == kind and name in (None, o["metadata"].get("name")))


def _create_night() -> Any:
    spec = importlib.util.spec_from_file_location("create_night", BASE / "create_night.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(CLUSTER)) for path in FILES])
def test_every_manifest_is_yaml(path: Path) -> None:
    """Each file parses.

    Every Kubernetes object has a version, a kind and a name, except the nameless RayJob of a run.
    """
    for document in _documents(path):
        if isinstance(document, dict) and path.name not in ("kustomization.yaml", "night.yaml"):
            assert document["apiVersion"]
            assert document["kind"]
            assert document["metadata"]["name"]


@pytest.mark.parametrize("thing", CORE, ids=[f"{o['kind']} {o['metadata']['name']}" for o in CORE])
def test_kubernetes_own_objects_fit_their_schemas(thing: dict[str, Any]) -> None:
    """No unknown field, no missing field, every type right. Of the operators' objects the pods are checked."""
    kubernetes_validate.validate(thing, kubernetes_validate.latest_version(), strict=True)


def test_there_is_a_pod_of_every_part() -> None:
    """Head, CPU and GPU workers, submitter, scheduler and shell are found, so the tests below check something."""
    parts = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for _, pod in PODS}
    assert parts == {"head", "cpu", "gpu", "submitter", "scheduler", "shell"}


@pytest.mark.parametrize(("where", "pod"), PODS, ids=[where for where, _ in PODS])
def test_a_pod_is_confined(where: str, pod: dict[str, Any]) -> None:
    """No root, no writable root file system, no new privileges, no capabilities. CPU and memory are limited."""
    spec = pod["spec"]
    assert pod["metadata"]["labels"]["app.kubernetes.io/name"] == "distilrec", where
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    volumes = {volume["name"] for volume in spec["volumes"]}
    for container in spec["containers"]:
        assert container["image"] in OWN_IMAGES
        rights = container["securityContext"]
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_spark_s_pods_are_confined_in_the_same_way() -> None:
    """Driver and executors of the Spark application are confined, and the volumes that they mount are declared."""
    spec = _object("SparkApplication")["spec"]
    volumes = {volume["name"] for volume in spec["volumes"]}
    for part in ("driver", "executor"):
        assert spec[part]["podSecurityContext"]["runAsNonRoot"] is True
        assert spec[part]["securityContext"]["readOnlyRootFilesystem"] is True
        assert spec[part]["securityContext"]["allowPrivilegeEscalation"] is False
        assert spec[part]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert spec[part]["cores"]
        assert spec[part]["memory"]
        assert {mount["name"] for mount in spec[part]["volumeMounts"]} <= volumes
        assert _object("ServiceAccount", spec[part]["serviceAccount"])
    bound = {subject["name"] for o in _objects() if o["kind"] == "RoleBinding" for subject in o["subjects"]}
    assert [spec[part]["serviceAccount"] in bound for part in ("driver", "executor")] == [True, False]


def test_only_those_that_ask_kubernetes_have_its_token() -> None:
    """The scheduler mounts its account's token. Workers and submitters do not. KubeRay decides for the head."""
    tokens = {
        pod["metadata"]["labels"]["app.kubernetes.io/component"]: pod["spec"].get("automountServiceAccountToken")
        for _, pod in PODS
    }
    assert tokens == {"head": None, "cpu": False, "gpu": False, "submitter": False, "scheduler": True, "shell": False}


def test_what_is_referred_to_exists() -> None:
    """Service accounts, claims, config maps and roles that pods and bindings name exist, or kustomize makes them."""
    made = {(o["kind"], o["metadata"].get("name")) for o in _objects()}
    maps = {generated["name"] for generated in _documents(BASE / "kustomization.yaml")[0]["configMapGenerator"]}
    for _, pod in PODS:
        if account := pod["spec"].get("serviceAccountName"):
            assert ("ServiceAccount", account) in made
        for volume in pod["spec"]["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", claim["claimName"]) in made
            if config_map := volume.get("configMap"):
                assert config_map["name"] in maps
    for binding in (o for o in _objects() if o["kind"] == "RoleBinding"):
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in made
        assert all((subject["kind"], subject["name"]) in made for subject in binding["subjects"])
    assert ("RayCluster", _object("Role", "distilrec-scheduler")["rules"][0]["resourceNames"][0]) in made


def test_no_role_may_do_everything() -> None:
    """No verb, resource or API group is a star. The scheduler may read one cluster and create jobs."""
    for role in (o for o in _objects() if o["kind"] == "Role"):
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
    assert [rule["verbs"] for rule in _object("Role", "distilrec-scheduler")["rules"]] == [["get"], ["create"]]


def test_the_network_policy_covers_every_pod() -> None:
    """The policy's selector matches a label of each pod, and every ingress rule names its sources."""
    spec = _object("NetworkPolicy")["spec"]
    selected = spec["podSelector"]["matchLabels"]
    assert all(selected.items() <= pod["metadata"]["labels"].items() for _, pod in PODS)
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert all(rule["from"] for rule in spec["ingress"])


def test_token_authentication_is_on_and_nothing_waits_for_ever() -> None:
    """The cluster wants a token. Deadlines, retries and clean-up of run, schedule and Spark are set and finite."""
    assert _object("RayCluster")["spec"]["authOptions"] == {"mode": "token"}
    night = _object("RayJob")["spec"]
    assert night["shutdownAfterJobFinishes"] is True
    assert 0 < night["activeDeadlineSeconds"] <= 86_400
    assert night["ttlSecondsAfterFinished"] > 0
    assert night["backoffLimit"] >= 0
    schedule = _object("CronJob")["spec"]
    assert schedule["concurrencyPolicy"] == "Forbid"
    assert schedule["timeZone"] == "Etc/UTC"
    assert {"backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"} <= set(schedule["jobTemplate"]["spec"])
    assert _object("SparkApplication")["spec"]["timeToLiveSeconds"] > 0


def test_ray_and_its_nodes_are_left_to_kuberay_s_probes() -> None:
    """No Ray container has a probe of its own: KubeRay's probes know heads from workers and need no token."""
    for _, pod in PODS:
        assert not any(key.endswith("Probe") for container in pod["spec"]["containers"] for key in container)


def test_the_autoscaler_is_the_one_that_kuberay_reckons_with() -> None:
    """Ray uses autoscaler v2 by default. KubeRay must be told, because it must not restart containers then."""
    assert _object("RayCluster")["spec"]["autoscalerOptions"]["version"] == "v2"


def test_the_ray_versions_agree() -> None:
    """`rayVersion` and `sparkVersion` are the versions in the image."""
    constraints = (CLUSTER / "docker" / "constraints.txt").read_text()
    found = re.search(r"^ray==(.+)$", constraints, re.MULTILINE)
    assert found is not None
    assert _object("RayCluster")["spec"]["rayVersion"] == found[1]
    spark = re.search(r"^pyspark==(.+)$", constraints, re.MULTILINE)
    assert spark is not None
    assert _object("SparkApplication")["spec"]["sparkVersion"] == spark[1]
    assert f"ARG SPARK={spark[1]}\n" in (CLUSTER / "docker" / "Dockerfile").read_text()


@pytest.mark.parametrize("overlay", ["test", "production"])
def test_an_overlay_names_a_version_for_every_image(overlay: str) -> None:
    """Each image of the base gets a registry's name with a tag. The overlay makes the namespace that it uses."""
    kustomization = _documents(KUBERAY / "overlays" / overlay / "kustomization.yaml")[0]
    assert {image["name"] for image in kustomization["images"]} == OWN_IMAGES
    assert all(image["newTag"] not in ("", "latest") for image in kustomization["images"])
    namespace = _documents(KUBERAY / "overlays" / overlay / "namespace.yaml")[0]["metadata"]
    assert namespace["name"] == kustomization["namespace"]
    assert namespace["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for resource in kustomization["resources"]:
        assert (KUBERAY / "overlays" / overlay / resource).exists()


@pytest.mark.parametrize("queue", ["", "shop"])
def test_a_night_is_the_cluster_s_description_and_the_day_s_command(queue: str) -> None:
    """The RayJob has the date in name and command, an id that `distilrec status` knows, and the head's image.

    A queue starts it.
    """
    cluster = _object("RayCluster")
    before = copy.deepcopy(cluster)
    woken = {"replicas": 3, "scaleStrategy": {"workersToDelete": ["distilrec-cpu-worker-x"]}}  # an autoscaler at work
    cluster["spec"]["workerGroupSpecs"][0] |= woken
    job = _create_night().night(
        _object("RayJob"),
        cluster,
        ds="2026-11-22",
        run="multi_node",
        options="--config run.yaml --set a.b='x y'",
        queue=queue,
    )
    assert job["metadata"]["name"] == "distilrec-2026-11-22"
    assert job["spec"]["entrypoint"] == "python -m jobs nightly --ds 2026-11-22 --config run.yaml --set 'a.b=x y'"
    found = SUBMISSION.fullmatch(job["spec"]["jobId"])
    assert found is not None
    assert found["ds"] == "2026-11-22"
    assert "suspend" not in job["spec"]["rayClusterSpec"]
    groups, made = before["spec"]["workerGroupSpecs"], job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert cluster["spec"]["headGroupSpec"] == before["spec"]["headGroupSpec"]
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    sizes = [(group["minReplicas"], group["replicas"], group["maxReplicas"]) for group in made]
    if queue:  # Kueue takes no cluster that grows: all its nodes at once
        assert sizes == [(group["maxReplicas"],) * 3 for group in groups]
        assert not any("scaleStrategy" in group for group in made)
        assert (head["serviceAccountName"], head["automountServiceAccountToken"]) == ("distilrec-worker", False)
        assert job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is False
        assert "autoscalerOptions" not in job["spec"]["rayClusterSpec"]
    else:
        assert made == groups
        assert "serviceAccountName" not in head  # KubeRay makes one that may scale the cluster, and none other
    assert job["spec"]["submitterPodTemplate"]["spec"]["containers"][0]["image"] == "distilrec-cpu"
    assert job["spec"]["suspend"] is bool(queue)
    assert job["metadata"]["labels"].get("kueue.x-k8s.io/queue-name", "") == queue


def test_the_scheduled_command_lines_name_run_configs_that_ship(monkeypatch: pytest.MonkeyPatch) -> None:
    """Schedule, overlay and Spark application name files of `cluster/runs`. The name of the run is the file's."""
    monkeypatch.setenv("DISTILREC_LAKE", "/lake")
    production = _documents(KUBERAY / "overlays" / "production" / "schedule.yaml")[0]
    for schedule in (_object("CronJob"), production):
        container = schedule["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
        values = {variable["name"]: variable["value"] for variable in container["env"]}
        words = values["OPTIONS"].split()
        path = CLUSTER.parent / words[words.index("--config") + 1]
        config = load_config(
            path, overrides=tuple(w for w, flag in zip(words[1:], words, strict=False) if flag == "--set")
        )
        assert config.name == values["RUN"]
        assert config.root.is_relative_to("/lake")
    config = _object("SparkApplication")["spec"]["arguments"][0].removeprefix("--config=/opt/distilrec/")
    assert (CLUSTER.parent / config).exists()


def test_the_schedule_can_create_a_night_that_exists(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A RayJob of that name is left alone: nothing starts twice, and the schedule does not fail."""
    import io
    import urllib.error

    module = _create_night()
    created: list[dict[str, Any]] = []

    def answer(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        if method == "GET":
            return _object("RayCluster")
        assert path == "rayjobs?fieldValidation=Strict"
        assert body is not None
        if created:
            raise urllib.error.HTTPError("", 409, "Conflict", {}, io.BytesIO(b"exists"))  # type: ignore[arg-type]
        created.append(body)
        return body

    monkeypatch.setattr(module, "call", answer)
    monkeypatch.setattr(sys, "argv", ["create_night.py", "--ds", "2026-11-22"])
    monkeypatch.setenv("RUN", "laptop")
    monkeypatch.setenv("OPTIONS", "--config cluster/runs/laptop.yaml")
    assert [module.main(), module.main()] == [0, 0]
    assert "exists already" in capsys.readouterr().out
    assert len(created) == 1
