"""What pruning keeps and what it saves: predictions, tokens and latency on a prepared split. It knows no model."""

import copy
import ctypes
import platform
import statistics
import time
from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from pruner.batches import Collate, sorted_batches
from pruner.cache import Split
from pruner.schedule import Pruning
from pruner.select import keep_counts


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
def predict(model: nn.Module, split: Split, batch_size: int, collate: Collate, **forward_options) -> np.ndarray:
    """Logits [rows, labels] of a split, in evaluation mode; the labels are never shown to the model.

    ``forward_options`` go to the model's ``forward``, such as ``follow_teacher=True``.
    """
    model.eval()
    found: np.ndarray | None = None
    for rows, batch in sorted_batches(split, batch_size, collate, next(model.parameters()).device):
        logits = model(**batch, **forward_options).logits.float().cpu().numpy()
        if found is None:
            found = np.empty((len(split), logits.shape[1]), dtype=np.float32)
        found[rows] = logits
    assert found is not None
    return found


@torch.no_grad()
def rank_correlation(model: nn.Module, split: Split, batch_size: int, collate: Collate) -> float:
    """Spearman's correlation of the students' scores with their teacher's, over the tokens that they score.

    Computed per sentence and student, where there are three tokens or more, and averaged.
    """
    model.eval()
    found: list[float] = []
    for _, batch in sorted_batches(split, batch_size, collate, next(model.parameters()).device):
        output = model(**batch, follow_teacher=True)
        for counts, pair in zip(output.student_counts, output.student_scores, strict=True):
            own, prior = (scores.float().cpu().numpy() for scores in pair)
            for row, count in enumerate(counts):
                if count >= 3:
                    found.append(spearmanr(own[row, :count], prior[row, :count]).statistic)
    return float(np.nanmean(found)) if np.isfinite(found).any() else 0.0


def count_tokens(lengths: Sequence[int], pruning: Pruning) -> dict:
    """Real tokens, nominal and effective rate, and the mean share of real tokens that each layer computes.

    ``lengths`` are those of the sentences; what comes before LSTM steps counts as one layer.
    """
    counts = np.array(keep_counts(lengths, pruning.schedule, pruning.count, pruning.padded_length))
    real = sum(lengths)
    return {
        "real": real,
        "nominal_rate": round(pruning.nominal_rate, 6),
        "effective_rate": round(1 - float(counts.sum()) / (real * len(counts)), 6),
        "kept_by_layer": [round(float(layer.sum()) / real, 6) for layer in counts],
    }


@torch.no_grad()
def measure_latency(
    model: nn.Module,
    split: Split,
    batch_size: int,
    collates: tuple[Collate, Collate],
    dtype: torch.dtype,
    repeats: int,
    most_batches: int | None = None,
) -> dict:
    """Median milliseconds per batch of the unpruned twin and of the model, interleaved, in evaluation mode.

    Batches are sorted by length and padded to their longest sentence only, on both sides. Where ``most_batches`` are
    given, so many of them are used, spread evenly over the lengths.

    Args:
        model: with ``unpruned_twin()``, its baseline.
        collates: the baseline's and the model's.
    """
    device = next(model.parameters()).device
    pruned = copy.deepcopy(model).to(dtype).eval()
    baseline = pruned.unpruned_twin()
    sides = [[batch for _, batch in sorted_batches(split, batch_size, collate, device)] for collate in collates]
    number = len(sides[0])
    chosen = np.unique(np.linspace(0, number - 1, min(most_batches or number, number)).round().astype(int))

    def seconds(run: nn.Module, batch: dict) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        run(**batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    totals: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):  # the first one warms up
        sums = [0.0, 0.0]
        # Whatever a model keeps between batches is made again in each pass, and so counted in it.
        for model_side in (baseline, pruned):
            model_side.eval()
        for number, index in enumerate(chosen):
            for which in ((0, 1), (1, 0))[(repeat + number) % 2]:
                sums[which] += seconds((baseline, pruned)[which], sides[which][index])
        if repeat:
            for which in (0, 1):
                totals[which].append(sums[which] / len(chosen) * 1000)
    baseline_ms, pruned_ms = statistics.median(totals[0]), statistics.median(totals[1])
    return {
        "baseline_ms": round(baseline_ms, 4),
        "pruned_ms": round(pruned_ms, 4),
        "speedup": round(baseline_ms / pruned_ms, 4),
        "batch_size": batch_size,
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(device),
        "repeats": repeats,
    }
