"""The fine-tuned model made cheaper for a budget without training: ``calibrated``, and its single axes."""

import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.joint.budgets import Budget
from pruner.compress.joint.chosen import Chosen, by_budget
from pruner.compress.joint.fisher import agreement, fisher_scores
from pruner.compress.joint.mixtures import Space
from pruner.compress.joint.search import choose
from pruner.compress.joint.texts import FEWEST
from pruner.compress.method import FAMILIES, Family, Method
from pruner.compress.structure.shrink import Structure
from pruner.compress.tokens.budget import uniform_family
from pruner.data.collate import hold_out
from pruner.evaluation.predict import predict
from pruner.training.context import Context
from pruner.training.stage import Say, Stage, Trained
from pruner.utils.errors import check_whole

CHOICE = 1 / 3  # share of the rows on which mixtures are compared; the others say what leaves, and correct the rest
NAMES = {
    "calibrated": ("tokens", "width"),
    "calibrated-tokens": ("tokens",),
    "calibrated-width": ("width",),
    "calibrated-uniform": (),
}
TITLES = {
    "calibrated": "calibrated",
    "calibrated-tokens": "calibrated, tokens alone",
    "calibrated-width": "calibrated, width alone",
    "calibrated-uniform": "one rate for all layers, not trained",
}


def calibrate(
    dense: Any, split: Any, lengths: Sequence[int], budget: Budget, axes: Sequence[str], batch_size: int, say: Say
) -> tuple[Any, dict]:
    """Return a smaller copy of a BERT classifier, chosen on rows without labels, and what is to be recorded of it.

    Args:
        lengths: of the sentences on which the ``budget`` is counted.
        axes: by what it may be met; without one rate for all layers, which needs no choice.

    Raises:
        SettingError: the budget cannot be met.
    """
    whole: Any = PrunedBertForSequenceClassification.from_unpruned(dense).eval()
    full = Structure.of(dense.config)
    depth = len(full.layers)
    if not axes:
        schedule = budget.fit(full, uniform_family(depth))
        found = {"mixtures": 1, "width_reduction": 1.0} | budget.told(full, schedule)
        return whole.set_pruning(schedule, "attention"), found
    fitted, choice = hold_out(split, CHOICE)
    scores = fisher_scores(dense, fitted, batch_size)
    space = Space(dense.config, lengths, scores, range(depth), budget.target * budget.slack)
    model, found = choose(whole, space, budget, fitted, choice, batch_size, axes, say)
    return model, found | {"rows": len(split)}


@dataclass
class Calibrated(Chosen):
    """The fine-tuned model, made cheaper for a budget on some training rows without their labels, and not trained."""

    texts: int = 0
    source: str = "calibrated"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.title = TITLES[self.name]

    def settings(self, context: Context) -> dict:
        return {"calibration_texts": self.texts}

    def stages(self, context: Context, dense: Stage, search: Stage | None = None) -> list[Stage]:
        return [dense]

    def finalize(self, trained: Sequence[Trained], context: Context, dense: nn.Module, say: Say) -> nn.Module:
        budget = self.budget(dense, context, say)
        started, rows = time.monotonic(), context.training_subset_like_dev(self.texts)
        axes, batch_size = NAMES[self.name], context.train_settings.batch_size
        model, found = calibrate(dense, rows, context.dev_lengths, budget, axes, batch_size, say)
        seconds, split = round(time.monotonic() - started, 1), context.dev_splits[0]
        reference = predict(dense, split, batch_size, context.backbone.collate(context.task))
        logits = predict(model, split, batch_size, self.collate(context))
        agrees = agreement(torch.from_numpy(logits), torch.from_numpy(reference), dense.config)
        model.choice = found | {"seconds": seconds, "agreement": round(agrees, 6)}
        say(f"the dense model's answers on dev: {agrees:.1%}")
        return model


def calibrated(name: str, options: Namespace, context: Context) -> list[Method]:
    """Make a method for each budget."""
    budgets = by_budget(name, options, context)
    check_whole("calibration_texts", options.calibration_texts, FEWEST, 10**6)
    return [Calibrated(**of_budget, texts=options.calibration_texts) for of_budget in budgets]


FAMILIES.append(Family("bert", lambda: list(NAMES), calibrated))
