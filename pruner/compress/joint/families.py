"""One training for all budgets, and for tokens, width and depth alone or together: ``joint`` and its single axes."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.joint.chosen import Chosen, by_budget
from pruner.compress.joint.elastic import SampleMixtures, elastic
from pruner.compress.joint.fisher import fisher_scores
from pruner.compress.joint.mixtures import AXES, Space
from pruner.compress.joint.search import choose
from pruner.compress.knowledge.states import States
from pruner.compress.method import FAMILIES, Family, Method
from pruner.compress.structure.measures import ROWS, Skipping, measured, reading, scores_of
from pruner.compress.tokens.methods import CHOICE_ROWS
from pruner.training.context import Context
from pruner.training.distillation import Loss
from pruner.training.stage import Additions, Measurement, Recipe, Say, Stage, Trained

NAMES = {"joint": AXES} | {f"joint-{axis}": (axis,) for axis in AXES}


class Fisher(Measurement):
    """By how much the answers depend on each head and neuron, on training rows (Kwon et al. 2022)."""

    def measure(self, model: Any, context: Context, say: Say) -> dict:
        scores = fisher_scores(model, context.training_subset(ROWS), context.train_settings.batch_size)
        return {name: values.tolist() for name, values in scores._asdict().items()}


@dataclass(frozen=True)
class ElasticTraining(Recipe):
    """Train the fine-tuned model on, another part of it in each step, to answer and to compute as it did.

    Logits and labels count the same, hidden states beside them (as TinyBERT, Jiao et al. 2020).
    """

    reach: float

    def collate(self, context: Context) -> Any:
        return context.backbone.collate(context.task, with_lengths=True)

    def prepare(self, model: Any, context: Context, told: dict) -> nn.Module:
        made: Any = PrunedBertForSequenceClassification.from_unpruned(model)
        scores, skipping = scores_of(told, context, "fisher"), reading(told, "skipping", context)["skipping"]
        order = np.argsort(skipping).tolist()
        made.space = Space(model.config, context.dev_lengths, scores, order, self.reach, context.seed)
        return made

    def additions(self, model: Any, context: Context, say: Say) -> Additions:
        trained = elastic(model, model.space.sample(0))
        model.config.output_hidden_states = True

        def losses(teacher: nn.Module) -> Sequence[Loss]:
            dense: Any = teacher
            return [States(model, PrunedBertForSequenceClassification.from_unpruned(dense))]

        return Additions([SampleMixtures(trained, model.space)], losses=losses, trained=lambda model: trained)


@dataclass
class Joint(Chosen):
    """The mixture of fewer tokens, heads, neurons and layers that meets a budget and changes the answers least."""

    source: str = "joint"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.variant = f"learned {self.variant}" if self.target else self.variant
        self.title = "joint" if self.name == "joint" else f"joint training, {self.axes[0]} alone"

    @property
    def axes(self) -> tuple[str, ...]:
        return NAMES[self.name]

    def settings(self, context: Context) -> dict:
        return {"start": "sampled", "reach": self.reach}

    def stages(self, context: Context, dense: Stage, search: Stage | None = None) -> list[Stage]:
        told_by = measured(Fisher(), "fisher", context, dense), measured(Skipping(), "skipping", context, dense)
        settings, name = context.settings() | {"joint": self.reach}, f"joint_sampled-{self.reach:g}x_seed{context.seed}"
        recipe = ElasticTraining(self.reach)
        return [Stage(name, context, recipe, settings, dense, dense, shared=True, told_by=told_by)]

    def finalize(self, trained: Sequence[Trained], context: Context, dense: nn.Module, say: Say) -> nn.Module:
        whole: Any = trained[-1].model
        rows, batch_size = context.training_subset_like_dev(CHOICE_ROWS), context.train_settings.batch_size
        budget = self.budget(dense, context, say)
        model, found = choose(whole, whole.space, budget, rows, rows, batch_size, self.axes, say)
        model.choice = found
        return model


def joint(name: str, options: Namespace, context: Context) -> list[Method]:
    """Make a method for each budget."""
    return [Joint(**of_budget, reach=options.search_reach) for of_budget in by_budget(name, options, context)]


FAMILIES.append(Family("bert", lambda: list(NAMES), joint))
