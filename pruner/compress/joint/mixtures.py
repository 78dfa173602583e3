"""The smaller models among which a budget chooses: fewer layers, narrower ones, and fewer tokens in them.

Layers, heads and neurons leave in a fixed order, so that of two models that one training serves the smaller is a part
of the larger (as in DynaBERT, Hou et al. 2020, which orders heads and neurons by importance). A mixture has four
numbers: layers, width, and the two of a schedule.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pruner.compress.joint.budgets import Budget, FlopsBudget
from pruner.compress.structure.importance import Scores
from pruner.compress.structure.shrink import Structure
from pruner.compress.structure.width import largest_reduction, narrowed, shape_of
from pruner.compress.tokens.budget import bisect
from pruner.compress.tokens.sampled import CANDIDATES, STEEPNESS, candidates, steep_schedule
from pruner.utils.errors import SettingError

AXES = ("tokens", "width", "depth")
NEGLIGIBLE = 1.005  # a reduction for which nothing need leave
ALONE = 0.25  # share of the steps in which a single axis meets the budget: each must be able to
COARSE = 4  # of these steps, from one width to the next among which a budget chooses
STEPS = 16  # widths between all and the narrowest that is sampled, on a logarithmic scale


@dataclass(frozen=True)
class Mixture:
    """One smaller model: what is left of the layers, and the rate of each."""

    structure: Structure
    schedule: tuple[float, ...]


class Space:
    """All mixtures of a BERT for sentences of some ``lengths``, on which FLOPs are counted.

    Args:
        scores: by which heads and neurons leave: roots of what a part is worth, the least of them per FLOP first.
        order: in which layers leave.
        reach: the largest FLOPs reduction that is sampled.
    """

    def __init__(
        self, config: Any, lengths: Sequence[int], scores: Scores, order: Sequence[int], reach: float, seed: int = 0
    ) -> None:
        self.config, self.lengths, self.scores, self.order = config, list(map(int, lengths)), scores, order
        self.reach, self.seed, self.full = reach, seed, Structure.of(config)
        self.flops = FlopsBudget(reach, config, self.lengths)
        self._structures = dict[tuple[int, int], Structure]()

    @property
    def depth(self) -> int:
        return len(self.full.layers)

    def structure(self, dropped: int, step: int) -> Structure:
        """Return what is left without so many layers, and with a width of so many of the ``STEPS``."""
        if (dropped, step) not in self._structures:
            kept = self.full.keep_layers(self.order[dropped:])
            most = largest_reduction(self.config, self.depth - dropped, self.lengths)
            width = min(self.reach ** (step / STEPS), most)
            narrow = narrowed(kept, self.config, self.lengths, width, self.scores, squared=True) if step else kept
            self._structures[dropped, step] = narrow
        return self._structures[dropped, step]

    def reduction(self, structure: Structure) -> float:
        """Return by which factor fewer layers, heads and neurons reduce the FLOPs."""
        return self.flops.reduction(structure)

    def leaving(self, reduction: float) -> float:
        """Return how many layers would leave for that reduction, as a fraction."""
        return min(self.depth - 1.0, self.depth - self.depth / reduction)

    def sample(self, step: int) -> Mixture:
        """Draw the mixture of a training step, the same whenever it is asked for: any reduction up to ``reach``."""
        generator = np.random.default_rng((self.seed, step))
        reduction = 1 / generator.uniform(1 / self.reach, 1)
        alone, steepness = generator.random() < ALONE, generator.uniform(*STEEPNESS)
        shares = np.eye(len(AXES))[generator.integers(len(AXES))] if alone else generator.dirichlet([1] * len(AXES))
        _, width, depth = reduction**shares
        dropped, narrowness = round(self.leaving(depth)), round(STEPS * math.log(width) / math.log(self.reach))
        structure = self.structure(dropped, narrowness)
        left = reduction / self.reduction(structure)
        shape, lengths = shape_of(structure, self.config), np.asarray(self.lengths, np.float64)
        if left <= NEGLIGIBLE or not shares[0]:
            return Mixture(structure, (0.0,) * shape.depth)
        return Mixture(structure, tuple(steep_schedule(shape, lengths, steepness, 1 / left)))

    def meeting(self, budget: Budget, axes: Sequence[str] = AXES) -> Iterator[Mixture]:
        """List the mixtures that meet a budget by what may leave."""
        for dropped in range(self.depth if "depth" in axes else 1):
            for step in range(0, STEPS + 1, COARSE) if "width" in axes else [0]:
                structure = self.structure(dropped, step)
                if met := budget.target / budget.reduction(structure) <= NEGLIGIBLE:
                    # A narrower one would reduce by more than is asked for.
                    exact = self._exactly(budget, dropped, step) if step else structure
                    yield Mixture(exact, (0.0,) * (self.depth - dropped))
                    break
                if "tokens" in axes:
                    yield from self._with_tokens(budget, structure)
            if met and not step:  # with fewer layers it would too
                break

    def _exactly(self, budget: Budget, dropped: int, step: int) -> Structure:
        """Return the structure without so many layers whose width does the rest, no narrower than that of a step."""
        kept = self.full.keep_layers(self.order[dropped:])

        def of_width(width: float) -> Structure:
            return narrowed(kept, self.config, self.lengths, width, self.scores, squared=True)

        most = self.reach ** (step / STEPS)
        _, width = bisect(lambda more: budget.reduction(of_width(1 + more)) < budget.target, most - 1, steps=16)
        return of_width(1 + width)

    def _with_tokens(self, budget: Budget, structure: Structure) -> Iterator[Mixture]:
        layers = len(structure.layers)
        try:
            schedules = list(candidates(layers, lambda family: budget.fit(structure, family), CANDIDATES[::2]))
        except SettingError:  # so many tokens cannot leave
            return
        yield from (Mixture(structure, tuple(schedule)) for schedule in schedules)
