"""What the constants of the run script ask of distillation on the task: parts that say how a chain is trained."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.chain import TRAINING, Part, register_part
from pruner.compress.knowledge.frozen import freeze, trainable
from pruner.training.context import Context
from pruner.training.distillation import Distillation, HiddenStates, Loss
from pruner.training.stage import Additions
from pruner.utils.errors import SettingError


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


@dataclass(frozen=True)
class Frozen(Part):
    """Train the top layers alone, or none of them: pooler and classifier are always trained."""

    layers: int

    place = TRAINING
    start = "pretrained"

    @property
    def name(self) -> str:
        return "top-layers"

    @property
    def title(self) -> str:
        return "trained at the top"

    @property
    def variant(self) -> str:
        return f"{self.layers} layers" if self.layers else "classifier alone"

    @property
    def level(self) -> str:
        return str(self.layers)

    def check(self, context: Context, layers: int) -> int:
        if self.layers > layers:
            raise SettingError("layers_trained", f"{self.layers} of {layers}; use less")
        return layers

    def prepare(self, model: Any, context: Context, told: dict) -> Any:
        return freeze(model, self.layers)

    def describe(self, model: Any, context: Context) -> dict:
        return {"trainable_parameters": trainable(model)}


def hidden_losses(teacher: nn.Module) -> Sequence[Loss]:
    """Make the loss of a dense model's hidden states, computed on packed tokens."""
    return [HiddenStates(PrunedBertForSequenceClassification.from_unpruned(teacher).eval())]  # type: ignore[arg-type]


def distil(hidden: bool, options: Namespace) -> Sequence[Part]:
    return [Distil(options.distil_share, options.distil_temperature, hidden)]


register_part("top-layers", TRAINING, lambda options: [Frozen(layers) for layers in options.layers_trained])
register_part("distil", TRAINING, partial(distil, False))
register_part("distil-hidden", TRAINING, partial(distil, True))
