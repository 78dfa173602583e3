"""What a result was made with: versions, hardware and the commit of this code."""

import platform
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
import transformers

from pruner.utils.distributed import num_processes
from pruner.utils.version import git_commit


def environment(steady: bool) -> dict:
    """Versions, hardware and commit. ``steady`` says that ``latency.steady_allocator`` was in effect."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "processes": num_processes(),
        "steady_allocator": steady,
        "git_commit": git_commit(),
    }


def cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
