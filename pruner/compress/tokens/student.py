"""Students: small networks on the hidden states that imitate a teacher's scores in the same forward pass."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class Student(nn.Module):
    """An MLP from a token's hidden state to its score: [B, L, D] -> [B, L].

    The published student has three layers, D-D-D-1, so ``widths=(D, D)``. Its input is detached: training it moves
    nothing but itself.
    """

    def __init__(self, hidden_size: int, widths: Sequence[int]) -> None:
        super().__init__()
        sizes = [hidden_size, *widths]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.layers(hidden_states.detach()).squeeze(-1)


def standardise(scores: Tensor, real: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the real tokens of each sentence; padding becomes 0.

    ``scores`` and ``real`` are [B, L]. A sentence whose scores are all equal becomes all 0.
    """
    scores = scores.float().masked_fill(~real, 0)
    # By the largest first: gradients may be 1e-20 and still mean something, and their squares would vanish.
    largest = scores.abs().amax(dim=1, keepdim=True)
    scores = scores / largest.masked_fill(largest == 0, 1)
    number = real.sum(dim=1, keepdim=True).clamp_min(1)  # a sentence may be empty
    centred = (scores - scores.sum(dim=1, keepdim=True) / number).masked_fill(~real, 0)
    variance = centred.square().sum(dim=1, keepdim=True) / number
    return centred * variance.clamp_min(1e-12).rsqrt()


def distillation_loss(student: Tensor, teacher: Tensor, real: Tensor, tokens: int | None = None) -> Tensor:
    """Mean squared error of the standardised scores over the real tokens of the batch: [B, L] x 3 -> scalar.

    Where the sentences are a part of a batch, ``tokens`` are the real tokens of all of it: the parts' losses are added.
    """
    difference = standardise(student, real) - standardise(teacher.detach(), real)
    return difference.square().sum() / (real.sum().clamp_min(1) if tokens is None else max(1, tokens))
