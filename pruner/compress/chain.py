"""Chains: several ways of making a BERT cheaper, one after the other, around one training: ``layers-top.student``.

A part says what it does to a model before the training, in it and after it. Token pruning takes its place among them as
the methods that it is, with the trainings that its schedules need.
"""

import copy
from abc import ABC
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from torch import nn

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.method import FAMILIES, Cost, Family, Method, make_methods
from pruner.compress.tokens.families import schedule_way
from pruner.compress.tokens.methods import TokenPruning
from pruner.data.collate import Collate
from pruner.training.context import Context
from pruner.training.stage import Additions, Recipe, Say, Stage, Trained, unique
from pruner.utils.errors import SettingError

# Where parts stand in a chain, and what it is called there.
LAYERS, WIDTH, EMBEDDINGS, TOKENS, TRAINING, ZEROS, PRECISION = range(7)
PLACES = (
    "layers",
    "width or a ticket",
    "smaller embeddings",
    "what drops tokens",
    "how it is trained",
    "zeros",
    "a precision",
)


class Part(ABC):
    """One step of a chain. What it leaves out changes nothing.

    ``start`` says what is trained: the ``finetuned`` model of the same seed, whose logits are imitated then, if any
    part asks for it, else the ``pretrained`` one, if any does, else nothing.
    """

    name: Any  # as in --methods
    title: Any  # as in tables
    variant: Any  # how much of it, in words; "": there is but one
    level: Any  # the same in names of folders
    place: int
    start: Any = ""
    taught: Any = False  # whether the training has the fine-tuned model for a teacher, wherever it begins

    def settings(self) -> dict:
        """Return what decides its result."""
        return {"name": self.name} | vars(self)

    def check(self, context: Context, layers: int) -> int:
        """Return how many of a BERT's layers stay; raise a ``SettingError`` if so much cannot leave."""
        return layers

    def sources(self, context: Context, dense: Stage | None) -> tuple[Stage, ...]:
        """List the measurements of which it is told."""
        return ()

    def prepare(self, model: Any, context: Context, told: dict) -> Any:
        """Return what is trained; ``told`` are the results of the sources, by their titles."""
        return model

    def additions(self, model: Any, context: Context) -> Additions:
        """Return what it adds to the training."""
        return Additions()

    def finalize(self, model: Any, context: Context) -> Any:
        """Return what is evaluated and kept, of the trained model."""
        return model

    def describe(self, model: Any, context: Context) -> dict:
        """Return its keys of the record."""
        return {}


class AllTokens(Recipe):
    """The training of a BERT on packed tokens, none of which is dropped."""

    def collate(self, context: Context) -> Collate:
        return context.backbone.collate(context.task, with_lengths=True)


@dataclass(frozen=True)
class ChainTraining(Recipe):
    """The training of a chain: its parts around another recipe, those of tokens or none."""

    before: tuple[Part, ...]
    inner: Recipe
    after: tuple[Part, ...]

    def collate(self, context: Context) -> Collate:
        return self.inner.collate(context)

    def prepare(self, model: Any, context: Context, told: dict) -> nn.Module:
        for part in self.before:
            model = part.prepare(model, context, told)
        model = self.inner.prepare(PrunedBertForSequenceClassification.from_unpruned(model), context, told)
        for part in self.after:
            model = part.prepare(model, context, told)
        return model

    def additions(self, model: nn.Module, context: Context, say: Say) -> Additions:
        added = [self.inner.additions(model, context, say)]
        added += [part.additions(model, context) for part in (*self.before, *self.after)]
        rates = {prefix: rate for one in added for prefix, rate in one.learning_rates.items()}
        callbacks = [callback for one in added for callback in one.callbacks]
        made = [one.losses for one in added if one.losses]
        return Additions(
            callbacks,
            rates,
            next((one.distillation for one in added if one.distillation), None),
            (lambda teacher: [loss for make in made for loss in make(teacher)]) if made else None,
            next((one.trained for one in added if one.trained), None),
        )

    def finish(self, model: nn.Module) -> tuple[nn.Module, dict]:
        return self.inner.finish(model)


