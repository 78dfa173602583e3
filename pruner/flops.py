"""Floating-point operations of a BERT on real tokens: matrix products only, a multiply-add counted as two.

Padding costs nothing on either side of a ratio, and whatever a scorer needs is counted with the pruned model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pruner.schedule import Pruning


@dataclass(frozen=True)
class BertShape:
    """The sizes that decide the work of a BERT classifier."""

    layers: int
    hidden: int
    intermediate: int
    labels: int

    @classmethod
    def of(cls, config) -> "BertShape":
        """From a ``transformers.BertConfig``."""
        return cls(config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.num_labels)

    def layer(self, tokens: np.ndarray) -> float:
        """One layer on sentences of ``tokens`` [B] tokens: Q, K, V, output, both attention products, feed-forward."""
        d = self.hidden
        return float(np.sum(8 * tokens * d * d + 4 * tokens**2 * d + 4 * tokens * d * self.intermediate))

    def layer_gradient(self, tokens: np.ndarray) -> float:
        """Back through one layer to its input: linear layers once more, the attention products twice."""
        return self.layer(tokens) + float(np.sum(4 * tokens**2 * self.hidden))

    def head(self, sentences: int) -> float:
        """Pooler and classifier, on [CLS] alone."""
        return sentences * 2.0 * self.hidden * (self.hidden + self.labels)

    def student(self, tokens: np.ndarray, widths: Sequence[int]) -> float:
        sizes = [self.hidden, *widths, 1]
        per_token = sum(2 * before * after for before, after in pairwise(sizes))
        return float(np.sum(tokens)) * per_token

    def cls_attention(self, tokens: np.ndarray) -> float:
        """The row of [CLS] in one attention map: one query, all keys, their products."""
        d = self.hidden
        return float(np.sum(2 * d * d + 2 * tokens * d * d + 2 * tokens * d))


def baseline_flops(shape: BertShape, lengths: Sequence[int]) -> float:
    """The unpruned model on sentences of ``lengths`` [B] real tokens."""
    tokens = np.asarray(lengths, dtype=np.float64)
    return shape.layers * shape.layer(tokens) + shape.head(len(tokens))


def pruned_flops(shape: BertShape, lengths: Sequence[int], counts: Sequence[Sequence[int]], pruning: Pruning) -> float:
    """The pruned model on the same sentences, its scorers included.

    ``counts[l][b]`` is the number of tokens of sentence ``b`` that layer ``l`` computes (``select.keep_counts``).
    """
    tokens = np.asarray(lengths, dtype=np.float64)
    total = shape.head(len(tokens)) + teacher_flops(shape, tokens, pruning)
    entering = tokens
    for count, method in zip(counts, pruning.methods, strict=True):
        computed = np.asarray(count, dtype=np.float64)
        if method == "student" and not np.array_equal(computed, entering):
            total += shape.student(entering, pruning.student_widths)
        total += shape.layer(computed)
        entering = computed
    return total


def teacher_flops(shape: BertShape, tokens: np.ndarray, pruning: Pruning) -> float:
    """The unpruned passes that the teachers among the methods need at inference; a student's teacher is not run."""
    total = 0.0
    if "emission" in pruning.methods:  # the last layer is only asked for its attention
        total += (shape.layers - 1) * shape.layer(tokens) + shape.layers * shape.cls_attention(tokens)
    if "gradient" in pruning.methods:
        back = shape.layers - pruning.methods.index("gradient")
        total += shape.layers * shape.layer(tokens) + back * shape.layer_gradient(tokens)
        total += 2 * shape.head(len(tokens))
    return total


def reduction(baseline: float, pruned: float) -> dict[str, float]:
    """The ``flops`` entry of a record."""
    return {"baseline": baseline, "pruned": pruned, "reduction": round(baseline / pruned, 4)}
