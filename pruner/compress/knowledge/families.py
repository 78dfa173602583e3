"""What the constants of the run script ask of distillation on the task: parts that say how a chain is trained."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import nn

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.chain import TRAINING, Part, register_part
from pruner.compress.knowledge.frozen import freeze, on_features, reads_features, trainable
from pruner.compress.knowledge.states import States
from pruner.training.context import Context
from pruner.training.distillation import Distillation, Loss
from pruner.training.stage import Additions
from pruner.utils.errors import SettingError


@dataclass(frozen=True)
class Distil(Part):
    """Learn from the fine-tuned dense model: its logits (Hinton et al. 2015) and, by ``states``, what leads to them.

    Training begins with the teacher's weights, as far as they are left (as DistilBERT's, Sanh et al. 2019).
    """

    share: float
    temperature: float
    states: Literal["", "hidden", "attention"] = ""  # attention: both (TinyBERT, Jiao et al. 2020)

    place = TRAINING
    start = "finetuned"
    taught = True

    @property
    def name(self) -> str:
        return f"distil-{self.states}" if self.states else "distil"

    @property
    def title(self) -> str:
        return {"": "distilled", "hidden": "distilled by states", "attention": "distilled by attention"}[self.states]

    @property
    def usual(self) -> bool:
        return Distillation(self.share, self.temperature) == Distillation()

    @property
    def variant(self) -> str:
        return "" if self.usual else f"teacher's share {self.share:g}, temperature {self.temperature:g}"

    @property
    def level(self) -> str:
        return "" if self.usual else f"{self.share:g}-{self.temperature:g}"

    def check(self, context: Context, layers: int) -> int:
        if not 0 <= self.share <= 1:
            raise SettingError("distil_share", f"{self.share:g} is no share of the loss; use 0 to 1")
        return layers

    def prepare(self, model: Any, context: Context, told: dict) -> Any:
        model.config.output_hidden_states = bool(self.states)
        return model

    def additions(self, model: Any, context: Context) -> Additions:
        def losses(teacher: nn.Module) -> Sequence[Loss]:
            dense: Any = teacher
            return [States(model, PrunedBertForSequenceClassification.from_unpruned(dense), self.states == "attention")]

        return Additions(
            distillation=Distillation(self.share, self.temperature), losses=losses if self.states else None
        )

    def finalize(self, model: Any, context: Context) -> Any:
        model.config.output_hidden_states = False
        return model


@dataclass(frozen=True)
class Frozen(Part):
    """Train the top layers alone, or none of them: pooler and classifier are always trained."""

    layers: int

    name, title, place = "top-layers", "trained at the top", TRAINING
    start = "pretrained"

    @property
    def variant(self) -> str:
        return f"{self.layers} layer{'s' * (self.layers > 1)}" if self.layers else "classifier alone"

    @property
    def level(self) -> str:
        return str(self.layers)

    def check(self, context: Context, layers: int) -> int:
        if self.layers > layers:
            raise SettingError("layers_trained", f"{self.layers} of {layers}; use less")
        return layers

    def prepare(self, model: Any, context: Context, told: dict) -> Any:
        freeze(model, self.layers)
        model.trainable_parameters = trainable(model)  # what follows may replace some
        return model

    def additions(self, model: Any, context: Context) -> Additions:
        return Additions(trained=on_features if reads_features(model) else None)

    def describe(self, model: Any, context: Context) -> dict:
        return {"trainable_parameters": model.trainable_parameters}


def distil(states: Literal["", "hidden", "attention"], options: Namespace) -> Sequence[Part]:
    return [Distil(options.distil_share, options.distil_temperature, states)]


register_part("top-layers", TRAINING, lambda options: [Frozen(layers) for layers in options.layers_trained])
register_part("distil", TRAINING, partial(distil, ""))
register_part("distil-hidden", TRAINING, partial(distil, "hidden"))
register_part("distil-attention", TRAINING, partial(distil, "attention"))
