"""What the constants of the run script ask of models that are made cheaper without training."""

import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pruner.compress.calibrated.fisher import agreement
from pruner.compress.calibrated.search import Calibration
from pruner.compress.calibrated.texts import FEWEST
from pruner.compress.method import FAMILIES, Family, Method
from pruner.compress.structure.describe import describe_structure
from pruner.compress.tokens.methods import TokenPruning
from pruner.compress.tokens.schedule import Pruning, schedule_text
from pruner.evaluation.predict import predict
from pruner.training.context import Context
from pruner.training.stage import Say, Stage, Trained
from pruner.utils.errors import SettingError, check_whole


@dataclass(frozen=True)
class May:
    """What may leave of a model, by a method's name."""

    title: str
    tokens: bool = False
    width: bool = False
    uniform: bool = False


NAMES = {
    "calibrated": May("calibrated", tokens=True, width=True),
    "calibrated-tokens": May("calibrated, tokens alone", tokens=True),
    "calibrated-width": May("calibrated, width alone", width=True),
    "calibrated-uniform": May("one rate for all layers, not trained", tokens=True, uniform=True),
}


@dataclass
class Calibrated(TokenPruning):
    """The fine-tuned model, made cheaper for a budget on some training rows without their labels, and not trained."""

    texts: int = 0
    may: str = "calibrated"
    source: str = "calibrated"

    def __post_init__(self) -> None:
        self.name, self.title, self.variant = self.may, NAMES[self.may].title, f"for {self.target:g}x"
        self.label = f"{self.name}_{self.target:g}x"

    def settings(self, context: Context) -> dict:
        return {"calibration_texts": self.texts}

    def stages(self, context: Context, dense: Stage, search: Stage | None = None) -> list[Stage]:
        return [dense]

    def finalize(self, trained: Sequence[Trained], context: Context, dense: nn.Module, say: Say) -> nn.Module:
        assert self.target is not None  # all of them have one
        may, batch_size = NAMES[self.may], context.train_settings.batch_size
        calibration = Calibration(self.target, context.dev_lengths, may.tokens, may.width, may.uniform, batch_size)
        started = time.monotonic()
        model, found = calibration.run(dense, context.training_subset_like_dev(self.texts), say)
        seconds, split = round(time.monotonic() - started, 1), context.dev_splits[0]
        reference = predict(dense, split, batch_size, context.backbone.collate(context.task))
        logits = predict(model, split, batch_size, self.collate(context))
        agrees = agreement(torch.from_numpy(logits), torch.from_numpy(reference), dense.config)
        model.calibration = found | {"seconds": seconds, "agreement": round(agrees, 6)}
        say(f"schedule: {schedule_text(model.pruning.schedule)}")
        say(f"the dense model's answers on dev: {agrees:.1%}")
        return model

    def describe(self, model: Any, context: Context) -> dict:
        return (
            super().describe(model, context) | describe_structure(model, context) | {"calibration": model.calibration}
        )


def calibrated(name: str, options: Namespace, context: Context) -> list[Method]:
    """Make a method for each budget."""
    if not options.target_flops_reduction:
        raise SettingError("target_flops_reduction", f"{name} needs a budget; give one, as 2, or several")
    check_whole("calibration_texts", options.calibration_texts, FEWEST, 10**6)
    none = Pruning.none(context.backbone.shape(context.task).depth)
    return [
        Calibrated(none, target=t, texts=options.calibration_texts, may=name) for t in options.target_flops_reduction
    ]


FAMILIES.append(Family("bert", lambda: list(NAMES), calibrated))
