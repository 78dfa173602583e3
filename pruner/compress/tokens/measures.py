"""What pruning keeps of a split, and how well students imitate their teachers."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from pruner.compress.tokens.schedule import Pruning
from pruner.compress.tokens.select import keep_counts
from pruner.data.cache import Split
from pruner.data.collate import Collate, sorted_batches


def count_tokens(lengths: Sequence[int], pruning: Pruning) -> dict:
    """Count real tokens, nominal and effective rate, and the mean share of real tokens that each layer computes.

    ``lengths`` are those of the sentences; what comes before LSTM steps counts as one layer.
    """
    kept = np.array(keep_counts(lengths, pruning.schedule, pruning.count, pruning.padded_length))
    real = sum(lengths)
    return {
        "real": real,
        "nominal_rate": round(pruning.nominal_rate, 6),
        "effective_rate": round(1 - float(kept.sum()) / (real * len(kept)), 6),
        "kept_by_layer": [round(float(layer.sum()) / real, 6) for layer in kept],
    }


@torch.no_grad()
def rank_correlation(model: nn.Module, split: Split, batch_size: int, collate: Collate) -> float:
    """Correlate (Spearman) the students' scores with their teacher's, over the tokens that they score.

    Computed per sentence and student, where there are three tokens or more, and averaged.
    """
    model.eval()
    correlations: list[float] = []
    for _, batch in sorted_batches(split, batch_size, collate, next(model.parameters()).device):
        output = model(**batch, follow_teacher=True, output_tokens=True)
        for lengths, pair in zip(output.student_counts, output.student_scores, strict=True):
            own, teacher = (scores.float().cpu().numpy() for scores in pair)
            for row, length in enumerate(lengths):
                if length >= 3:
                    correlations.append(spearmanr(own[row, :length], teacher[row, :length]).statistic)
    return float(np.nanmean(correlations)) if np.isfinite(correlations).any() else 0.0
