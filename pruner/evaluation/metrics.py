"""GLUE's metrics, by scikit-learn and SciPy, of all rows and by their lengths."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from pruner.data.cache import Cache
from pruner.data.task import Task

LENGTH_BINS = 5


def _correlation(function: Callable, labels: np.ndarray, predictions: np.ndarray) -> float:
    # Undefined for a constant prediction, which explains nothing of the scores: 0.
    return function(labels, predictions).statistic if np.ptp(predictions) and np.ptp(labels) else 0.0


FUNCTIONS: dict[str, Callable] = {
    "accuracy": accuracy_score,
    "f1": partial(f1_score, zero_division=0),
    "macro_f1": partial(f1_score, average="macro", zero_division=0),
    "mcc": matthews_corrcoef,
    "pearson": partial(_correlation, pearsonr),
    "spearman": partial(_correlation, spearmanr),
}


def compute_metrics(names: Sequence[str], logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Compute metrics of [N, labels] logits against [N] labels; one column of logits is a regression."""
    predictions = logits[:, 0] if logits.shape[1] == 1 else logits.argmax(axis=1)
    return {name: float(FUNCTIONS[name](labels, predictions)) for name in names}


def dev_metrics(task: Task, cache: Cache, logits: dict[str, np.ndarray], rows: np.ndarray | None = None) -> dict:
    """Compute the task's metrics of its dev sets; where there are two, as MNLI's, they bear the name of their set.

    Args:
        logits: [N, labels] of each dev set.
        rows: which rows of all dev sets, one after the other, to use [all rows] (booleans); ``None``: all.
    """
    metrics: dict[str, float] = {}
    sizes = [len(cache.splits[name]) for name in task.dev]
    rows = np.ones(sum(sizes), dtype=bool) if rows is None else rows
    for name, inside in zip(task.dev, np.split(rows, np.cumsum(sizes)[:-1]), strict=True):
        labels = cache.splits[name].labels
        assert labels is not None  # those of dev sets are there
        if inside.any():
            values = compute_metrics(task.metrics, logits[name][inside], labels[inside])
            suffix = name.removeprefix("dev") if len(task.dev) > 1 else ""
            metrics |= {f"{metric}{suffix}": round(value, 6) for metric, value in values.items()}
    return metrics


def length_bins(lengths: np.ndarray, bins: int = LENGTH_BINS) -> np.ndarray:
    """Sort rows into ranges of lengths that hold about equally many -> the bin of each [rows].

    Rows of the same length share a bin, so that one may hold more than another, or none.
    """
    edges = np.quantile(lengths, np.arange(1, bins) / bins, method="inverted_cdf")
    return np.searchsorted(edges, lengths, side="left")


def metrics_by_length(task: Task, cache: Cache, logits: dict[str, np.ndarray]) -> list[dict]:
    """Compute ``dev_metrics`` for each of ``length_bins``, with its range of ``tokens`` and its number of ``rows``."""
    lengths = np.concatenate([cache.splits[name].lengths for name in task.dev])
    bins, entries = length_bins(lengths), []
    for number in np.unique(bins):
        inside = bins == number
        entry = {"tokens": [int(lengths[inside].min()), int(lengths[inside].max())], "rows": int(inside.sum())}
        entries.append(entry | dev_metrics(task, cache, logits, inside))
    return entries