@dataclass
class Chain(Method):
    """Parts in their order, of which ``tokens`` may be one.

    What is trained, measured and kept is smaller: there are no masks.
    """

    parts: tuple[Part, ...]
    tokens: TokenPruning | None = None

    def __post_init__(self) -> None:
        steps: list[Any] = [*self.before, *([self.tokens] if self.tokens else []), *self.after]
        self.name = ".".join(step.name for step in steps)
        self.title = ", ".join(step.title for step in steps)
        self.variant = ", ".join(step.variant for step in steps if step.variant) or self.title
        self.label = ".".join(
            [*self._labels(self.before), *([self.tokens.label] if self.tokens else []), *self._labels(self.after)]
        )

    @property
    def before(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.place < TOKENS)

    @property
    def after(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.place > TOKENS)

    @staticmethod
    def _labels(parts: Sequence[Part]) -> list[str]:
        return [f"{part.name}_{part.level}" if part.level else part.name for part in parts]

    @property
    def start(self) -> str:
        """Return what is trained where no tokens are pruned, which say it themselves."""
        starts = {part.start for part in self.parts}
        return next((start for start in ("finetuned", "pretrained") if start in starts), "")

    @property
    def taught(self) -> bool:
        return any(part.taught for part in self.parts)

    def settings(self, context: Context) -> dict:
        settings = {"structure": [part.settings() for part in self.parts], "start": self.start or None}
        return settings | (self.tokens.settings(context) if self.tokens else {})

    def stages(self, context: Context, dense: Stage) -> list[Stage]:
        """List the training, which is told what has been measured; without one, the measurements."""
        sources = self._sources(context, dense)
        own = {"structure": [part.settings() for part in self.parts]}
        if self.tokens:
            labels = [self._labels(self.before), self._labels(self.after)]
            return [
                replace(
                    stage,
                    name=".".join([*labels[0], stage.name, *labels[1]]),
                    recipe=ChainTraining(self.before, stage.recipe, self.after),
                    settings=stage.settings | own,
                    told_by=sources,
                    teacher=dense if self.taught else stage.teacher,
                )
                for stage in self.tokens.stages(context, dense)
            ]
        if not self.start:  # ``finalize`` is told by them
            return [*sources, dense]
        start = None if self.start == "pretrained" else dense
        teacher = dense if self.taught else start
        name, settings = f"{self.label}_seed{context.seed}", context.settings() | own
        return [Stage(name, context, self._training(), settings, start, teacher, told_by=sources)]

    def _training(self) -> ChainTraining:
        return ChainTraining(self.before, self.tokens or AllTokens(), self.after)

    def _sources(self, context: Context, dense: Stage | None) -> tuple[Stage, ...]:
        return tuple(unique(stage for part in self.parts for stage in part.sources(context, dense)))

    def collate(self, context: Context) -> Collate:
        return self._training().collate(context)

    def finalize(self, trained: Sequence[Trained], context: Context, dense: nn.Module, say: Say) -> nn.Module:
        if self.tokens:
            model: Any = self.tokens.finalize(trained, context, dense, say)
        elif self.start:
            model = trained[-1].model
        else:
            sources = self._sources(context, None)
            told = {source.title: one.result for source, one in zip(sources, trained, strict=False)}
            model = self._training().prepare(copy.deepcopy(dense), context, told)
            model.to(next(dense.parameters()).device)
        for part in self.parts:
            model = part.finalize(model, context)
        return model

    def load(self, folder: Path, context: Context) -> nn.Module:
        return PrunedBertForSequenceClassification.from_pretrained(folder)

    def cost(self, model: nn.Module, context: Context) -> Cost:
        return self.tokens.cost(model, context) if self.tokens else super().cost(model, context)

    def describe(self, model: Any, context: Context) -> dict:
        section: dict = {}
        for part in self.parts:
            section |= part.describe(model, context)
        return section | (self.tokens.describe(model, context) if self.tokens else {})

    def examples(self, model: nn.Module, context: Context, rows: int) -> list[dict]:
        return self.tokens.examples(model, context, rows) if self.tokens else []


# What makes a run's parts of a name, one for each level; and where they stand.
PARTS: dict[str, tuple[int, Callable[[Namespace], Sequence[Part]]]] = {}


def register_part(name: str, place: int, make: Callable[[Namespace], Sequence[Part]]) -> None:
    """Register a part of chains; it is a method by itself too."""
    PARTS[name] = place, make


def chain_methods(name: str, options: Namespace, context: Context) -> list[Method]:
    """Make the methods of a chain, one for each mixture of its parts' levels."""
    names = name.split(".")
    tokens = [part for part in names if part not in PARTS]
    places = [PARTS[part][0] if part in PARTS else TOKENS for part in names]
    if len(tokens) > 1 or places != sorted({*places}):
        order = f"in this order: {', then '.join(PLACES)}"
        raise SettingError("pruning_methods", f"{name!r}: a chain has one of each at most, {order}")
    made: list[Method] = []
    for mixture in product(*(PARTS[part][1](options) for part in names if part in PARTS)):
        depth = context.backbone.model_config(context.task).num_hidden_layers
        for part in mixture:
            depth = part.check(context, depth)
        made += [Chain(mixture, method) for method in token_methods(tokens, name, depth, options, context)]
    return made


def token_methods(
    tokens: Sequence[str], name: str, depth: int, options: Namespace, context: Context
) -> Sequence[TokenPruning | None]:
    """Make what drops tokens in a chain, on a BERT of ``depth`` layers."""
    if not tokens:
        return [None]
    if schedule_way(options) not in (None, "learned"):
        raise SettingError("budget_schedule", f"{name!r} takes a given schedule, or learned ones; leave it out")
    config = context.backbone.model_config(context.task)
    config.num_hidden_layers = depth
    shallow = replace(context, backbone=replace(context.backbone, config=config))  # type: ignore[type-var]
    methods = make_methods(tokens[0], options, shallow)
    if not all(isinstance(method, TokenPruning) for method in methods):
        raise SettingError("pruning_methods", f"{name!r}: {tokens[0]} is no part of a chain; leave it out")
    return [method for method in methods if isinstance(method, TokenPruning)]


FAMILIES.append(Family("bert", lambda: list(PARTS), chain_methods, chains=True))
