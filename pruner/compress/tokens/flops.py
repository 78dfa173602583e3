"""Floating-point operations on real tokens: matrix products only, a multiply-add counted as two.

Padding costs nothing on either side of a ratio, and whatever a scorer needs is counted with the pruned model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pruner.compress.tokens.schedule import Pruning


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

    def layer(self, tokens: np.ndarray, kept: np.ndarray | None = None) -> float:
        """One layer on sentences of ``tokens`` [B] tokens: Q, K, V, both attention products, output, feed-forward.

        With ``kept`` [B] only these are left after attention.
        """
        d, kept = self.hidden, tokens if kept is None else kept
        attention = 6 * tokens * d * d + 4 * tokens**2 * d
        return float(np.sum(attention + 2 * kept * d * d + 4 * kept * d * self.intermediate))

    def layer_gradient(self, tokens: np.ndarray) -> float:
        """Back through one layer to its input: linear layers once more, the attention products twice."""
        return self.layer(tokens) + float(np.sum(4 * tokens**2 * self.hidden))

    def head(self, sentences: int) -> float:
        """Pooler and classifier, on [CLS] alone."""
        return sentences * 2.0 * self.hidden * (self.hidden + self.labels)

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
            total += student_flops(float(np.sum(entering)), shape.hidden, pruning.student_widths)
        total += shape.layer(entering if method == "attention" else computed, computed)
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


def student_flops(tokens: float, inputs: int, widths: Sequence[int]) -> float:
    """An MLP of ``inputs``, the hidden ``widths`` and one output on ``tokens`` tokens."""
    return tokens * sum(2 * before * after for before, after in pairwise([inputs, *widths, 1]))


def reduction(baseline: float, pruned: float) -> dict[str, float]:
    """The ``flops`` entry of a record."""
    return {"baseline": baseline, "pruned": pruned, "reduction": round(baseline / pruned, 4)}


@dataclass(frozen=True)
class LstmShape:
    """The sizes that decide the work of an LSTM classifier."""

    vocabulary: int
    embedding: int
    hidden: int
    layers: int
    head: int
    labels: int

    @classmethod
    def of(cls, config) -> "LstmShape":
        """From a ``pruner.compress.tokens.lstm.PrunedLstmConfig``."""
        sizes = (config.vocab_size, config.embedding_size, config.hidden_size, config.num_layers, config.head_size)
        return cls(*sizes, config.num_labels)

    def step(self, layer: int) -> int:
        """One word in one layer: four gates, from input and state."""
        inputs = self.embedding if layer == 0 else self.hidden
        return 8 * self.hidden * (inputs + self.hidden)


def lstm_flops(shape: LstmShape, rows: int, lengths: Sequence[int], kept: Sequence[int], pruning: Pruning) -> float:
    """An LSTM that reads ``kept`` of the ``lengths`` words of its sentences and classifies ``rows``, scorer included.

    A student scores the vocabulary once for the whole split; the gate's pass reads every word with the first layer,
    and computes the input gate once more, from the states.
    """
    total = float(sum(kept)) * sum(shape.step(layer) for layer in range(shape.layers))
    total += rows * 2.0 * shape.head * (shape.hidden + shape.labels)
    method = pruning.methods[0]
    if method == "gate":
        total += sum(lengths) * shape.step(0) * 1.25
    if method == "student" and list(kept) != list(lengths):
        total += student_flops(shape.vocabulary, shape.embedding, pruning.student_widths)
    return total
