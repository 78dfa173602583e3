"""Which parts of a BERT stay: layers by their place or by what they do, tickets by importance.

A choice is made among what the choices before it have left, by measurements on training rows.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pruner.compress.chain import LAYERS, WIDTH, Part
from pruner.compress.structure.describe import describe_structure
from pruner.compress.structure.importance import (
    losing_feed_forwards,
    losing_heads,
    normalise,
    random_feed_forwards,
    random_heads,
    winning_feed_forwards,
    winning_heads,
)
from pruner.compress.structure.measures import Contribution, Importance, Skipping, measured, reading, scores_of
from pruner.compress.structure.shrink import Structure, shrink
from pruner.training.context import Context
from pruner.training.stage import Stage
from pruner.utils.errors import SettingError

APART = 1_000_000  # added to a seed for what is drawn beside training


class Choice(Part):
    """One way of choosing which parts of a BERT stay; what does not is removed before the training."""

    start: Any = "pretrained"

    @abstractmethod
    def narrow(self, structure: Structure, told: dict, context: Context) -> Structure:
        """Return what stays of a structure, by the results of the sources."""

    def prepare(self, model: Any, context: Context, told: dict) -> Any:
        return shrink(model, self.narrow(Structure.of(model.config), told, context))

    def describe(self, model: Any, context: Context) -> dict:
        return describe_structure(model, context)


def odd_or_even(layers: int, count: int, first: int) -> list[int]:
    """Take every other layer, down from the ``first`` of numbers that begin with 1 (as in the paper)."""
    return [number - 1 for number in range(first, 0, -2)][:count]


# Which layers leave, [number] counted from 0, by their number and by how many are to leave (Sajjad et al. 2020).
PLACES: dict[str, Callable[[int, int], list[int]]] = {
    "layers-top": lambda layers, count: list(range(layers - count, layers)),
    "layers-bottom": lambda layers, count: list(range(count)),
    "layers-odd": lambda layers, count: odd_or_even(layers, count, layers - 1 + layers % 2),
    "layers-even": lambda layers, count: odd_or_even(layers, count, layers - layers % 2),
    "layers-symmetric": lambda layers, count: [(layers - count) // 2 + number for number in range(count)],
}
# What is measured, which model's, and the values by layer, of which the lowest leave.
MEASURED: dict[str, tuple[Any, str, bool, Callable[[dict], list[float]]]] = {
    "layers-contribution": (Contribution, "contribution", False, lambda told: [-x for x in told["cls"]]),
    "layers-contribution-all": (Contribution, "contribution", False, lambda told: [-x for x in told["all"]]),
    "layers-loss": (Skipping, "skipping", True, lambda told: told["skipping"]),
}
TITLES = {
    "layers-top": "drop top layers",
    "layers-bottom": "drop bottom layers",
    "layers-odd": "drop odd layers",
    "layers-even": "drop even layers",
    "layers-symmetric": "drop middle layers",
    "layers-contribution": "drop layers that change [CLS] least",
    "layers-contribution-all": "drop layers that change tokens least",
    "layers-loss": "drop layers that the loss needs least",
}


@dataclass(frozen=True)
class Layers(Choice):
    """Drop ``count`` whole layers of the pre-trained model (Sajjad et al. 2020, section 3)."""

    name: str
    count: int

    place = LAYERS

    @property
    def title(self) -> str:
        return TITLES[self.name]

    @property
    def variant(self) -> str:
        return f"without {self.count} layer{'' if self.count == 1 else 's'}"

    @property
    def level(self) -> str:
        return str(self.count)

    def check(self, context: Context, layers: int) -> int:
        most = layers // 2 if self.name in ("layers-odd", "layers-even") else layers - 1
        if not 1 <= self.count <= most:
            raise SettingError("layers_dropped", f"{self.count} of {layers} for {self.name}; use 1 to {most}")
        return layers - self.count

    def sources(self, context: Context, dense: Stage | None) -> tuple[Stage, ...]:
        if self.name in PLACES:
            return ()
        recipe, name, of_dense, _ = MEASURED[self.name]
        return (measured(recipe(), name, context, dense if of_dense else None),)

    def narrow(self, structure: Structure, told: dict, context: Context) -> Structure:
        layers = structure.layers
        if self.name in PLACES:
            dropped = {layers[place] for place in PLACES[self.name](len(layers), self.count)}
        else:
            _, name, _, values_of = MEASURED[self.name]
            values = values_of(reading(told, name, context))
            dropped = {*sorted(layers, key=lambda layer: values[layer])[: self.count]}
        return structure.keep_layers([layer for layer in layers if layer not in dropped])


BY_SCORES = {
    "winning": (winning_heads, winning_feed_forwards),
    "losing": (losing_heads, losing_feed_forwards),
}


@dataclass(frozen=True)
class Ticket(Choice):
    """Keep the heads and the whole feed-forwards of a super ticket, or as many others (Liang et al. 2021, section 3).

    ``kind`` is ``winning``, ``losing`` or ``random``; ``percent`` of the heads leave, and ``feed_forwards``, or by
    default as many of them as the published levels have.
    """

    kind: str
    percent: float
    feed_forwards: int | None = None

    place = WIDTH

    @property
    def name(self) -> str:
        return f"{self.kind}-ticket"

    @property
    def title(self) -> str:
        return f"{self.kind} ticket"

    @property
    def variant(self) -> str:
        more = f" and {self.feed_forwards} feed-forwards" if self.separate else ""
        return f"without {self.percent:g} % of heads{more}"

    @property
    def level(self) -> str:
        return f"{self.percent:g}" + (f"-{self.feed_forwards}" if self.separate else "")

    @property
    def separate(self) -> bool:
        return self.feed_forwards is not None

    def check(self, context: Context, layers: int) -> int:
        if (self.feed_forwards or 0) > layers:
            raise SettingError("ticket_feed_forwards", f"{self.feed_forwards} of {layers} cannot leave; use less")
        return layers

    def counts(self, layers: int, heads: int) -> tuple[int, int]:
        """Return how many heads and feed-forwards leave a BERT of that size; a head of each layer stays."""
        n = min(math.floor(layers * heads * self.percent / 100 + 1e-9), layers * heads - layers)
        if self.feed_forwards is not None:
            return n, self.feed_forwards
        return n, math.floor(self.percent / 10 * layers / 12 + 1e-9)

    def sources(self, context: Context, dense: Stage | None) -> tuple[Stage, ...]:
        return () if self.kind == "random" else (importance_stage(context, dense),)

    def narrow(self, structure: Structure, told: dict, context: Context) -> Structure:
        rows, heads = list(structure.layers), len(structure.heads[0])
        n, m = self.counts(len(rows), heads)
        if self.kind == "random":
            seed = context.seed + APART
            kept, whole = random_heads((len(rows), heads), n, seed), random_feed_forwards(len(rows), m, seed)
        else:
            scores = normalise(scores_of(told, context))
            choose_heads, choose_feed_forwards = BY_SCORES[self.kind]
            kept, whole = choose_heads(scores.heads[rows], n), choose_feed_forwards(scores.feed_forwards[rows], m)
        size = max(rows) + 1
        return structure.mask(heads=spread(kept, rows, size)).mask(neurons=spread(whole, rows, size))


def spread(mask: Tensor, rows: Sequence[int], size: int) -> Tensor:
    """Put the rows of a mask where their layers are in the dense model."""
    everywhere = torch.ones((size, *mask.shape[1:]), dtype=torch.bool)
    everywhere[list(rows)] = mask.cpu()
    return everywhere


def importance_stage(context: Context, dense: Stage | None) -> Stage:
    return measured(Importance(), "importance", context, dense)
