"""A model's logits on a prepared split. It knows no model."""

import numpy as np
import torch
from torch import nn

from pruner.data.cache import Split
from pruner.data.collate import Collate, make_batch, sorted_rows
from pruner.utils.errors import CellError, NotFiniteError


@torch.no_grad()
def predict(model: nn.Module, split: Split, batch_size: int, collate: Collate, **forward_options) -> np.ndarray:
    """Predict the logits [rows, labels] of a split, in evaluation mode; the labels are never shown to the model.

    A batch for which memory is short is computed in halves. ``forward_options`` go to the model's ``forward``, such as
    ``follow_teacher=True``.

    Raises:
        CellError: a logit or a score was not finite, or memory was short for a single sentence.
    """
    model.eval()
    batches = sorted_rows(split, batch_size)
    by_batch = [_logits(model, split, rows, collate, forward_options) for rows in batches]
    logits = np.empty((len(split), by_batch[0].shape[1]), dtype=np.float32)
    logits[np.concatenate(batches)] = np.concatenate(by_batch)
    return logits


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
