"""What a mixture may cost: FLOPs of real tokens, or time on this machine; each compared with the dense model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np

from pruner.compress.joint.times import Times, tokens_by_layer
from pruner.compress.structure.shrink import Structure
from pruner.compress.structure.width import shape_of
from pruner.compress.tokens.budget import ScheduleFamily, fit_family, fit_schedule
from pruner.compress.tokens.schedule import Pruning, make_pruning
from pruner.models.flops import dense_flops

CLOSE = 0.05  # so far a prediction may be from what is measured


class Budget(Protocol):
    """By which factor a mixture is to be cheaper than the dense model."""

    constant: ClassVar[str]  # of the script, for errors
    slack: ClassVar[float]  # how many times the FLOPs reduction may be larger than it, when it is met by width alone
    target: float

    def reduction(self, structure: Structure) -> float:
        """Return the factor that fewer layers, heads and neurons alone are worth."""

    def fit(self, structure: Structure, family: ScheduleFamily) -> list[float]:
        """Return the schedule of a family with which the structure meets it; a ``UserError`` if none does."""

    def told(self, structure: Structure, schedule: Sequence[float]) -> dict:
        """Return what the record says of a mixture that was chosen."""

    def corrected(self, model: Any, structure: Structure, schedule: Sequence[float]) -> Budget | None:
        """Return the same that knows what the model of a mixture really costs; ``None`` if this one is right."""


@dataclass(frozen=True)
class FlopsBudget(Budget):
    """FLOPs on sentences of these ``lengths``."""

    target: float
    config: Any
    lengths: Sequence[int]

    constant, slack = "target_flops_reduction", 1.0

    @cached_property
    def whole(self) -> float:
        return dense_flops(shape_of(Structure.of(self.config), self.config), self.lengths)

    def reduction(self, structure: Structure) -> float:
        return self.whole / dense_flops(shape_of(structure, self.config), self.lengths)

    def fit(self, structure: Structure, family: ScheduleFamily) -> list[float]:
        shape, left = shape_of(structure, self.config), self.target / self.reduction(structure)
        return fit_schedule(family, left, self.lengths, shape, by_attention(shape.depth))

    def told(self, structure: Structure, schedule: Sequence[float]) -> dict:
        return {}

    def corrected(self, model: Any, structure: Structure, schedule: Sequence[float]) -> Budget | None:
        return None


@dataclass(frozen=True)
class SpeedBudget(Budget):
    """Milliseconds for batches of sentences of these lengths, in the mean, by the times of a model's parts.

    Whole models were timed on these batches: stock takes ``dense_ms``, the same without padding ``whole_ms``, to which
    the sum of its parts is scaled. ``measure`` times a model beside stock and returns by which factor it is faster;
    what was chosen may turn out to take ``error`` times what its parts do, as weights that stay in a cache do.
    """

    target: float
    config: Any
    times: Times
    batches: Sequence[np.ndarray]
    dense_ms: float
    whole_ms: float
    measure: Callable[[Any], float]
    error: float = 1.0

    constant, slack = "target_speedup", 2.0

    def ms(self, structure: Structure, schedule: Sequence[float]) -> float:
        """Predict the milliseconds of a batch, in the mean."""
        return self.error * self.whole_ms / self._whole * self._sum(structure, schedule)

    @cached_property
    def _whole(self) -> float:
        whole = Structure.of(self.config)
        return self._sum(whole, [0.0] * len(whole.layers))

    def _sum(self, structure: Structure, schedule: Sequence[float]) -> float:
        tokens = tokens_by_layer(by_attention(len(schedule)).with_schedule(schedule), self.batches)
        return float(self.times.ms(shape_of(structure, self.config), tokens).mean())

    def speedup(self, structure: Structure, schedule: Sequence[float]) -> float:
        return self.dense_ms / self.ms(structure, schedule)

    def reduction(self, structure: Structure) -> float:
        return self.speedup(structure, [0.0] * len(structure.layers))

    def fit(self, structure: Structure, family: ScheduleFamily) -> list[float]:
        return fit_family(family, self.target, lambda schedule: self.speedup(structure, schedule), self.constant)

    def told(self, structure: Structure, schedule: Sequence[float]) -> dict:
        pruned = self.ms(structure, schedule)
        return {
            "predicted_ms": {"baseline": round(self.dense_ms, 4), "pruned": round(pruned, 4)},
            "predicted_speedup": round(self.dense_ms / pruned, 4),
            "parts_error": round(self.error, 4),
        }

    def corrected(self, model: Any, structure: Structure, schedule: Sequence[float]) -> Budget | None:
        off = self.speedup(structure, schedule) / self.measure(model)
        return None if abs(off - 1) <= CLOSE else replace(self, error=self.error * off)


def by_attention(layers: int) -> Pruning:
    """Return what tells fits to a budget that tokens leave by the attention that they receive."""
    return make_pruning([0.5] * layers, "attention", layers)
