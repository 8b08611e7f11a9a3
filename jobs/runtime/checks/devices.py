"""Checks of the GPU, and of the C compiler that its kernels need."""

import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from jobs.runtime.checks.finding import Finding, missing, not_needed, ok
from kdlib.config.run import RunConfig

DRIVER = Path("/proc/driver/nvidia/version")
COMPILER_ADVICE = "Install gcc and the headers of C and Python: `apt-get install gcc libc6-dev python3-dev`"
PROGRAM = "#include <Python.h>\nint distilrec_doctor(void) { return PY_MAJOR_VERSION; }\n"


def check_gpu(config: RunConfig) -> Finding:
    """Whether torch reaches as many GPUs as the run config's workers take on this machine."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    found = f"{len(gpus)}: {', '.join(sorted(set(gpus)))}; CUDA {torch.version.cuda}" if gpus else "none"
    if gpus and DRIVER.is_file():
        driver = re.search(r"\d+\.\d[\d.]*", DRIVER.read_text())
        found += f"; driver {driver[0]}" if driver else ""
    elif not gpus and DRIVER.is_file():
        found = f"a driver, but torch {torch.__version__} reaches no GPU"
    training = config.training
    needed = 0 if config.ray.address else training.workers * training.gpus_per_worker
    if len(gpus) < needed:
        return missing(
            f"{found}; {training.workers} workers take {training.gpus_per_worker:g} each",
            "Install the driver and a torch built for CUDA, or lower training.gpus_per_worker or training.workers",
        )
    if gpus and not training.gpus_per_worker:
        return ok(found, "Training uses it with training.gpus_per_worker: 1")
    if not gpus and DRIVER.is_file():
        return not_needed(found, "To use it, install a torch built for CUDA, and set training.gpus_per_worker: 1")
    where = "the nodes of the cluster train" if training.gpus_per_worker else "the run config trains on CPUs"
    return ok(found) if gpus else not_needed(f"{found}: {where}")


def check_compiler() -> Finding:
    """Whether the C compiler that Triton would call can build a module of Python. Only kernels on a GPU need it."""
    import torch

    if not torch.cuda.is_available():
        return not_needed("only the kernels on a GPU need one")
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")  # Triton's order
    if compiler is None:
        return missing("neither CC nor gcc or clang on PATH", COMPILER_ADVICE)
    with tempfile.TemporaryDirectory(prefix="distilrec-doctor-") as folder:
        source = Path(folder, "module.c")
        source.write_text(PROGRAM)
        words = [compiler, str(source), "-shared", "-fPIC", "-o", f"{folder}/module.so"]
        headers = sysconfig.get_paths(scheme="posix_prefix")["include"]
        ran = subprocess.run([*words, f"-I{headers}"], capture_output=True, text=True)
    if ran.returncode:
        said = next((line for line in ran.stderr.splitlines() if "error" in line), f"status {ran.returncode}")
        return missing(f"{compiler} cannot build a module of Python: {said}", COMPILER_ADVICE)
    return ok(compiler)
