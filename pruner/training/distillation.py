"""Distillation of a whole model: it learns to answer, and perhaps to compute, as another one does."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

# Of a batch and what the model made of it; a mean over the batch, added to the loss.
Loss = Callable[[Mapping[str, Any], Any], Tensor]


@dataclass(frozen=True)
class Distillation:
    """How much of the loss is the teacher's, and how flat its answers are made.

    The loss is (1 - share) of the task's and share * temperature^2 of the divergence from the teacher's logits, both
    divided by the temperature (Hinton et al. 2015, section 2).
    """

    share: float = 0.5
    temperature: float = 2.0

    def loss(self, task: Tensor, logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Mix the task's loss with that of the teacher: scalar, [B, labels] x 2 -> scalar"""
        t = 1.0 if logits.shape[1] == 1 else self.temperature  # a regression has none
        return (1 - self.share) * task + self.share * t * t * logits_loss(logits / t, teacher_logits / t)


def logits_loss(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Average the KL divergence from a teacher's logits, or a regression's squared error: [B, labels] x 2 -> scalar"""
    if logits.shape[1] == 1:
        return F.mse_loss(logits.float(), teacher_logits)
    return F.kl_div(logits.float().log_softmax(dim=1), teacher_logits.softmax(dim=1), reduction="batchmean")
