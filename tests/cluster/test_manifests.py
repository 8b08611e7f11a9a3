"""The Kubernetes manifests: all references exist, no pod has more rights than it needs, every pod has limits."""

import copy
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from jobs.runtime.ray_jobs import SUBMISSION
from kdlib.config.load import load_config, read_mapping
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError

CLUSTER = Path(__file__).parents[2] / "cluster"
KUBERAY = CLUSTER / "kuberay"
BASE, SPARK = KUBERAY / "base", CLUSTER / "spark" / "features.yaml"
OVERLAYS = KUBERAY / "overlays"
RUNS = sorted(OVERLAYS.glob("*/runs/*.yaml"))
FILES = sorted({path for folder in ("kuberay", "spark") for path in (CLUSTER / folder).rglob("*.yaml")} - set(RUNS))
OWN_IMAGES = {"distilrec-cpu", "distilrec-cuda"}
IMAGES = OWN_IMAGES | {"node-exporter"}
"""Names that the overlays replace by a registry's; nothing else may be in the base."""

OPERATORS = {"RayCluster", "RayJob", "RayCronJob", "SparkApplication"}
OF_A_RUN = {"head", "cpu", "gpu", "submitter"}


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


def _core(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Kubernetes' own objects, and the pods of the operators' objects."""
    return [o for o in objects if o["kind"] not in OPERATORS] + [
        {
            "apiVersion": "v1",
            "kind": "PodTemplate",
            "metadata": {"name": f"{o['kind']}{where}".lower()},
            "template": pod,
        }
        for o in objects
        if o["kind"] in OPERATORS
        for where, pod in _pods(o)
    ]


CORE = _core(_objects())


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
    """The pods of a run, scheduler, metrics and shell are found, so the tests below check something."""
    parts = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for _, pod in PODS}
    assert parts == OF_A_RUN | {"scheduler", "metrics", "shell"}


@pytest.mark.parametrize(("where", "pod"), PODS, ids=[where for where, _ in PODS])
def test_a_pod_is_confined(where: str, pod: dict[str, Any]) -> None:
    """No root, no writable root file system, no new privileges, no capabilities. CPU, memory and disk are limited."""
    spec = pod["spec"]
    assert pod["metadata"]["labels"]["app.kubernetes.io/name"] == "distilrec", where
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    volumes = {volume["name"] for volume in spec["volumes"]}
    for container in spec["containers"]:
        assert container["image"] in IMAGES
        rights = container["securityContext"]
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"]["limits"])
        assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"]["requests"])
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
    asking = {"head": None, "scheduler": True}
    assert tokens == dict.fromkeys(OF_A_RUN | {"metrics", "shell"}, False) | asking


def test_what_is_referred_to_exists() -> None:
    """Accounts, claims, config maps, priorities and roles that others name exist, or kustomize makes them."""
    made = {(o["kind"], o["metadata"].get("name")) for o in _objects()}
    makers = [BASE, OVERLAYS / "test", OVERLAYS / "production"]
    generated = [_documents(maker / "kustomization.yaml")[0]["configMapGenerator"][0]["name"] for maker in makers]
    maps = set(generated)
    assert generated == ["distilrec-night", "distilrec-runs", "distilrec-runs"]
    for _, pod in PODS:
        if account := pod["spec"].get("serviceAccountName"):
            assert ("ServiceAccount", account) in made
        if priority := pod["spec"].get("priorityClassName"):
            assert ("PriorityClass", priority) in made
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
    """No verb, resource or API group is a star. The scheduler may read one cluster, and create and read jobs."""
    for role in (o for o in _objects() if o["kind"] == "Role"):
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
    assert [rule["verbs"] for rule in _object("Role", "distilrec-scheduler")["rules"]] == [["get"], ["create", "get"]]


def test_the_network_policy_covers_every_pod() -> None:
    """The policy's selector matches a label of each pod, and every ingress rule names its sources."""
    spec = _object("NetworkPolicy")["spec"]
    selected = spec["podSelector"]["matchLabels"]
    assert all(selected.items() <= pod["metadata"]["labels"].items() for _, pod in PODS)
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert all(rule["from"] for rule in spec["ingress"])


def test_pods_reach_name_servers_and_the_servers_that_give_keys() -> None:
    """NodeLocal DNS, the clouds' metadata servers and EKS Pod Identity have addresses of their own on the node."""
    out = {
        (peer["ipBlock"]["cidr"], port["port"])
        for rule in _object("NetworkPolicy")["spec"]["egress"]
        for peer in rule.get("to", ())
        if "ipBlock" in peer
        for port in rule["ports"]
    }
    keys = {("169.254.169.254/32", 80), ("169.254.170.23/32", 80), ("169.254.169.252/32", 988)}
    assert out == {("169.254.20.10/32", 53)} | keys


def test_nothing_evicts_a_pod_of_a_run() -> None:
    """Karpenter, the cluster autoscaler and a drain leave the pods of a run alone, and a run displaces nobody."""
    keep = {"karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    for _, pod in PODS:
        part = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        assert pod["metadata"].get("annotations", {}) == (keep if part in OF_A_RUN else {}), part
        assert (pod["spec"].get("priorityClassName") == "distilrec") == (part in OF_A_RUN | {"scheduler"}), part
    budget = _object("PodDisruptionBudget")["spec"]
    most = sum(group["maxReplicas"] for group in _object("RayCluster")["spec"]["workerGroupSpecs"])
    assert budget["minAvailable"] > 10 * most
    assert set(budget["selector"]["matchExpressions"][0]["values"]) == OF_A_RUN
    assert _object("PriorityClass")["preemptionPolicy"] == "Never"


def test_prometheus_finds_and_reaches_what_serves_the_figures() -> None:
    """The monitor selects the pod and names its port. Prometheus may connect, and runs write where the pod looks."""
    pod = _object("Deployment", "distilrec-metrics")["spec"]["template"]
    [container] = pod["spec"]["containers"]
    monitor = _documents(CLUSTER / "monitoring" / "pod_monitor.yaml")[0]["spec"]
    assert monitor["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    [port] = container["ports"]
    assert monitor["podMetricsEndpoints"] == [{"port": port["name"]}]
    rules = _object("NetworkPolicy")["spec"]["ingress"]
    prometheus = next(one for one in rules if "prometheus" in str(one["from"]))
    assert port["containerPort"] in [one["port"] for one in prometheus["ports"]]
    assert "--collector.textfile.directory=/lake/telemetry" in container["args"]


def test_a_pod_that_ends_leaves_ray_s_logs(tmp_path: Path) -> None:
    """The hook of each Ray pod copies its logs into a folder of its name. It has time for that."""
    logs = tmp_path / "ray" / "session_1" / "logs"
    (logs / "old").mkdir(parents=True)
    (logs / "raylet.out").write_text("it ends")
    (tmp_path / "ray" / "session_latest").symlink_to("session_1")
    for _, pod in PODS:
        part = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        if part in OF_A_RUN - {"submitter"}:
            assert pod["spec"]["terminationGracePeriodSeconds"] >= 60
            *shell, script = pod["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
            environment = os.environ | {"DISTILREC_RAY_LOGS": str(tmp_path / "kept"), "HOSTNAME": part}
            subprocess.run([*shell, script.replace("/tmp/ray", str(tmp_path / "ray"))], env=environment, check=True)
            assert (tmp_path / "kept" / part / "raylet.out").read_text() == "it ends"


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
    """Each image of the base gets a registry's name. In production our own images have digests, which nobody can move."""
    kustomization = _documents(OVERLAYS / overlay / "kustomization.yaml")[0]
    assert {image["name"] for image in kustomization["images"]} == IMAGES
    for image in kustomization["images"]:
        if overlay == "production" and image["name"] in OWN_IMAGES:
            assert re.fullmatch("sha256:[0-9a-f]{64}", image["digest"])
            assert "newTag" not in image
        else:
            assert image["newTag"] not in ("", "latest")
    namespace = _documents(OVERLAYS / overlay / "namespace.yaml")[0]["metadata"]
    assert namespace["name"] == kustomization["namespace"]
    assert namespace["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for resource in kustomization["resources"]:
        assert (OVERLAYS / overlay / resource).exists()


@pytest.mark.skipif(not shutil.which("kustomize"), reason="no kustomize (Debian's package kustomize)")
@pytest.mark.parametrize("overlay", ["test", "production", "raycronjob"])
def test_kustomize_builds_an_overlay(overlay: str) -> None:
    """The built objects fit Kubernetes' schemas. The nodes of KubeRay's own schedule are those of the RayCluster."""
    built = subprocess.run(["kustomize", "build", str(OVERLAYS / overlay)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    objects = list(yaml.safe_load_all(built.stdout))
    for thing in _core(objects):
        kubernetes_validate.validate(thing, kubernetes_validate.latest_version(), strict=True)
    by_kind = {thing["kind"]: thing for thing in objects}
    assert ("CronJob" in by_kind, "RayCronJob" in by_kind) == (overlay != "raycronjob", overlay == "raycronjob")
    if overlay == "raycronjob":
        nodes = by_kind["RayCronJob"]["spec"]["jobTemplate"]["rayClusterSpec"]
        assert nodes | {"suspend": True} == by_kind["RayCluster"]["spec"]
        assert "Role" not in by_kind


def test_the_run_configs_of_the_overlays_are_shipped_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """An overlay's run config has models and engines of a shipped run config, with output and figures on the lake.

    The Spark application names the file of production.
    """
    monkeypatch.setenv("DISTILREC_LAKE", "/lake")
    own = ("name", "ds", "output_dir", "telemetry", "input")
    for overlay, shipped in (("test", "laptop"), ("production", "multi_node")):
        [listed] = _documents(OVERLAYS / overlay / "kustomization.yaml")[0]["configMapGenerator"][0]["files"]
        found, there = read_mapping(OVERLAYS / overlay / listed), read_mapping(CLUSTER / "runs" / f"{shipped}.yaml")
        assert {k: v for k, v in found.items() if k not in own} == {k: v for k, v in there.items() if k not in own}
        config = load_config(OVERLAYS / overlay / listed, ds="2026-11-22")
        assert config.root.is_relative_to("/lake")
        assert config.telemetry is not None
        assert Path(config.telemetry.textfile).parent == Path("/lake/telemetry")  # where metrics.yaml looks
    assert _object("SparkApplication")["spec"]["arguments"][0] == f"--config=/etc/distilrec/{listed}"


def _shop(name: str = "toys", output_dir: str = "${DISTILREC_LAKE}/toys") -> RunConfig:
    document = {"name": name, "ds": "2026-11-22", "output_dir": output_dir, "input": {"simulate": {}}}
    return RunConfig.model_validate(document)


@pytest.mark.parametrize("queue", ["", "shop"])
def test_a_night_is_the_cluster_s_description_and_the_day_s_command(
    monkeypatch: pytest.MonkeyPatch, queue: str
) -> None:
    """The RayJob has run and date in name and command, an id that `distilrec status` knows, and the head's image.

    With or without a queue it starts as a head alone, and grows: no GPU is held while Spark works.
    """
    monkeypatch.setenv("DISTILREC_LAKE", "/lake")
    cluster, template = _object("RayCluster"), _object("RayJob")
    woken = {"replicas": 3, "scaleStrategy": {"workersToDelete": ["distilrec-cpu-worker-x"]}}  # an autoscaler at work
    cluster["spec"]["workerGroupSpecs"][0] |= woken
    before = copy.deepcopy((cluster, template))
    job = _create_night().night(template, cluster, _shop("toy_shop"), Path("/etc/toys.yaml"), queue=queue)
    assert (cluster, template) == before
    assert job["metadata"]["name"] == "distilrec-toy-shop-2026-11-22"
    assert job["spec"]["entrypoint"] == "python -m jobs nightly --config /etc/toys.yaml --ds 2026-11-22"
    found = SUBMISSION.fullmatch(job["spec"]["jobId"])
    assert found is not None
    assert (found["name"], found["ds"]) == ("toy_shop", "2026-11-22")
    nodes = job["spec"]["rayClusterSpec"]
    assert "suspend" not in nodes
    assert nodes["enableInTreeAutoscaling"] is True
    assert [(group["minReplicas"], group["replicas"]) for group in nodes["workerGroupSpecs"]] == [(0, 0), (0, 0)]
    assert not any("scaleStrategy" in group for group in nodes["workerGroupSpecs"])
    for group in (nodes["headGroupSpec"], *nodes["workerGroupSpecs"]):
        variables = {one["name"]: one["value"] for one in group["template"]["spec"]["containers"][0]["env"]}
        assert variables["DISTILREC_RAY_LOGS"] == "/lake/toys/logs/ds=2026-11-22/ray"
    assert job["spec"]["submitterPodTemplate"]["spec"]["containers"][0]["image"] == "distilrec-cpu"
    assert job["spec"]["suspend"] is bool(queue)
    assert job["metadata"]["labels"].get("kueue.x-k8s.io/queue-name", "") == queue
    assert job["metadata"]["annotations"].get("kueue.x-k8s.io/elastic-job") == ("true" if queue else None)


def test_a_run_into_a_store_keeps_the_logs_of_ray_on_the_lake() -> None:
    """A pod's hook can copy to a folder only. The working copy lies where the pods may write."""
    job = _create_night().night(
        _object("RayJob"), _object("RayCluster"), _shop(output_dir="s3://shop/toys"), Path("toys.yaml"), queue=""
    )
    nodes = job["spec"]["rayClusterSpec"]
    for group in (nodes["headGroupSpec"], *nodes["workerGroupSpecs"]):
        container = group["template"]["spec"]["containers"][0]
        variables = {one["name"]: one["value"] for one in container["env"]}
        assert variables["DISTILREC_RAY_LOGS"] == "/lake/ray_logs"
        assert variables["DISTILREC_CACHE"].startswith("/tmp/")
        assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]


@pytest.mark.parametrize(
    ("config", "error"),
    [
        (_shop(name="a" * 27), "name is a{27}, 27 letters. On Kubernetes it has at most 26, .* Shorten the name"),
        (_shop(output_dir="output/toys"), "output_dir is output/toys. It must be an absolute path on the lake"),
        (_shop(output_dir="${NOT_SET}/toys"), r"output_dir is \${NOT_SET}/toys. It must be an absolute path"),
    ],
)
def test_a_run_config_that_cannot_run_there_is_an_error(config: RunConfig, error: str) -> None:
    """KubeRay refuses long names. Pods share the lake and the store only."""
    with pytest.raises(ConfigError, match=rf"toys.yaml: {error}"):
        _create_night().night(_object("RayJob"), _object("RayCluster"), config, Path("toys.yaml"), queue="")


@pytest.fixture
def schedule(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[int, list[str]]]:
    """Runs create_night.py for run configs {file's name: text}; returns its status and the RayJobs that there are."""
    module, there = _create_night(), dict[str, dict[str, Any]]()

    def answer(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        if path == "rayclusters/distilrec":
            return _object("RayCluster")
        if method == "GET":
            return there[path.removeprefix("rayjobs/")]
        assert path == "rayjobs?fieldValidation=Strict"
        assert body is not None
        if body["metadata"]["name"] in there:
            raise urllib.error.HTTPError("", 409, "Conflict", {}, io.BytesIO(b"exists"))  # type: ignore[arg-type]
        there[body["metadata"]["name"]] = body
        return body

    def run(**configs: str) -> tuple[int, list[str]]:
        for file, text in configs.items():
            (tmp_path / f"{file}.yaml").write_text(text)
        return module.main(), sorted(there)

    monkeypatch.setattr(module, "call", answer)
    monkeypatch.setattr(sys, "argv", ["create_night.py", "--ds", "2026-11-22", "--runs", str(tmp_path)])
    monkeypatch.setenv("DISTILREC_LAKE", "/lake")
    return run


SHOP = "name: {0}\noutput_dir: ${{DISTILREC_LAKE}}/{0}\ninput: {{simulate: {{}}}}\n"


def test_each_shop_of_a_namespace_has_a_night_of_its_own(
    schedule: Callable[..., tuple[int, list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    """One RayJob for each run config. A wrong run config does not keep the others from running.

    A second start for the day creates nothing and does not fail.
    """
    nights = ["distilrec-books-2026-11-22", "distilrec-toys-2026-11-22"]
    assert schedule(toys=SHOP.format("toys"), books=SHOP.format("books"), broken="name: broken\n") == (2, nights)
    assert "broken.yaml: the run config" in capsys.readouterr().err
    assert schedule(broken=SHOP.format("broken")) == (0, [nights[0], "distilrec-broken-2026-11-22", nights[1]])
    assert capsys.readouterr().out.count("exists already: nothing to do") == 2


def test_another_shop_s_night_is_not_taken_for_ours(
    schedule: Callable[..., tuple[int, list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    """A RayJob of the same name with another output_dir or file is an error that says what to do."""
    assert schedule(toys=SHOP.format("toys"))[0] == 0
    assert schedule(toys=SHOP.format("toys").replace("}/toys", "}/other"))[0] == 2
    error = capsys.readouterr().err
    assert "toys.yaml: distilrec-toys-2026-11-22 exists, but is another run" in error
    assert "kubectl delete rayjob distilrec-toys-2026-11-22" in error


def test_a_schedule_without_run_configs_says_so(
    schedule: Callable[..., tuple[int, list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty ConfigMap would otherwise run nothing, night after night."""
    assert schedule() == (2, [])
    assert "the ConfigMap distilrec-runs needs one NAME.yaml" in capsys.readouterr().err
