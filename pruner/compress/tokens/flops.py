"""FLOPs of pruned models: those of ``models/flops.py`` on fewer tokens per layer, and what scorers add."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from pruner.compress.tokens.schedule import Pruning
from pruner.compress.tokens.scores import by_scorer
from pruner.models.flops import Shape


def pruned_flops(shape: Shape, lengths: Sequence[int], kept_counts: Sequence[Sequence[int]], pruning: Pruning) -> float:
    """Count the pruned model on sentences of ``lengths`` real tokens, its scorers included.

    ``kept_counts[l][b]`` is the number of tokens of sentence ``b`` that layer ``l`` computes (``select.keep_counts``).
    A student's teacher is not run at inference and not counted.
    """
    tokens = [np.asarray(counts, dtype=np.float64) for counts in (lengths, *kept_counts)]
    total = shape.ends(tokens[0])
    for layer, (scorer, (entering, kept)) in enumerate(zip(pruning.scorers, pairwise(tokens), strict=True)):
        attends_to_all = scorer is not None and scorer.reads == "attention"
        total += shape.layer(layer, entering if attends_to_all else kept, kept)
    for scorer, layers in by_scorer(pruning.methods):
        total += scorer.flops(shape, tokens, layers, pruning.student_widths)
    return total
