"""Whether a model tells the rows of a dev set apart at all, and what always giving the same answer would score."""

from collections.abc import Mapping

import numpy as np

from pruner.data.cache import Cache
from pruner.data.task import Task

SAME = 1e-3  # scores of a regression that differ by less, as a share of the scale, are the same answer


def majority_share(task: Task, cache: Cache) -> dict[str, float]:
    """Return the share of each dev set that is of its most frequent class; nothing of a regression."""
    labels = {name: cache.splits[name].labels for name in task.dev if task.labels}
    return {name: round(float(np.bincount(ids).max() / len(ids)), 6) for name, ids in labels.items() if ids is not None}


def collapsed(task: Task, cache: Cache, logits: Mapping[str, np.ndarray]) -> dict[str, dict]:
    """Find the dev sets on which a model gives one answer only.

    Args:
        logits: [N, labels] of each dev set.

    Returns:
        By dev set the ``answer``, the name of a class or a score, and of a class the ``share`` of the rows that are of
        it. Those of which some rows are answered otherwise are left out.
    """
    found: dict[str, dict] = {}
    for name in task.dev:
        if not task.labels:
            low, high = task.score_range
            if np.ptp(logits[name]) < SAME * (high - low):
                found[name] = {"answer": f"{logits[name].mean():.2f}", "share": None}
        elif len(answers := np.unique(logits[name].argmax(axis=1))) == 1:
            share = np.mean(cache.splits[name].labels == answers[0])
            found[name] = {"answer": task.labels[answers[0]], "share": round(float(share), 6)}
    return found
