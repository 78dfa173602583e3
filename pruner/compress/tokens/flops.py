"""FLOPs of pruned models: those of ``models/flops.py`` on fewer tokens per layer, and what scorers add."""

from collections.abc import Sequence

import numpy as np

from pruner.compress.tokens.schedule import Pruning
from pruner.compress.tokens.scores import SCORERS
from pruner.models.flops import Shape


def pruned_flops(shape: Shape, lengths: Sequence[int], kept_counts: Sequence[Sequence[int]], pruning: Pruning) -> float:
    """Count the pruned model on sentences of ``lengths`` real tokens, its scorers included.

    ``kept_counts[l][b]`` is the number of tokens of sentence ``b`` that layer ``l`` computes (``select.keep_counts``).
    A student's teacher is not run at inference and not counted.
    """
    tokens = [np.asarray(counts, dtype=np.float64) for counts in (lengths, *kept_counts)]
    total, layers_of_scorer = shape.head(len(lengths)), dict[str, list[int]]()
    for layer, (method, entering, kept) in enumerate(zip(pruning.methods, tokens[:-1], tokens[1:], strict=True)):
        attends_to_all = method is not None and SCORERS[method].reads == "attention"
        total += shape.layer(layer, entering if attends_to_all else kept, kept)
        if method is not None:
            layers_of_scorer.setdefault(method, []).append(layer)
    for method, layers in layers_of_scorer.items():
        total += SCORERS[method].flops(shape, tokens, layers, pruning.student_widths)
    return total
