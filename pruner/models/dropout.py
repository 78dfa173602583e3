"""Dropout that is cheap on a CPU, where PyTorch's own draws its random numbers one by one, in double precision."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEPS = 2**16  # p is rounded to a multiple of 1 / STEPS: four elements share a random number of 64 bits


def dropout(x: Tensor, p: float) -> Tensor:
    """Set elements to 0 with probability ``p`` and divide the others by 1 - p."""
    return x * dropout_mask(x, p) if p and x.device.type == "cpu" else F.dropout(x, p)


def dropout_mask(x: Tensor, p: float) -> Tensor:
    """Draw what dropout multiplies ``x`` by, on a CPU: 0 with probability ``p``, else 1 / (1 - p)."""
    dropped = round(p * STEPS)
    if dropped == STEPS:
        return torch.zeros_like(x)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = bits[: x.numel()].view(x.shape) >= dropped - STEPS // 2
    return kept.to(x.dtype).mul_(STEPS / (STEPS - dropped))


class Dropout(nn.Dropout):
    """``nn.Dropout`` by ``dropout``."""

    def forward(self, input: Tensor) -> Tensor:
        return dropout(input, self.p) if self.training else input


def use_fast_dropout(model: nn.Module) -> None:
    """Let all ``nn.Dropout`` of a model be ``Dropout``, in place."""
    for module in model.modules():
        if type(module) is nn.Dropout and not module.inplace:
            module.__class__ = Dropout
