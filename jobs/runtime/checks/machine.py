"""Checks of the machine: Java, user, memory, cores, ports."""

import math
import os
import pwd
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from jobs.runtime.checks.finding import Finding, missing, not_needed, ok
from jobs.runtime.ray_jobs import CONNECT_SECONDS
from kdlib.config.run import RunConfig

GIB = 2**30
LEAST_MEMORY = 6 * GIB
"""The default run config takes 3.5 GiB on two cores. The rest is for more cores and for the operating system."""
CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
MEMORY = Path("/proc/meminfo")


def check_java() -> Finding:
    """Whether the Java that Spark would use starts."""
    from jobs.runtime.spark_session import java_home

    home = java_home()
    java = str(home / "bin" / "java") if home else "java"
    ran = subprocess.run([java, "-version"], capture_output=True, text=True, check=True)
    return ok(f"{(ran.stderr + ran.stdout).splitlines()[0]} ({java if home else 'on PATH'})")


def check_user() -> Finding:
    """Whether the user of this process has a name. Spark refuses a user without one, as with `docker run --user 1234`."""
    number = os.getuid()
    try:
        return ok(f"{pwd.getpwuid(number).pw_name} ({number})")
    except KeyError:
        return missing(
            f"user {number} has no name here, and Spark refuses it",
            "Run as a user of /etc/passwd, or add this user there",
        )


def check_memory(config: RunConfig) -> Finding:
    """Whether the memory, or the container's limit, is enough for Spark's driver and Ray's object store."""
    there = memory_bytes()
    engines = spark_bytes(config.spark.driver_memory) + config.ray.object_store_megabytes * 2**20
    found = f"{there / GIB:.1f} GiB{', the limit of the container' if there < _physical_memory() else ''}"
    if there < LEAST_MEMORY:
        return missing(found, f"A run needs {LEAST_MEMORY / GIB:.0f} GiB or more")
    if there < engines:
        return missing(
            f"{found}; Spark and Ray take {engines / GIB:.1f} GiB",
            "Lower spark.driver_memory or ray.object_store_megabytes",
        )
    return ok(found)


def check_cores(config: RunConfig) -> Finding:
    """How many cores a run has, and whether Ray would count more."""
    there, machine = cores(), os.cpu_count() or 1
    found = f"{there:g} of the machine's {machine}" if there < machine else f"{machine}"
    if config.ray.address is None and config.ray.num_cpus is None and max(4, there) < machine:
        return ok(
            found, f"Set ray.num_cpus to {max(4, math.ceil(there))}: Ray counts the machine's cores, not the limit"
        )
    return ok(found)


def check_loopback() -> Finding:
    """Whether processes on this machine can talk to each other over the loopback interface."""
    with socket.socket() as server:
        server.settimeout(CONNECT_SECONDS)
        server.bind(("127.0.0.1", 0))
        server.listen()
        socket.create_connection(server.getsockname(), timeout=CONNECT_SECONDS).close()
    return ok("127.0.0.1 takes connections")


def check_cluster(config: RunConfig) -> Finding:
    """Whether the Ray cluster that the run config joins answers."""
    address = config.ray.address
    if address is None:
        return not_needed("ray.address is not set: a run starts a Ray of its own")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return not_needed(f"ray.address is {address}, which only a node of the cluster can resolve")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        return missing(f"{address} does not answer: {error}", "Start the cluster, or correct ray.address")
    return ok(f"{address} answers")


def check_job_server() -> Finding:
    """Whether the job server for `distilrec submit` answers."""
    address = os.environ.get("RAY_API_SERVER_ADDRESS")
    if not address:
        return not_needed("RAY_API_SERVER_ADDRESS is not set: only `distilrec submit` uses a job server")
    from jobs.runtime.ray_jobs import connect

    connect(address)
    return ok(f"{address} answers")


def spark_bytes(text: str) -> int:
    """A size in Spark's notation, such as `2g` or `512m`, in bytes. Without a unit Spark reads MiB."""
    found = re.fullmatch(r"(\d+)\s*([kmgt]?)b?", text.strip().lower())
    if not found:
        raise ValueError(f"spark.driver_memory is {text!r}, expected a size such as 2g")
    return int(found[1]) * 2 ** {"k": 10, "": 20, "m": 20, "g": 30, "t": 40}[found[2]]


def memory_bytes() -> float:
    """Memory for this process: the machine's, or the smallest limit of the process's control groups."""
    limits = [_number(group / name) for group in _groups() for name in ("memory.max", "memory.limit_in_bytes")]
    return min([_physical_memory(), *limits])


def cores() -> float:
    """Cores for this process: those that it may use, or the smallest quota of its control groups."""
    quotas = [math.inf]
    for group in _groups():
        if (group / "cpu.max").is_file():  # version 2: "QUOTA PERIOD", or "max PERIOD"
            quota, period = (group / "cpu.max").read_text().split()
        elif (group / "cpu.cfs_quota_us").is_file():  # version 1; -1: no quota
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        else:
            continue
        if quota not in ("max", "-1"):
            quotas.append(int(quota) / int(period))
    return min(len(os.sched_getaffinity(0)), *quotas)


def _groups() -> Iterator[Path]:
    """The folders of this process's control groups and of the groups around them, in versions 1 and 2."""
    for line in OWN_GROUPS.read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        top = CGROUPS / controllers if controllers else CGROUPS
        own = top / name.lstrip("/")
        yield from [one for one in (own, *own.parents) if one.is_relative_to(top)]


def _number(file: Path) -> float:
    """The number in a file; infinite where there is no file or no limit."""
    text = file.read_text().strip() if file.is_file() else "max"
    return math.inf if text == "max" else float(text)


def _physical_memory() -> float:
    kilobytes = re.search(r"^MemTotal:\s+(\d+) kB", MEMORY.read_text(), flags=re.MULTILINE)
    return float(kilobytes[1]) * 1024 if kilobytes else math.inf
