"""One model for many budgets: trained with sampled schedules, its schedule chosen when the budget is known.

After the Length-Adaptive Transformer (Kim and Cho 2021): there lengths are sampled and an evolutionary search chooses
them. Here both go by directions: how much each layer drops compared with the others, whatever the budget.
"""

from collections.abc import Callable, Sequence

import numpy as np
from transformers import TrainerCallback

from pruner.budget import Family, rates_of_shares, shares_flops
from pruner.errors import UserError
from pruner.flops import BertShape

# A direction is one number per layer, not negative: layer l drops exp(-severity * direction[l]) of what enters it.
STEEPNESS = (0.5, 3.0)  # of the sampled ones; 1 drops the same share in each layer, more than that later ones more
SEVEREST = 12.0
PARENTS, CHILDREN, ROUNDS = 4, 8, 3  # of the evolution
MUTATION = 0.5  # standard deviation of the logarithms


def steep_direction(layers: int, steepness: float) -> list[float]:
    """Shares retained are exp(-severity * (l / layers) ** steepness)."""
    return np.diff((np.arange(layers + 1) / layers) ** steepness).tolist()


def direction_family(direction: Sequence[float]) -> Family:
    """The schedules of a direction; the sum of its numbers is made 1."""
    total = np.cumsum(direction) / np.sum(direction)
    return lambda severity: rates_of_shares(np.exp(-SEVEREST * severity * total).tolist())


class SampleSchedules(TrainerCallback):
    """Gives the model another schedule for every step: any FLOPs reduction up to ``reach``, any steepness."""

    def __init__(self, model, lengths: Sequence[int], reach: float, seed: int) -> None:
        """``model`` is a pruned BERT, ``lengths`` are those of the sentences on which the FLOPs are counted."""
        self.model, self.reach, self.seed = model, reach, seed
        self.shape = BertShape.of(model.config)
        self.lengths = np.asarray(lengths, dtype=np.float64)
        self.unpruned = shares_flops(self.shape, self.lengths, [1.0] * self.shape.layers)

    def sample(self, step: int) -> list[float]:
        """The schedule of a step, the same whenever it is asked for."""
        generator = np.random.default_rng((self.seed, step))
        total = np.cumsum(steep_direction(self.shape.layers, generator.uniform(*STEEPNESS)))
        left = generator.uniform(1 / self.reach, 1)  # of the FLOPs
        low, high = 0.0, SEVEREST
        for _ in range(16):
            middle = (low + high) / 2
            flops = shares_flops(self.shape, self.lengths, np.exp(-middle * total))
            low, high = (middle, high) if flops > left * self.unpruned else (low, middle)
        # Of a rate of 0.001 no token leaves, but its layer has a student.
        return [max(0.001, rate) for rate in rates_of_shares(np.exp(-high * total).tolist())]

    def on_step_begin(self, args, state, control, **kwargs):
        self.model.set_schedule(self.sample(state.global_step))


def choose_schedule(
    layers: int, fit: Callable[[Family], list[float]], cost: Callable[[Sequence[float]], float], seed: int
) -> tuple[list[float], float]:
    """The schedule of least cost that evolution finds among those that meet a budget, and its cost.

    Args:
        fit: a family -> its schedule that meets the budget (``budget.fit_schedule``).
        cost: of a schedule; the lower the better.

    Raises:
        UserError: no schedule meets the budget.
    """
    generator = np.random.default_rng(seed)
    known: dict[tuple[float, ...], tuple[float, list[float]]] = {}  # by direction: the cost, the schedule

    def add(direction: Sequence[float]) -> None:
        try:
            schedule = fit(direction_family(direction))
        except UserError:  # a direction that cannot meet the budget
            return
        if schedule not in [schedule for _, schedule in known.values()]:
            known[tuple(direction)] = cost(schedule), schedule

    for steepness in (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0):
        add(steep_direction(layers, steepness))
    if not known:
        fit(direction_family([1.0] * layers))  # which says why
    for _ in range(ROUNDS):
        parents = sorted(known, key=lambda direction: known[direction][0])[:PARENTS]
        for number in range(CHILDREN):
            factors = np.exp(generator.normal(0, MUTATION, layers))
            add((np.array(parents[number % len(parents)]) * factors).tolist())
    cost_found, schedule = min(known.values())
    return schedule, cost_found
