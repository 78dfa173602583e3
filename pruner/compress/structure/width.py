"""Heads and neurons chosen together, by importance per cost, until a budget of FLOPs or of parameters is met.

After Michel et al. (2019) for heads and McCarley (2019) for both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from pruner.compress.chain import WIDTH
from pruner.compress.structure.choices import APART, Choice, importance_stage
from pruner.compress.structure.importance import Scores, normalise
from pruner.compress.structure.measures import scores_of
from pruner.compress.structure.shrink import Structure
from pruner.models.flops import BertShape, LayerShape, dense_flops, rank_of
from pruner.training.context import Context
from pruner.training.stage import Stage
from pruner.utils.errors import SettingError

BLOCK = 32  # neurons that stay or leave together: matrix products of other sizes are slower


class Piece(NamedTuple):
    """A head, or a block of neurons, of the layer at a place among those that are left."""

    place: int
    numbers: tuple[int, ...]
    importance: float
    cost: float


@dataclass(frozen=True)
class Width(Choice):
    """Keep the heads and neurons that are most important for what they cost, or random ones of equal cost.

    ``cost`` is ``flops``, of the whole model on the dev set's lengths, or ``parameters``, of the encoder. Each layer
    keeps a head and a block of neurons. ``trained`` says whether the fine-tuned model is trained on without the rest,
    imitating its own logits from before.
    """

    reduction: float
    cost: str = "flops"
    random: bool = False
    trained: bool = True

    place = WIDTH

    @property
    def name(self) -> str:
        return "-".join(["width", *(["random"] if self.random else []), *([] if self.trained else ["untrained"])])

    @property
    def title(self) -> str:
        which = "random" if self.random else "important"
        return f"{which} heads and neurons{'' if self.trained else ', not retrained'}"

    @property
    def variant(self) -> str:
        return f"{self.reduction:g}x {'FLOPs' if self.cost == 'flops' else self.cost}"

    @property
    def level(self) -> str:
        return f"{self.reduction:g}x" + ("" if self.cost == "flops" else f"-{self.cost}")

    @property
    def start(self) -> str:
        return "finetuned" if self.trained else ""

    def sources(self, context: Context, dense: Stage | None) -> tuple[Stage, ...]:
        return () if self.random else (importance_stage(context, dense),)

    def check(self, context: Context, layers: int) -> int:
        config = context.backbone.model_config(context.task)
        most = largest_reduction(config, layers, context.dev_lengths, self.cost)
        if self.reduction > most:
            told = f"{math.floor(100 * most) / 100:g} is the most"
            raise SettingError("width_reduction", f"{self.reduction:g} cannot be met, {told}; use less")
        return layers

    def narrow(self, structure: Structure, told: dict, context: Context) -> Structure:
        config, lengths = context.backbone.model_config(context.task), context.dev_lengths
        scores = None if self.random else normalise(scores_of(told, context))
        return narrowed(structure, config, lengths, self.reduction, scores, self.cost, seed=context.seed + APART)


def largest_reduction(config: Any, layers: int, lengths: Sequence[int], kind: str = "flops") -> float:
    """Return by how much a BERT of so many layers can be reduced, a head and a block of neurons of each staying."""
    full = Structure.of(config).keep_layers(range(layers))
    least = Structure(full.layers, ((0,),) * layers, (tuple(range(BLOCK)),) * layers)
    dense, smallest = (whole_cost(kind, shape_of(one, config), lengths) for one in (full, least))
    return dense / smallest


def narrowed(
    structure: Structure,
    config: Any,
    lengths: Sequence[int],
    reduction: float,
    scores: Scores | None,
    kind: str = "flops",
    seed: int = 0,
    squared: bool = False,
) -> Structure:
    """Let the heads and blocks of neurons leave that are least important for what they cost, until that is reduced.

    Args:
        config: of the BERT, all of it or smaller; ``lengths`` are those of the sentences on which FLOPs are counted.
        scores: of the dense model's parts; without, random ones leave.
        squared: what parts are worth together is a sum of squares.
    """
    width = config.hidden_size // config.num_attention_heads
    total = whole_cost(kind, shape_of(structure, config), lengths)
    costs = part_costs(kind, config.hidden_size, width, lengths)
    generator = np.random.default_rng(seed)
    layers = [parts_of(structure, place, scores, costs, generator) for place in range(len(structure.layers))]
    removable = [part for groups in layers for group in groups for part in group[1:]]  # the best of each stays
    if scores is None:
        removable = [removable[number] for number in generator.permutation(len(removable))]
    else:
        removable.sort(key=lambda part: part.importance ** (2 if squared else 1) / part.cost)
    excess, removed = total * (1 - 1 / reduction), set[Piece]()
    for part in removable:
        if excess > 0:
            removed.add(part)
            excess -= part.cost
    kept = [[left(group, removed) for group in groups] for groups in layers]
    heads, neurons = zip(*kept, strict=True)
    return Structure(structure.layers, heads, neurons)


def parts_of(
    structure: Structure, place: int, scores: Scores | None, costs: tuple[float, float], generator: np.random.Generator
) -> tuple[list[Piece], list[Piece]]:
    """List the heads of a layer, and its neurons in blocks, the best first; without scores in any order.

    A block's importance is the root of its neurons' squares. A head's is the absolute value of a sum over its features,
    in which they partly cancel; a sum of absolute values would let no block leave before almost all heads have.
    """
    layer, head_cost, neuron_cost = structure.layers[place], *costs

    def ranked(numbers: tuple[int, ...], values: Tensor | None) -> list[tuple[int, float]]:
        if values is None:
            return [(numbers[at], 0.0) for at in generator.permutation(len(numbers))]
        return sorted(((number, values[number].item()) for number in numbers), key=lambda pair: -pair[1])

    heads = ranked(structure.heads[place], scores and scores.heads[layer])
    neurons = ranked(structure.neurons[place], scores and scores.neurons[layer])
    blocks = [neurons[start : start + BLOCK] for start in range(0, len(neurons), BLOCK)]
    return (
        [Piece(place, (number,), value, head_cost) for number, value in heads],
        [Piece(place, tuple(n for n, _ in b), math.hypot(*(v for _, v in b)), neuron_cost * len(b)) for b in blocks],
    )


def left(group: list[Piece], removed: set[Piece]) -> tuple[int, ...]:
    return tuple(sorted(number for part in group if part not in removed for number in part.numbers))


def shape_of(structure: Structure, config: Any) -> BertShape:
    """Return the sizes of what is left of a BERT of that config."""
    width = config.hidden_size // config.num_attention_heads
    pairs = zip(structure.heads, structure.neurons, strict=True)
    layers = tuple(LayerShape(len(heads) * width, len(neurons)) for heads, neurons in pairs)
    return BertShape(config.hidden_size, config.num_labels, layers, rank_of(config))


def whole_cost(kind: str, shape: BertShape, lengths: Sequence[int]) -> float:
    """Count the FLOPs of a model, or its encoder's parameters."""
    return dense_flops(shape, lengths) if kind == "flops" else float(encoder_parameters(shape))


def encoder_parameters(shape: BertShape) -> int:
    """Count the parameters of layers that all have a feed-forward."""
    d = shape.hidden
    return sum((4 * d + 3) * layer.attention + (2 * d + 1) * layer.intermediate + 6 * d for layer in shape.layers)


def part_costs(kind: str, hidden: int, width: int, lengths: Sequence[int]) -> tuple[float, float]:
    """Return what a head costs, and what a neuron does."""
    if kind == "parameters":
        return (4.0 * hidden + 3) * width, 2.0 * hidden + 1
    tokens, squares = (float((np.asarray(lengths, np.float64) ** power).sum()) for power in (1, 2))
    return (8 * tokens * hidden + 4 * squares) * width, 4 * tokens * hidden
