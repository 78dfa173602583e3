"""What a result was made with: versions, hardware and the commit of this code."""

import platform
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any


def environment(steady: bool) -> dict:
    """Return versions, hardware and commit. ``steady``: ``latency.steady_allocator`` was in effect."""
    import numpy as np  # in here: --version needs the commit alone
    import torch
    import transformers

    from pruner.utils.distributed import num_processes

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


def git_commit() -> str | None:
    """Return the commit, with ``-dirty`` where tracked files were changed; ``None`` outside a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None  # installed: Git would name the commit of the project in whose folder the environment lies
    command = "git describe --always --dirty --abbrev=12 --exclude=*".split()
    with suppress(OSError, subprocess.CalledProcessError):
        return subprocess.check_output(command, cwd=root, stderr=subprocess.DEVNULL, text=True).strip()
    return None


def named_dtype(name: str) -> Any:
    """Return the torch dtype of a setting: ``auto`` is bfloat16 on a GPU that has it, else float32."""
    import torch  # in here: --version needs the commit alone

    if name != "auto":
        return getattr(torch, name)
    on_gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if on_gpu else torch.float32
