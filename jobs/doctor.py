"""Check this machine before the first run, and print a table: what is there, what is missing, and what to do."""

from collections.abc import Callable
from pathlib import Path

from jobs.runtime.checks import devices, folders, machine, places, python_packages
from jobs.runtime.checks.finding import Finding, missing, ok, run_check
from jobs.runtime.command import Invocation
from jobs.runtime.console import hints_name, say
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError, UnreachableError

MARKS = {"ok": "✓", "missing": "✗", "not needed": "–"}
Check = Callable[[], Finding]


def run(invocation: Invocation) -> int:
    """Print the table. Returns the exit status: 2 if anything that a run needs is missing, else 0."""
    with hints_name(invocation.config, invocation.overrides):
        config, about = _config(invocation)
        checks = {"run config": lambda: about} | checks_of(config)
        width = max(map(len, checks))
        num_missing = 0
        say(
            f"  {'doctor':{width}}  found: {MARKS['ok']} there, {MARKS['missing']} missing, {MARKS['not needed']} not needed"
        )
        for name, check in checks.items():
            finding = run_check(check)
            num_missing += finding.state == "missing"
            say(f"{MARKS[finding.state]} {name:{width}}  {finding.found}")
            if finding.advice:
                say(f"  {'':{width}}  → {finding.advice}")
        say(f"doctor: {num_missing} of {len(checks)} {'is' if num_missing == 1 else 'are'} missing")
    return ConfigError.exit_status if num_missing else 0


def checks_of(config: RunConfig) -> dict[str, Check]:
    """The checks in the order of the table: name → function."""
    return {
        "Python": python_packages.check_python,
        "packages": python_packages.check_packages,
        "tested versions": python_packages.check_tested_versions,
        "Java": machine.check_java,
        "user": machine.check_user,
        "memory": lambda: machine.check_memory(config),
        "cores": lambda: machine.check_cores(config),
        "shared memory": lambda: folders.check_shared_memory(config.ray.object_store_megabytes),
        "disk of output_dir": lambda: folders.check_room(config.root),
        "disk of /tmp": lambda: folders.check_room(Path("/tmp")),
        "libraries": lambda: folders.check_libraries(Path("/tmp")),
        "output_dir": lambda: places.check_output(config),
        "locks": lambda: folders.check_locks(config.root),
        "loopback": machine.check_loopback,
        "Ray cluster": lambda: machine.check_cluster(config),
        "job server": machine.check_job_server,
        "GPU": lambda: devices.check_gpu(config),
        "C compiler": devices.check_compiler,
        "text encoder": lambda: places.check_encoders(config),
        "product search": lambda: places.check_search(config),
        "export": lambda: places.check_export(config),
        "delivery": lambda: places.check_delivery(config),
    }


def _config(invocation: Invocation) -> tuple[RunConfig, Finding]:
    """The run config, and its row of the table. If it cannot be read: a default with `output_dir: output`."""
    try:
        return invocation.load(), ok(invocation.config)
    except (ConfigError, UnreachableError) as error:
        default = RunConfig.model_validate({"name": "doctor", "output_dir": "output", "input": {"simulate": {}}})
        return default, missing(str(error), "Correct it; the checks below are for a default run config")
