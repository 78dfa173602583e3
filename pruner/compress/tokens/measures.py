"""What pruning keeps of a split, and how well students imitate their teachers."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from pruner.compress.tokens.schedule import Pruning
from pruner.data.collate import Collate, sorted_batches
from pruner.training.context import Context


def count_tokens(lengths: Sequence[int], pruning: Pruning) -> dict:
    """Count real tokens, nominal and effective rate, and the mean share of real tokens that each layer computes."""
    kept, real = np.array(pruning.keep_counts(lengths)), sum(lengths)
    return {
        "real": real,
        "nominal_rate": round(pruning.nominal_rate, 6),
        "effective_rate": round(1 - float(kept.sum()) / (real * len(kept)), 6),
        "kept_by_layer": [round(float(layer.sum()) / real, 6) for layer in kept],
    }


@torch.no_grad()
def rank_correlation(model: nn.Module, context: Context, collate: Collate) -> float:
    """Correlate (Spearman) the students' scores with their teacher's, over the tokens of dev that they score.

    Computed per sentence and student, where there are three tokens or more, and averaged.
    """
    model.eval()
    correlations: list[float] = []
    batch_size, device = context.train_settings.batch_size, next(model.parameters()).device
    for _, batch in sorted_batches(context.dev_splits[0], batch_size, collate, device):
        output = model(**batch, follow_teacher=True)
        for lengths, pair in zip(output.student_counts, output.student_scores, strict=True):
            own, teacher = (scores.float().cpu().numpy() for scores in pair)
            pairs = [(own[row, :length], teacher[row, :length]) for row, length in enumerate(lengths) if length >= 3]
            correlations += [spearmanr(*pair).statistic for pair in pairs]
    return float(np.nanmean(correlations)) if np.isfinite(correlations).any() else 0.0


def shorten(words: Sequence[str], kept: set[int]) -> str:
    """Join the kept words in order, with ``...`` where some were left out."""
    runs = groupby(range(len(words)), key=kept.__contains__)
    return " ".join(" ".join(words[position] for position in run) if stay else "..." for stay, run in runs)
