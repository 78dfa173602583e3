"""Zeros among the weights of a BERT's encoder, ever more of them while it is trained (SparseBERT, Xu et al. 2021)."""

from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from pruner.compress.precision.linears import linears_of

RENEWALS = 100  # of the masks, evenly over the training (published)


def cubic(progress: float, final: float) -> float:
    """Return the share of zeros after that share of the training: s (1 - (1 - t)^3)."""
    return final * (1 - (1 - min(progress, 1.0)) ** 3)


def largest(weight: Tensor, sparsity: float) -> Tensor:
    """Mark all but the share ``sparsity`` of the smallest in magnitude; of equal ones, the first stay."""
    kept = int(weight.numel() * (1 - sparsity) + 1e-9)
    order = weight.detach().abs().flatten().argsort(descending=True, stable=True)
    mask = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
    mask[order[:kept]] = True
    return mask.view_as(weight)


class Sparsify(TrainerCallback):
    """Sets weights to zero after each step, by masks that are renewed now and then. What is zero stays zero."""

    def __init__(self, model: Any, final: float) -> None:
        self.weights, self.final = [linear.weight for linear in linears_of(model)], final
        self.masks: list[Tensor] = []

    def on_optimizer_step(self, args, state, control, **kwargs):
        step = state.global_step + 1  # the one that ends
        every = max(1, state.max_steps // RENEWALS)
        if not self.masks or step % every == 0 or step == state.max_steps:
            sparsity = cubic(step / state.max_steps, self.final)
            # What has been zero is among the smallest, and is masked again.
            self.masks = [largest(weight, sparsity) for weight in self.weights]
        with torch.no_grad():
            for weight, mask in zip(self.weights, self.masks, strict=True):
                weight.mul_(mask)
