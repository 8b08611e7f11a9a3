"""What is installed: the tested versions, a wheel that holds all that is read at run time, and images built from it."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from jobs.runtime.checks.python_packages import NEWEST, OLDEST, TESTED, differing, versions_in
from jobs.runtime.code import code_of

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "cluster" / "docker"
PINNED_BY_TORCH = re.compile(r"triton|nvidia-.*|cuda-.*")


def brought_along(extra: str) -> set[str]:
    """The installed packages that distilrec with an extra brings along."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    found, waiting = set[str](), [(text, "") for text in project["dependencies"] + extras[extra]]
    seen = set[tuple[str, str]]()
    while waiting:
        text, extra = waiting.pop()
        need = Requirement(text)
        if (text, extra) in seen or (need.marker and not need.marker.evaluate({"extra": extra})):
            continue
        seen.add((text, extra))
        name = canonicalize_name(need.name)
        if name == "distilrec":
            waiting += [(more, "") for one in need.extras for more in extras[one]]
            continue
        found.add(name)
        waiting += [(more, one) for one in ("", *need.extras) for more in requires(name) or ()]
    return found


def test_this_environment_has_the_tested_versions() -> None:
    """If `make` made this environment with today's constraints, each package has the tested version."""
    mark = Path(sys.prefix) / "installed-dev"
    if not mark.is_file() or mark.read_text() != TESTED.read_text():
        pytest.skip("this environment was not made by `make` from cluster/docker/constraints.txt as it is now")
    assert differing(versions_in(TESTED.read_text())) == []


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the tested versions are those of Python 3.11")
def test_the_tested_versions_are_complete() -> None:
    """The constraints have one line for each package that distilrec and the test tools need, and no other line."""
    try:
        needed = brought_along("dev")
    except PackageNotFoundError as error:
        pytest.skip(f"not all test tools are installed here: {error}")
    listed = set(versions_in(TESTED.read_text()))
    assert {name for name in needed - listed if not PINNED_BY_TORCH.fullmatch(name)} == set()
    assert listed - needed == set()


def test_the_tested_torch_is_of_any_build() -> None:
    """No line has a local version, so the constraints fit torch for CPUs and torch for CUDA."""
    found = versions_in(TESTED.read_text())
    assert [name for name, one in found.items() if "+" in one or PINNED_BY_TORCH.fullmatch(name)] == []
    assert list(found) == sorted(found)


def test_the_supported_pythons_agree() -> None:
    """`doctor`, the classifiers and `requires-python` name the same versions."""
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [line.rpartition(" ")[2] for line in about["classifiers"] if ":: Python :: 3." in line]
    assert named == [f"3.{minor}" for minor in range(OLDEST[1], NEWEST[1] + 1)]
    assert about["requires-python"] == f">=3.{OLDEST[1]}"


