"""Distillation of a whole model: it learns to answer, and perhaps to compute, as another one does."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
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
        t = self.temperature
        taught = (
            logits_loss(logits, teacher_logits) if logits.shape[1] == 1 else logits_loss(logits / t, teacher_logits / t)
        )
        return (1 - self.share) * task + self.share * (1 if logits.shape[1] == 1 else t * t) * taught


def logits_loss(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Average the KL divergence from a teacher's logits, or a regression's squared error: [B, labels] x 2 -> scalar"""
    if logits.shape[1] == 1:
        return F.mse_loss(logits.float(), teacher_logits)
    return F.kl_div(logits.float().log_softmax(dim=1), teacher_logits.softmax(dim=1), reduction="batchmean")


class HiddenStates:
    """The squared error of hidden states from a teacher's, over the tokens that the model computes (Jiao et al. 2020).

    After layer m of L the model imitates the teacher after m * L_T / L of its L_T, both from the embeddings on. Teacher
    and model return the states of padded sentences [B, W, D], 0 where there is no token.
    """

    def __init__(self, teacher: nn.Module) -> None:
        self.teacher = teacher

    def __call__(self, inputs: Mapping[str, Any], outputs: Any) -> Tensor:
        own = outputs.hidden_states
        sentences = {name: x for name, x in inputs.items() if name != "labels"}
        with torch.no_grad():
            states = self.teacher.eval()(**sentences, output_hidden_states=True).hidden_states  # without dropout
        depth, layers = len(states) - 1, len(own) - 1
        errors = []
        for number, state in enumerate(own):
            real = state.detach().abs().sum(dim=-1) > 0
            target = states[round(number * depth / layers)]
            errors.append(F.mse_loss(state[real].float(), target[real].float()))
        return torch.stack(errors).mean()
