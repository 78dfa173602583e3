"""Floating-point operations of plain models on real tokens: matrix products only, a multiply-add counted as two.

Padding costs nothing. What token pruning and its scorers change is in ``compress/tokens/flops.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class LayerShape:
    """The sizes of one BERT layer: ``attention`` is heads x head size, ``intermediate`` 0 without a feed-forward."""

    attention: int
    intermediate: int


@dataclass(frozen=True)
class BertShape:
    """The sizes that decide the work of a BERT classifier; layers may differ."""

    hidden: int
    labels: int
    layers: tuple[LayerShape, ...]
    rank: int = 0  # of factorised embeddings, whose second matrix is computed for every token; 0: a table has them

    @classmethod
    def of(cls, config: Any) -> BertShape:
        """Read the shape of a dense model from its ``transformers.BertConfig``."""
        layer = LayerShape(config.hidden_size, config.intermediate_size)
        return cls(config.hidden_size, config.num_labels, (layer,) * config.num_hidden_layers, rank_of(config))

    @classmethod
    def of_model(cls, model: Any) -> BertShape:
        """Read the shape of a BERT classifier's modules, of which heads, neurons or layers may have been removed."""
        layers = []
        for layer in model.bert.encoder.layer:
            dense = getattr(layer.intermediate, "dense", None)  # absent without a feed-forward
            layers.append(LayerShape(layer.attention.self.query.out_features, dense.out_features if dense else 0))
        config = model.config
        return cls(config.hidden_size, config.num_labels, tuple(layers), rank_of(config))

    @property
    def depth(self) -> int:
        """The number of layers that may be pruned."""
        return len(self.layers)

    def layer(self, index: int, tokens: np.ndarray, kept: np.ndarray | None = None) -> float:
        """Count one layer on sentences of ``tokens`` [B]: Q, K, V, both attention products, output, feed-forward.

        With ``kept`` [B] only these are left after attention.
        """
        attention, neurons = self.layers[index].attention, self.layers[index].intermediate
        kept = tokens if kept is None else kept
        before = 6 * tokens * self.hidden * attention + 4 * tokens**2 * attention
        return float(np.sum(before + 2 * kept * attention * self.hidden + 4 * kept * self.hidden * neurons))

    def head(self, sentences: int) -> float:
        """Count pooler and classifier, on [CLS] alone."""
        return sentences * 2.0 * self.hidden * (self.hidden + self.labels)

    def ends(self, tokens: np.ndarray) -> float:
        """Count what lies before and behind the layers, on sentences of ``tokens`` [B]."""
        return self.head(len(tokens)) + 2.0 * self.rank * self.hidden * float(np.sum(tokens))


def rank_of(config: Any) -> int:
    """Return the rank of a BERT's factorised embeddings, or the width from which they are widened; 0 without."""
    return getattr(config, "embedding_rank", None) or getattr(config, "embedding_width", None) or 0


@dataclass(frozen=True)
class LstmShape:
    """The sizes that decide the work of an LSTM classifier of ``sentences`` per example: 2 for pairs.

    All of its LSTMs read the same words, so that they are one layer to pruning.
    """

    vocabulary: int
    embedding: int
    hidden: int
    lstms: int
    head_size: int
    labels: int
    sentences: int = 1

    depth = 1

    @classmethod
    def of(cls, config: Any, sentences: int = 1) -> LstmShape:
        """Read the shape of a model from its ``models.lstm.LstmConfig``."""
        sizes = (config.vocab_size, config.embedding_size, config.hidden_size, config.num_layers, config.head_size)
        return cls(*sizes, config.num_labels, sentences)

    def word(self, lstm: int) -> int:
        """Count one word in one LSTM: four gates, from input and state."""
        return 8 * self.hidden * ((self.hidden if lstm else self.embedding) + self.hidden)

    def layer(self, index: int, tokens: np.ndarray, kept: np.ndarray | None = None) -> float:
        """Count all LSTMs on sentences of which ``kept`` [S] words are read, or all ``tokens`` [S]."""
        words = float(np.sum(tokens if kept is None else kept))
        return words * sum(self.word(lstm) for lstm in range(self.lstms))

    def head(self, sentences: int) -> float:
        """Count the classifier, once per example."""
        return sentences / self.sentences * 2.0 * self.head_size * (self.hidden + self.labels)

    def ends(self, tokens: np.ndarray) -> float:
        """Count what lies before and behind the LSTMs."""
        return self.head(len(tokens))


Shape = BertShape | LstmShape


def dense_flops(shape: Shape, lengths: Sequence[int] | np.ndarray) -> float:
    """Count the plain model on sentences of ``lengths`` real tokens; an LSTM's pairs are two sentences each."""
    tokens = np.asarray(lengths, dtype=np.float64)
    return shape.ends(tokens) + sum(shape.layer(index, tokens) for index in range(shape.depth))
