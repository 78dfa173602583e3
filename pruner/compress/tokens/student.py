"""Students: small networks on the hidden states that imitate a teacher's importance scores in the same forward pass."""

from collections.abc import Sequence
from itertools import chain, pairwise

import numpy as np
from torch import Tensor, nn

from pruner.models.flops import LstmShape, Shape


class Student(nn.Module):
    """An MLP from a token's hidden state to its score: [..., D] -> [...].

    The published student has three layers, D-D-D-1, so ``widths=(D, D)``. Its input is detached: training it moves
    nothing but itself.
    """

    def __init__(self, hidden_size: int, widths: Sequence[int]) -> None:
        super().__init__()
        layers = [(nn.Linear(before, after), nn.ReLU()) for before, after in pairwise([hidden_size, *widths, 1])]
        self.layers = nn.Sequential(*chain.from_iterable(layers))[:-1]  # no ReLU behind the score

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.layers(hidden_states.detach()).squeeze(-1)


def student_flops(shape: Shape, tokens: Sequence[np.ndarray], layers: Sequence[int], widths: Sequence[int]) -> float:
    """Count the MLPs of BERT's layers on the tokens that enter, if any leave; an LSTM's once on the vocabulary."""
    at_work = [layer for layer in layers if not np.array_equal(tokens[layer], tokens[layer + 1])]
    if isinstance(shape, LstmShape):
        scored, hidden_size = float(shape.vocabulary * len(at_work)), shape.embedding
    else:
        scored, hidden_size = float(sum(np.sum(tokens[layer]) for layer in at_work)), shape.hidden
    return scored * sum(2 * before * after for before, after in pairwise([hidden_size, *widths, 1]))


def standardise(scores: Tensor, real: Tensor) -> Tensor:
    """Shift and scale [B, L] to mean 0 and variance 1 over the real tokens of each sentence.

    Padding becomes 0, and so does a sentence whose scores are all equal.
    """
    scores = scores.float().masked_fill(~real, 0)
    # By the largest first: gradients may be 1e-20 and still mean something, and their squares would vanish.
    largest = scores.abs().amax(dim=1, keepdim=True)
    scores = scores / largest.masked_fill(largest == 0, 1)
    num_tokens = real.sum(dim=1, keepdim=True).clamp_min(1)  # a sentence may be empty
    centred = (scores - scores.sum(dim=1, keepdim=True) / num_tokens).masked_fill(~real, 0)
    variance = centred.square().sum(dim=1, keepdim=True) / num_tokens
    return centred * variance.clamp_min(1e-12).rsqrt()


def distillation_loss(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    """Average the squared error of standardised scores over each sentence, then over sentences: [B, L] x 3 -> scalar.

    So parts of a batch add up when each is weighted by its share of the sentences.
    """
    difference = standardise(student, real) - standardise(teacher.detach(), real)
    return (difference.square().sum(dim=1) / real.sum(dim=1).clamp_min(1)).mean()
