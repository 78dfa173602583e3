"""Smaller BERTs as methods: choices of what stays, one after the other, then a training, with tokens pruned or not."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.method import Cost, Method
from pruner.compress.structure.choices import Choice
from pruner.compress.structure.shrink import Structure, shrink
from pruner.compress.tokens.methods import TokenPruning
from pruner.data.collate import Collate
from pruner.training.context import Context
from pruner.training.stage import Additions, Recipe, Say, Stage, Trained, unique


def chosen(choices: Sequence[Choice], told: dict, context: Context) -> Structure:
    """Make the choices one after the other, each among what the one before it has left."""
    structure = Structure.of(context.backbone.model_config(context.task))
    for choice in choices:
        structure = choice.narrow(structure, told, context)
    return structure


class AllTokens(Recipe):
    """The training of a BERT on packed tokens, none of which is dropped."""

    def collate(self, context: Context) -> Collate:
        return context.backbone.collate(context.task, with_lengths=True)


@dataclass(frozen=True)
class Shrunk(Recipe):
    """The training of a smaller BERT; ``inner`` says what else is done, to a model that is smaller already."""

    choices: tuple[Choice, ...]
    inner: Recipe = field(default_factory=AllTokens)

    def collate(self, context: Context) -> Collate:
        return self.inner.collate(context)

    def prepare(self, model: Any, context: Context, told: dict) -> nn.Module:
        shrink(model, chosen(self.choices, told, context))
        return self.inner.prepare(PrunedBertForSequenceClassification.from_unpruned(model), context, told)

    def additions(self, model: nn.Module, context: Context, say: Say) -> Additions:
        return self.inner.additions(model, context, say)

    def finish(self, model: nn.Module) -> tuple[nn.Module, dict]:
        return self.inner.finish(model)


@dataclass
class StructurePruning(Method):
    """Remove layers, heads, neurons or feed-forwards by one choice or several, then train once; tokens may leave too.

    What is trained, measured and kept is smaller: there are no masks. Training begins where the last choice says: the
    pre-trained model ("rewound"), or the fine-tuned one, whose logits are imitated then. Pruning tokens has its own.
    """

    choices: tuple[Choice, ...]
    tokens: TokenPruning | None = None

    def __post_init__(self) -> None:
        parts: list[Any] = [*self.choices, *([self.tokens] if self.tokens else [])]
        self.name = ".".join(part.name for part in parts)
        self.title = ", ".join(part.title for part in parts)
        self.variant = ", ".join(part.variant for part in parts)
        self.own_label = ".".join(f"{choice.name}_{choice.level}" for choice in self.choices)
        self.label = ".".join([self.own_label, *([self.tokens.label] if self.tokens else [])])

    @property
    def start(self) -> str:
        return self.choices[-1].start

    def settings(self, context: Context) -> dict:
        settings = {"structure": [choice.settings() for choice in self.choices], "start": self.start or None}
        return settings | (self.tokens.settings(context) if self.tokens else {})

    def stages(self, context: Context, dense: Stage) -> list[Stage]:
        """List the training, which is told what has been measured; without one, the measurements."""
        sources = self._sources(context, dense)
        own = {"structure": [choice.settings() for choice in self.choices]}
        if self.tokens:
            stages = self.tokens.stages(context, dense)
            return [
                replace(
                    stage,
                    name=f"{self.own_label}.{stage.name}",
                    recipe=Shrunk(self.choices, stage.recipe),
                    settings=stage.settings | own,
                    told_by=sources,
                )
                for stage in stages
            ]
        if not self.start:  # ``finalize`` is told by them
            return [*sources, dense]
        teacher = None if self.start == "pretrained" else dense
        name, settings = f"{self.label}_seed{context.seed}", context.settings() | own
        return [Stage(name, context, Shrunk(self.choices), settings, teacher, teacher, told_by=sources)]

    def _sources(self, context: Context, dense: Stage | None) -> tuple[Stage, ...]:
        return tuple(unique(stage for choice in self.choices for stage in choice.sources(context, dense)))

    def collate(self, context: Context) -> Collate:
        return (self.tokens or AllTokens()).collate(context)

    def finalize(self, trained: Sequence[Trained], context: Context, dense: nn.Module, say: Say) -> nn.Module:
        if self.tokens:
            return self.tokens.finalize(trained, context, dense, say)
        if self.start:
            return trained[-1].model
        told = {source.title: one.result for source, one in zip(self._sources(context, None), trained, strict=False)}
        return Shrunk(self.choices).prepare(copy.deepcopy(dense), context, told).to(next(dense.parameters()).device)

    def load(self, folder: Path, context: Context) -> nn.Module:
        return PrunedBertForSequenceClassification.from_pretrained(folder)

    def cost(self, model: nn.Module, context: Context) -> Cost:
        return self.tokens.cost(model, context) if self.tokens else super().cost(model, context)

    def describe(self, model: Any, context: Context) -> dict:
        return describe_structure(model, context) | (self.tokens.describe(model, context) if self.tokens else {})

    def examples(self, model: nn.Module, context: Context, rows: int) -> list[dict]:
        return self.tokens.examples(model, context, rows) if self.tokens else []


def describe_structure(model: Any, context: Context) -> dict:
    """Describe what is left: layers and heads by their numbers, neurons by how many, and what share of the weights."""
    structure, dense = Structure.of(model.config), context.backbone.empty(context.task)
    kept = {
        "layers": list(structure.layers),
        "heads": [list(heads) for heads in structure.heads],
        "neurons": [len(neurons) for neurons in structure.neurons],
    }
    left, total = sum(map(Tensor.numel, plain_parameters(model))), sum(map(Tensor.numel, dense.parameters()))
    shares = {"weights_remaining": left / total, "weights_remaining_published": published_share(structure, dense)}
    return {"kept": kept} | {name: round(share, 6) for name, share in shares.items()}


def plain_parameters(model: nn.Module) -> list[nn.Parameter]:
    """List the parameters of a model but for those of students, which a dense one does not have."""
    return [x for name, x in model.named_parameters() if not name.startswith("students.")]


def published_share(structure: Structure, dense: Any) -> float:
    """Compute the share of weights that remain as Liang et al. (2021) do, without biases, norms and layers' own."""
    config, depth = dense.config, dense.config.num_hidden_layers
    width = config.hidden_size // config.num_attention_heads
    heads = depth * config.num_attention_heads - sum(map(len, structure.heads))
    neurons = depth * config.intermediate_size - sum(map(len, structure.neurons))
    gone = 4 * width * config.hidden_size * heads + 2 * config.hidden_size * neurons
    return 1 - gone / sum(map(Tensor.numel, dense.parameters()))
