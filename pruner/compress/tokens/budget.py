"""From a budget, a FLOPs reduction on real tokens, to the schedule that meets it."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from pruner.compress.tokens.flops import pruned_flops
from pruner.compress.tokens.schedule import Pruning
from pruner.models.flops import BertShape, Shape, dense_flops
from pruner.utils.errors import SettingError

TOLERANCE = 0.03  # of the reduction that was asked for
MOST_LENGTHS = 1000  # sentences that stand for all; their lengths are spread evenly over those that there are
LARGEST_RATE = 0.98

# Schedules from none (0) to the most (1) that it prunes; more of it leaves fewer tokens.
ScheduleFamily = Callable[[float], list[float]]


def uniform_family(layers: int) -> ScheduleFamily:
    """The same rate before every layer."""
    return lambda severity: [severity * LARGEST_RATE] * layers


def first_family(layers: int) -> ScheduleFamily:
    """A rate before the first layer alone."""
    return lambda severity: [severity * LARGEST_RATE] + [0.0] * (layers - 1)


SCHEDULE_FAMILIES = {"uniform": uniform_family, "first": first_family}


def path_family(path: Sequence[Sequence[float]]) -> ScheduleFamily:
    """Between the points of a search's path: the shares of a sentence that each layer retained, [points][layers]."""
    points, shares_by_layer = np.linspace(0, 1, len(path)), np.transpose(path)
    return lambda severity: rates_of_shares([np.interp(severity, points, shares) for shares in shares_by_layer])


def rates_of_shares(shares: Sequence[float] | np.ndarray) -> list[float]:
    """The share of a sentence that each layer retains, no more than the layer before it -> the share that it drops."""
    kept = np.minimum.accumulate([1.0, *shares])
    return np.minimum(LARGEST_RATE, 1 - kept[1:] / kept[:-1]).tolist()


def shares_flops(shape: BertShape, lengths: np.ndarray, shares: Sequence[float] | np.ndarray) -> float:
    """FLOPs where each layer retains, after its attention, a share of sentences of ``lengths`` tokens, rounded up."""
    tokens = [lengths, *(np.ceil(lengths * share - 1e-6) for share in shares)]
    return shape.ends(lengths) + sum(shape.layer(layer, *pair) for layer, pair in enumerate(pairwise(tokens)))


def bisect(too_little: Callable[[float], bool], high: float, steps: int) -> tuple[float, float]:
    """Bisect 0 to ``high`` where ``too_little`` ends: a number where it holds, and one close above where not."""
    low = 0.0
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if too_little(middle) else (low, middle)
    return low, high


def flops_reduction(shape: Shape, lengths: Sequence[int], pruning: Pruning) -> float:
    """Baseline / pruned on sentences of these lengths."""
    return dense_flops(shape, lengths) / pruned_flops(shape, lengths, pruning.keep_counts(lengths), pruning)


def fit_schedule(
    family: ScheduleFamily, target: float, lengths: Sequence[int], shape: Shape, pruning: Pruning
) -> list[float]:
    """Find the schedule of the family that reduces the FLOPs by the ``target``; rates have three decimals.

    ``lengths`` are the real tokens of the sentences on which it does; the scorers of ``pruning`` count.

    Raises:
        UserError: no schedule of the family is within 3 % of the target.
    """
    spread = sorted(int(length) for length in lengths)[:: max(1, len(lengths) // MOST_LENGTHS)]
    return fit_family(family, target, lambda rates: flops_reduction(shape, spread, pruning.with_schedule(rates)))


def fit_family(
    family: ScheduleFamily,
    target: float,
    reduction: Callable[[list[float]], float],
    constant: str = "target_flops_reduction",
) -> list[float]:
    """Find the schedule of the family whose ``reduction`` is the ``target``; rates have three decimals.

    Raises:
        UserError: no schedule of the family is within 3 % of the target; it names the ``constant`` that asks for it.
    """

    def rounded(severity: float) -> list[float]:
        return [round(rate, 3) for rate in family(severity)]

    def reached(severity: float) -> float:
        return reduction(rounded(severity))

    ends = bisect(lambda severity: reached(severity) < target, 1.0, steps=16)  # 3 decimals need no more
    nearest, best = min([(reached(end), end) for end in ends], key=lambda pair: abs(pair[0] - target))
    if abs(nearest / target - 1) > TOLERANCE:
        problem = f"{target:g} cannot be met within 3 %, the nearest is {nearest:.2f}; choose another"
        raise SettingError(constant, problem)
    return rounded(best)
