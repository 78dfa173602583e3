"""Stages: the trainings of which cells are made, and what is measured of a trained model before others are made of it.

How they are run and kept is in ``stages.py``.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from torch import nn
from transformers import TrainerCallback

from pruner.data.collate import Collate, SplitDataset, TrainingData
from pruner.training.context import Context, identity
from pruner.training.distillation import Distillation, Loss

Say = Callable[[str], None]


@dataclass(frozen=True)
class Additions:
    """What a recipe adds to a training.

    ``learning_rates`` are those of parts of the model, by their names' prefix; ``distillation`` says how much the
    teacher's logits count; ``losses`` makes further ones of the teacher; ``trained`` makes what is trained in place of
    the model, of the same parameters.
    """

    callbacks: Sequence[TrainerCallback] = ()
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    distillation: Distillation | None = None
    losses: Callable[[nn.Module], Sequence[Loss]] | None = None
    trained: Callable[[nn.Module], nn.Module] | None = None


@dataclass(frozen=True)
class Trained:
    """A stage's model on the training device, what its recipe says beside (for JSON), and the loss curve."""

    model: nn.Module
    result: dict
    loss: list[dict]


class Recipe:
    """What is done in a stage. The defaults are plain fine-tuning."""

    def data(self, context: Context, teacher_logits: np.ndarray | None) -> TrainingData:
        """Return what is trained on, with the logits [rows, labels] of the stage's teacher, if it has one."""
        return SplitDataset(context.training_split, teacher_logits)

    def collate(self, context: Context) -> Collate:
        """Return the collator of the model that ``prepare`` makes."""
        return context.backbone.collate(context.task)

    def prepare(self, model: nn.Module, context: Context, told: dict) -> nn.Module:
        """Make what is trained out of the backbone's model; ``told`` are results of the stages that it builds on."""
        return model

    def additions(self, model: nn.Module, context: Context, say: Say) -> Additions:
        return Additions()

    def finish(self, model: nn.Module) -> tuple[nn.Module, dict]:
        """Return what others build on, and what they are told beside (for JSON)."""
        return model, {}


class Measurement(Recipe):
    """What is measured of a model, for others to be made by it. Its stage trains nothing, and has no weights."""

    def measure(self, model: nn.Module, context: Context, say: Say) -> dict:
        """Return the result (for JSON), by training data alone; the model is left as it was."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Stage:
    """One training, or a measurement. Two stages with the same task, name and key are the same.

    Args:
        name: with the seed in it; names its folder and its curves in TensorBoard.
        settings: what decides its result beside its parents; ``Context.settings`` among it.
        start: the stage whose weights training begins with, ``None`` for the backbone's own.
        teacher: the stage whose logits are imitated beside the labels, if any.
        shared: kept for other cells after the cell that it was trained for has its record.
        told_by: stages whose results the recipe is told, by their titles, beside that of ``start``.
    """

    name: str
    context: Context
    recipe: Recipe
    settings: dict
    start: "Stage | None" = None
    teacher: "Stage | None" = None
    shared: bool = False
    told_by: tuple["Stage", ...] = ()

    @cached_property
    def key(self) -> str:
        parts = [identity(self.settings), self.start and self.start.key, self.teacher and self.teacher.key]
        parts += [stage.key for stage in self.told_by]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def measures(self) -> bool:
        """Whether it trains nothing."""
        return isinstance(self.recipe, Measurement)

    @property
    def title(self) -> str:
        """Its task and name, without the hash."""
        return f"{self.context.task.name}/{self.name}"

    @property
    def place(self) -> str:
        """Its folder, relative to where stages are kept."""
        return f"{self.title}-{self.key}"

    def lineage(self) -> list["Stage"]:
        """List the stages that it builds on, each after its own parents, and itself."""
        parents = [stage for stage in (self.start, self.teacher, *self.told_by) if stage]
        return unique([stage for parent in parents for stage in parent.lineage()] + [self])


def unique(stages: Iterable[Stage]) -> list[Stage]:
    """Leave out what has come before."""
    return list({stage.place: stage for stage in stages}.values())
