"""What a model says of a prepared split, and what pruning keeps of it. It knows no model."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from pruner.compress.tokens.schedule import Pruning
from pruner.compress.tokens.select import keep_counts
from pruner.data.cache import Cache, Split
from pruner.data.collate import Collate, make_batch, sorted_batches, sorted_rows
from pruner.data.task import Task
from pruner.utils.errors import CellError, NotFiniteError


@torch.no_grad()
def predict(model: nn.Module, split: Split, batch_size: int, collate: Collate, **forward_options) -> np.ndarray:
    """Logits [rows, labels] of a split, in evaluation mode; the labels are never shown to the model.

    A batch for which memory is short is computed in halves. ``forward_options`` go to the model's ``forward``, such as
    ``follow_teacher=True``.

    Raises:
        CellError: a logit or a score was not finite, or memory was short for a single sentence.
    """
    model.eval()
    batches = sorted_rows(split, batch_size)
    logits = [_logits(model, split, rows, collate, forward_options) for rows in batches]
    found = np.empty((len(split), logits[0].shape[1]), dtype=np.float32)
    found[np.concatenate(batches)] = np.concatenate(logits)
    return found


def _logits(model: nn.Module, split: Split, rows: np.ndarray, collate: Collate, options: dict) -> np.ndarray:
    try:
        output = model(**make_batch(split, rows, collate, next(model.parameters()).device), **options)
        logits = output.logits.float().cpu().numpy()
    except torch.OutOfMemoryError:
        output = None  # and its memory is free before less is asked for
    if output is None:
        if len(rows) == 1:
            raise CellError(f"evaluation: out of memory with one sentence (row {rows[0]}); take a smaller model")
        halves = np.array_split(rows, 2)
        return np.concatenate([_logits(model, split, half, collate, options) for half in halves])
    score_sum, finite = getattr(output, "score_sum", None), np.isfinite(logits).all()
    if not finite or not (score_sum is None or bool(score_sum.isfinite())):
        what = "a score" if finite else "a logit"
        raise NotFiniteError(
            f"evaluation: {what} is not finite (rows {', '.join(map(str, rows))}, counted from 0); train with a lower "
            "learning_rate, or train_dtype float32"
        )
    return logits


def predict_dev(model: nn.Module, task: Task, cache: Cache, batch_size: int, collate: Collate, **options) -> dict:
    """Logits [rows, labels] of each of the task's dev sets."""
    return {name: predict(model, cache.splits[name], batch_size, collate, **options) for name in task.dev}


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


def computed_pairs(output, lengths: Sequence[int] = (), second_lengths: Sequence[int] = (), **_) -> tuple[int, int]:
    """The pairs of a real token and a layer that a model computed of a batch, given as to its ``forward``, and all.

    A model that does not say what it computed has computed everything: 1 of 1.
    """
    counts = getattr(output, "token_counts", None)
    if counts is None:
        return 1, 1
    return sum(map(sum, counts)), len(counts) * (sum(lengths) + sum(second_lengths))


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
