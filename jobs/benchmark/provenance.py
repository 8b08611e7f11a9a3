"""What a results file says about the machine and the software of the measurement."""

import importlib.metadata
import os
import platform
from pathlib import Path

from jobs.runtime.code import source_version
from kdlib.config.run import RunConfig

PACKAGES = ("distilrec", "ray", "torch", "deepspeed", "pyspark", "pyarrow", "numpy")


def hardware(config: RunConfig) -> str:
    """Processor, cores, GPU if there is one, and the number of training workers."""
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{processor()}, {os.cpu_count()} cores{gpu}; training.workers={config.training.workers}"


def package_versions() -> dict[str, str]:
    """Package → version, with Python's version and a hash of distilrec's source."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return found | {"python": platform.python_version(), "source": source_version()}


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
