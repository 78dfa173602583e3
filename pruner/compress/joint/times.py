"""How long a BERT takes on a machine, put together from the times of its parts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.interpolate import RegularGridInterpolator

from pruner.compress.tokens.schedule import Pruning
from pruner.models.flops import BertShape


@dataclass(frozen=True)
class Times:
    """Milliseconds of a BERT's parts for batches of sentences of about ``lengths`` tokens; linear between these.

    Of what lies before and behind the layers (``ends`` [n]); and of one layer: its attention by how many ``heads`` it
    has [n, heads], its feed-forward by ``neurons`` [n, neurons], and what is added where it chooses among tokens
    (``choosing`` [n, heads]).
    """

    machine: dict[str, Any]  # all that they hold for
    lengths: list[int]
    heads: list[int]
    neurons: list[int]
    ends: list[float]
    attention: list[list[float]]
    feed_forward: list[list[float]]
    choosing: list[list[float]]

    @property
    def batch_size(self) -> int:
        return self.machine["batch_size"]

    def ms(self, shape: BertShape, tokens: np.ndarray) -> np.ndarray:
        """Return a smaller model's milliseconds for batches: ``tokens`` [layers + 1, batches] -> [batches]

        The first row is what the model reads, the others what is left when each layer has chosen.
        """
        entering, kept = tokens[:-1].astype(float), tokens[1:].astype(float)
        width = self.machine["hidden"] / self.machine["heads"]
        heads = np.array([[layer.attention / width] for layer in shape.layers])
        neurons = np.array([[layer.intermediate] for layer in shape.layers])
        attention = self._interpolated(self.attention, self.heads)
        before, after = attention(entering, heads), attention(kept, heads)
        share = output_share(shape.hidden, entering / self.batch_size)
        choosing = self._interpolated(self.choosing, self.heads)(entering, heads)
        # A layer that drops tokens attends to all of them, and passes on those that are left.
        dropping = (1 - share) * before + choosing + share * after
        layers = np.where(kept < entering, dropping, after)
        layers += self._interpolated(self.feed_forward, self.neurons)(kept, neurons)
        return np.interp(tokens[0], self._tokens, self.ends) + layers.sum(axis=0)

    @property
    def _tokens(self) -> np.ndarray:
        return np.multiply(self.lengths, self.batch_size)

    def _interpolated(
        self, table: Sequence[Sequence[float]], sizes: Sequence[int]
    ) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        low = self._tokens[0]
        if len(sizes) == 1:  # of a model that has one head
            return lambda tokens, size: np.interp(tokens, self._tokens, np.ravel(table))
        grid = self._tokens, np.array(sizes)
        values = RegularGridInterpolator(grid, np.array(table), bounds_error=False, fill_value=None)
        # Beyond what was measured it goes on in a line; a batch of less than a token each takes as long as that.
        return lambda tokens, size: values(np.stack(np.broadcast_arrays(np.maximum(tokens, low), size), axis=-1))


def output_share(hidden: int, length: np.ndarray | float) -> Any:
    """Return the share of attention's products that its output's are, which tokens that leave do not enter."""
    return 2 * hidden / (8 * hidden + 4 * length)


def tokens_by_layer(pruning: Pruning, batches: Sequence[Sequence[int] | np.ndarray]) -> np.ndarray:
    """Count what ``Times.ms`` asks for: the tokens of batches, given by lengths, before and after all layers choose."""
    lengths = [int(length) for batch in batches for length in batch]
    counts = np.array([lengths, *pruning.keep_counts(lengths)])
    return np.add.reduceat(counts, np.cumsum([0, *map(len, batches)])[:-1], axis=1)
