"""What pruning keeps and what it saves: predictions, tokens, FLOPs and latency on a prepared split."""

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
from transformers import BertForSequenceClassification

from pruner.batches import Collator, SplitDataset, sorted_batches
from pruner.cache import Split
from pruner.flops import BertShape, baseline_flops, pruned_flops
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
def predict(model: nn.Module, split: Split, batch_size: int, **forward_options) -> np.ndarray:
    """Logits [rows, labels] of a split, in evaluation mode; the labels are never shown to the model.

    ``forward_options`` go to the model's ``forward``, such as ``follow_teacher=True``.
    """
    model.eval()
    device = next(model.parameters()).device
    found: np.ndarray | None = None
    for rows, batch in sorted_batches(split, batch_size, device):
        if is_stock(model):
            batch.pop("lengths")
        logits = model(**batch, **forward_options).logits.float().cpu().numpy()
        if found is None:
            found = np.empty((len(split), logits.shape[1]), dtype=np.float32)
        found[rows] = logits
    assert found is not None
    return found


def is_stock(model: nn.Module) -> bool:
    """Whether this is the parent class itself, which takes no ``lengths``."""
    return type(model) is BertForSequenceClassification


@torch.no_grad()
def rank_correlation(model: nn.Module, split: Split, batch_size: int) -> float:
    """Spearman's correlation of the students' scores with their teacher's, over the tokens that enter their layers.

    Computed per sentence and layer, where there are three tokens or more, and averaged.
    """
    model.eval()
    found: list[float] = []
    for _, batch in sorted_batches(split, batch_size, next(model.parameters()).device):
        output = model(**batch, follow_teacher=True)
        before = [batch["lengths"], *output.token_counts][:-1]
        entering = [n for n, method in zip(before, model.pruning.methods, strict=True) if method == "student"]
        for counts, pair in zip(entering, output.student_scores, strict=True):
            own, prior = (scores.float().cpu().numpy() for scores in pair)
            for row, count in enumerate(counts):
                if count >= 3:
                    found.append(spearmanr(own[row, :count], prior[row, :count]).statistic)
    return float(np.nanmean(found)) if np.isfinite(found).any() else 0.0


def survivors(model: nn.Module, split: Split, rows: Sequence[int]) -> list[list[int]]:
    """Positions of the tokens that the last layer still computes, for each of the given sentences."""
    dataset, collate = SplitDataset(split), Collator(with_lengths=True)
    device = next(model.parameters()).device
    found = []
    for row in rows:
        batch = collate([dataset[row]])
        with torch.no_grad():
            output = model.eval()(batch["input_ids"].to(device), lengths=batch["lengths"])
        found.append(output.token_positions[-1][0].tolist())
    return found


def count_tokens(splits: Sequence[Split], pruning: Pruning) -> dict:
    """Real tokens, nominal and effective rate, and the mean share of real tokens that each layer computes."""
    lengths = np.concatenate([split.lengths for split in splits]).tolist()
    counts = np.array(keep_counts(lengths, pruning.schedule, pruning.count, pruning.padded_length))
    real = sum(lengths)
    return {
        "real": real,
        "nominal_rate": round(pruning.nominal_rate, 6),
        "effective_rate": round(1 - float(counts.sum()) / (real * len(counts)), 6),
        "kept_by_layer": [round(float(layer.sum()) / real, 6) for layer in counts],
    }


def count_flops(splits: Sequence[Split], shape: BertShape, pruning: Pruning) -> dict:
    """FLOPs of baseline and pruned model on these sentences; the reduction is their ratio, scorers included."""
    lengths = np.concatenate([split.lengths for split in splits]).tolist()
    counts = keep_counts(lengths, pruning.schedule, pruning.count, pruning.padded_length)
    baseline, pruned = baseline_flops(shape, lengths), pruned_flops(shape, lengths, counts, pruning)
    return {"baseline": baseline, "pruned": pruned, "reduction": round(baseline / pruned, 4)}


def unpruned_twin(model: nn.Module) -> BertForSequenceClassification:
    """The baseline of a pruned model: the stock class with SDPA attention and the same weights."""
    config = copy.deepcopy(model.config)
    config._attn_implementation = "sdpa"
    twin = BertForSequenceClassification(config)
    weights = {name: w for name, w in model.state_dict().items() if name.startswith(("bert.", "classifier."))}
    twin.load_state_dict(weights)
    return twin.to(next(model.parameters()).device).eval()


@torch.no_grad()
def measure_latency(
    model: nn.Module, split: Split, batch_size: int, dtype: torch.dtype, repeats: int, most_batches: int = 12
) -> dict:
    """Median milliseconds per batch of the unpruned twin and of the model, interleaved, in evaluation mode.

    Batches are sorted by length and padded to their longest sentence only, on both sides. At most ``most_batches`` of
    them are used, spread evenly over the lengths.
    """
    device = next(model.parameters()).device
    pruned = copy.deepcopy(model).to(dtype).eval()
    baseline = unpruned_twin(pruned)
    batches = [batch for _, batch in sorted_batches(split, batch_size, device)]
    chosen = np.unique(np.linspace(0, len(batches) - 1, min(most_batches, len(batches))).round().astype(int))
    batches = [batches[index] for index in chosen]

    def seconds(run: nn.Module, batch: dict, with_lengths: bool) -> float:
        inputs = batch if with_lengths else {name: x for name, x in batch.items() if name != "lengths"}
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        run(**inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    totals: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):  # the first one warms up
        sums = [0.0, 0.0]
        for number, batch in enumerate(batches):
            for which in ((0, 1), (1, 0))[(repeat + number) % 2]:
                sums[which] += seconds((baseline, pruned)[which], batch, with_lengths=which == 1)
        if repeat:
            for which in (0, 1):
                totals[which].append(sums[which] / len(batches) * 1000)
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
