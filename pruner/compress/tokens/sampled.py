"""One model for many budgets: trained with sampled schedules, its schedule chosen when the budget is known.

After the Length-Adaptive Transformer (Kim and Cho 2021), which samples lengths and chooses them by an evolutionary
search. Here a schedule has two numbers, how much it drops and how much more of it in later layers: so few that a choice
among them does not fit itself to the sentences on which it is made.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from transformers import TrainerCallback

from pruner.compress.tokens.budget import ScheduleFamily, bisect, rates_of_shares, shares_flops
from pruner.models.flops import BertShape
from pruner.utils.errors import UserError

# Layer l of L retains the share exp(-severity * (l / L) ** steepness) of a sentence. A steepness of 1 drops the same
# share of what enters in each layer; less drops more in the first layers, more in the last ones.
STEEPNESS = (0.5, 3.0)  # of the sampled schedules
CANDIDATES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)  # for the choice
SEVEREST = 12.0


def steep_shares(layers: int, steepness: float, severity: float) -> np.ndarray:
    """[layers] the shares of a sentence that the layers retain."""
    return np.exp(-severity * (np.arange(1, layers + 1) / layers) ** steepness)


def steep_family(layers: int, steepness: float) -> ScheduleFamily:
    """The schedules of one steepness, by their severity."""
    return lambda severity: rates_of_shares(steep_shares(layers, steepness, SEVEREST * severity))


def steep_schedule(shape: BertShape, lengths: np.ndarray, steepness: float, share: float) -> list[float]:
    """The schedule of a steepness that leaves a share of the FLOPs of a BERT on sentences of ``lengths``."""
    flops, shares = partial(shares_flops, shape, lengths), partial(steep_shares, shape.depth, steepness)
    limit = share * flops([1.0] * shape.depth)
    _, severity = bisect(lambda severity: flops(shares(severity)) > limit, SEVEREST, steps=16)
    return rates_of_shares(shares(severity))


def in_all_layers(schedule: Sequence[float]) -> list[float]:
    """The schedule with a rate in each layer: no token leaves for one of 0.001, but the layer keeps its student."""
    return [max(rate, 0.001) for rate in schedule]


class SampleSchedules(TrainerCallback):
    """Gives the model another schedule for every step: any FLOPs reduction up to ``reach``, any steepness."""

    def __init__(self, model, lengths: Sequence[int], reach: float, seed: int) -> None:
        """``model`` is a pruned BERT, ``lengths`` are those of the sentences on which the FLOPs are counted."""
        self.model, self.reach, self.seed = model, reach, seed
        self.shape, self.lengths = BertShape.of_model(model), np.asarray(lengths, dtype=np.float64)

    def sample(self, step: int) -> list[float]:
        """The schedule of a step, the same whenever it is asked for."""
        generator = np.random.default_rng((self.seed, step))
        return self.schedule(generator.uniform(*STEEPNESS), generator.uniform(1 / self.reach, 1))

    def schedule(self, steepness: float, share: float) -> list[float]:
        """The schedule of a steepness that leaves a share of the FLOPs."""
        return in_all_layers(steep_schedule(self.shape, self.lengths, steepness, share))

    def on_step_begin(self, args, state, control, **kwargs):
        self.model.set_schedule(self.sample(state.global_step))

    def on_epoch_end(self, args, state, control, **kwargs):
        # If the model is evaluated, then always with the same schedule, from the middle of those that are sampled.
        self.model.set_schedule(self.schedule(1.0, (1 / self.reach + 1) / 2))


def candidates(
    layers: int, fit: Callable[[ScheduleFamily], list[float]], among: Sequence[float] = CANDIDATES
) -> Iterator[list[float]]:
    """Yield the schedules of all steepnesses that ``fit`` a budget; if none does, raise its last ``UserError``."""
    found = False
    for steepness in among:
        try:
            schedule = fit(steep_family(layers, steepness))
        except UserError:
            if steepness == among[-1] and not found:
                raise
        else:
            found = True
            yield schedule
