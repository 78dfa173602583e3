"""Times batches of a model and of the dense baseline side by side."""

import copy
import ctypes
import platform
import time
from typing import Any

import numpy as np
import torch
from torch import nn

from pruner.data.cache import Split
from pruner.data.collate import Collate, sorted_batches


def steady_allocator() -> bool:
    """Keep glibc's allocator from returning large blocks to the system after each use, which slows large batches.

    The same as starting with MALLOC_MMAP_MAX_=0 and a huge MALLOC_TRIM_THRESHOLD_. To be called before the first large
    allocation. Returns whether it was set.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    m_mmap_max, m_trim_threshold = -4, -1
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(m_mmap_max, 0)) and bool(libc.mallopt(m_trim_threshold, -1))


@torch.no_grad()
def measure_latency(
    baseline: nn.Module,
    model: nn.Module,
    split: Split,
    batch_size: int,
    collates: tuple[Collate, Collate],
    dtype: torch.dtype,
    repeats: int,
    most_batches: int | None = None,
) -> dict:
    """Measure the median milliseconds per batch of the baseline and of the model, interleaved, in evaluation mode.

    Batches are sorted by length and padded to their longest sentence only, on both sides. Where ``most_batches`` are
    given, so many of them are used, spread evenly over the lengths. ``collates`` are the baseline's and the model's.
    """
    device = next(model.parameters()).device
    models = tuple(copy.deepcopy(side).to(device, dtype).eval() for side in (baseline, model))
    batches = [[batch for _, batch in sorted_batches(split, batch_size, collate, device)] for collate in collates]
    chosen = spread_evenly(len(batches[0]), most_batches)
    times = np.empty((repeats + 1, 2, len(chosen)))  # the first pass warms up
    for repeat in range(repeats + 1):
        # Whatever a model keeps between batches is made again in each pass, and so counted in it.
        for side in models:
            side.eval()
        for number, index in enumerate(chosen):
            for which in ((0, 1), (1, 0))[(repeat + number) % 2]:
                times[repeat, which, number] = seconds(models[which], batches[which][index])
    # By batch, so that an interruption spoils one number and not a pass.
    baseline_ms, pruned_ms = np.median(times[1:], axis=0).mean(axis=1) * 1000
    return {
        "baseline_ms": round(float(baseline_ms), 4),
        "pruned_ms": round(float(pruned_ms), 4),
        "speedup": round(float(baseline_ms / pruned_ms), 4),
        "batch_size": batch_size,
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(device),
        "repeats": repeats,
    }


def seconds(model: Any, batch: dict) -> float:
    """Time one call of a model, to the end of what it has a GPU do."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    start = time.perf_counter()
    model(**batch)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter() - start


def spread_evenly(number: int, at_most: int | None) -> np.ndarray:
    """Choose so many of a number of batches at most, spread evenly."""
    return np.unique(np.linspace(0, number - 1, min(at_most or number, number)).round().astype(int))
