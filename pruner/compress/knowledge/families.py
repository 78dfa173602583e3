"""What the constants of the run script ask of distillation on the task: parts that say how a chain is trained."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.chain import TRAINING, Part, register_part
from pruner.training.context import Context
from pruner.training.distillation import Distillation, HiddenStates, Loss
from pruner.training.stage import Additions


@dataclass(frozen=True)
class Distil(Part):
    """Learn from the fine-tuned dense model: its logits (Sanh et al. 2019), and its hidden states (Jiao et al. 2020).

    Training begins with the teacher's weights, as far as they are left.
    """

    share: float
    temperature: float
    hidden: bool = False

    place = TRAINING
    variant = level = ""
    start = "finetuned"
    taught = True

    @property
    def name(self) -> str:
        return "distil-hidden" if self.hidden else "distil"

    @property
    def title(self) -> str:
        return "distilled by hidden states" if self.hidden else "distilled"

    def prepare(self, model: Any, context: Context, told: dict) -> Any:
        model.config.output_hidden_states = self.hidden
        return model

    def additions(self, model: Any, context: Context) -> Additions:
        how = Distillation(self.share, self.temperature)
        return Additions(distillation=how, losses=hidden_losses if self.hidden else None)

    def finalize(self, model: Any, context: Context) -> Any:
        model.config.output_hidden_states = False
        return model


def hidden_losses(teacher: nn.Module) -> Sequence[Loss]:
    """Make the loss of a dense model's hidden states, computed on packed tokens."""
    return [HiddenStates(PrunedBertForSequenceClassification.from_unpruned(teacher).eval())]  # type: ignore[arg-type]


def distil(hidden: bool, options: Namespace) -> Sequence[Part]:
    return [Distil(options.distil_share, options.distil_temperature, hidden)]


register_part("distil", TRAINING, partial(distil, False))
register_part("distil-hidden", TRAINING, partial(distil, True))