@pytest.fixture
def make(tmp_path: Path):
    """Runs `make .venv/installed` with a pip that only notes its calls; returns the calls.

    Arguments: whether an index has a torch for CPUs, and whether the machine has a GPU.
    """
    for name in ("Makefile", "pyproject.toml", "cluster/docker/constraints.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    tools, environment = tmp_path / "tools", tmp_path / ".venv" / "bin"
    tools.mkdir()
    environment.mkdir(parents=True)
    for name in ("sh", "sed", "cp", "make", "grep"):
        (tools / name).symlink_to(shutil.which(name) or name)

    def program(path: Path, script: str = "true") -> None:
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    program(environment / "python")

    def run(*, cpu_build: bool, gpu: bool) -> list[str]:
        program(environment / "pip", f'echo "$@" >> calls\ncase "$*" in *+cpu*) {str(cpu_build).lower()};; esac')
        if gpu:
            program(tools / "nvidia-smi")
        subprocess.run(["make", ".venv/installed"], cwd=tmp_path, env={"PATH": str(tools)}, check=True, timeout=60)
        return (tmp_path / "calls").read_text().splitlines()

    return run


@pytest.mark.parametrize("cpu_build", [True, False])
def test_without_a_gpu_make_asks_for_the_smaller_torch_first(make, tmp_path: Path, cpu_build: bool) -> None:
    """If no index has torch for CPUs, `make` installs the usual torch in the tested version."""
    first, second = make(cpu_build=cpu_build, gpu=False)
    assert f"torch=={versions_in(TESTED.read_text())['torch']}+cpu" in first
    assert "--no-deps" in first
    assert second.endswith("-c cluster/docker/constraints.txt --editable .")
    assert (tmp_path / ".venv" / "installed").read_text() == TESTED.read_text()


def test_with_a_gpu_make_installs_the_usual_torch(make) -> None:
    """With an NVIDIA driver, `make` installs everything in one step, with the torch that has CUDA."""
    [only] = make(cpu_build=True, gpu=True)
    assert only.endswith("-c cluster/docker/constraints.txt --editable .")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files in a folder, built from a copy of what git knows."""
    folder = tmp_path_factory.mktemp("wheel")
    kept = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if kept.returncode:
        pytest.skip("this is no git clone")
    for name in kept.stdout.splitlines():
        if not name.startswith("tests/") and (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / "source" / name)
    words = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, *words, str(folder / "source")], check=True, timeout=300)
    [built] = folder.glob("distilrec-*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def test_the_wheel_holds_what_is_read_at_run_time(wheel: Path) -> None:
    """The wheel holds the code, the templates, the run configs and the tested versions, but no tests or manifests."""
    found = {str(path.relative_to(wheel)) for path in wheel.rglob("*") if path.is_file()}
    found = {name for name in found if ".dist-info/" not in name}
    patterns = ("jobs/**/*.py", "kdlib/**/*.py", "kdlib/*/templates/*", "cluster/runs/*.yaml")
    expected = {str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern)}
    assert found == expected | {"cluster/docker/constraints.txt"}


def test_an_installed_wheel_works_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    """A wheel finds its run configs and the tested versions in its own folder."""
    program = (
        "import jobs.runtime.checks.python_packages as packages, kdlib.config.load as load;"
        "print(load.config_file('laptop.yaml'), load.load_config('cluster/runs/laptop.yaml').name, packages.TESTED)"
    )
    words = [sys.executable, "-c", program]
    done = subprocess.run(
        words, cwd=tmp_path, env={"PYTHONPATH": str(wheel)}, capture_output=True, text=True, check=True
    )
    cluster = wheel / "cluster"
    assert done.stdout.split() == [str(cluster / "runs/laptop.yaml"), "laptop", str(cluster / "docker/constraints.txt")]


def test_wheel_and_source_have_the_same_fingerprints(wheel: Path) -> None:
    """A stage that ran from the wheel is up to date for the source folder of the same version."""
    assert code_of("jobs.distill", home=wheel) == code_of("jobs.distill")
    assert code_of("jobs.report", home=wheel) == code_of("jobs.report")


def _stages() -> dict[str, str]:
    """Stage → its lines, of the Dockerfile."""
    parts = re.split(r"^FROM \S+ AS (\S+)$", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _is_sent(name: str) -> bool:
    """Whether `Dockerfile.dockerignore` lets a file into the build; the last pattern that fits counts."""
    sent = True
    for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines():
        pattern = line.lstrip("!")
        if not line.startswith("#") and any(fnmatch(one, pattern) for one in (name, *map(str, Path(name).parents))):
            sent = line.startswith("!")
    return sent


@pytest.mark.parametrize("stage", ["build-cpu", "build-cuda", "build-spark"])
def test_an_image_gets_all_that_the_wheel_is_made_of(stage: str) -> None:
    """Each image stage that installs distilrec first copies all sources of the wheel."""
    copied = re.findall(
        r"^COPY ([^-\n].*) \S+$", _stages()[stage].partition("pip install -c constraints.txt '.")[0], re.M
    )
    assert {name for line in copied for name in line.split()} == {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "jobs",
        "kdlib",
        "cluster",
    }
    for name in ("pyproject.toml", "README.md", "LICENSE", "jobs/nightly.py", "kdlib/report/templates/page.html"):
        assert _is_sent(name)
    assert _is_sent("cluster/runs/laptop.yaml")
    assert _is_sent("cluster/docker/constraints.txt")
    assert not _is_sent("tests/conftest.py")
    assert not _is_sent("cluster/kuberay/base/night.yaml")


def test_the_image_for_gpus_has_a_compiler() -> None:
    """Only the image for GPUs has gcc with the headers of C, because Triton's kernels need them."""
    stages = _stages()
    assert re.search(r"apt-get install .* gcc libc6-dev", stages["cuda"])
    assert [name for name in ("runtime", "cpu", "spark") if "gcc" in stages[name]] == []


def test_the_version_is_the_manifests_version() -> None:
    """The images' tags in the manifests are the installed version."""
    tags = set()
    for overlay in (ROOT / "cluster" / "kuberay" / "overlays").glob("*/kustomization.yaml"):
        tags |= set(re.findall(r"newTag: (\S+)-(?:cpu|cuda)", overlay.read_text()))
    assert tags == {version("distilrec")}
