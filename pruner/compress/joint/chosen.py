"""What methods have in common that choose for a budget by what it is met."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.joint.budgets import Budget, FlopsBudget, SpeedBudget
from pruner.compress.joint.timing import Beside, known_times
from pruner.compress.structure.describe import describe_structure
from pruner.compress.tokens.methods import TokenPruning
from pruner.compress.tokens.schedule import Pruning
from pruner.training.context import Context
from pruner.training.stage import Say
from pruner.utils.environment import named_dtype
from pruner.utils.errors import SettingError

ABLE = ("joint", "calibrated")  # to meet a budget of time; so begin the names of such methods


def check_speedups(options: Namespace) -> None:
    """Refuse a budget of time for methods that would not read it."""
    methods, also = options.pruning_methods, options.target_flops_reduction
    others = [name for name in methods if name.partition("-")[0] not in ABLE]
    if options.target_speedup and others and (len(others) == len(methods) or not also):
        raise SettingError("target_speedup", f"{others[0]} meets no budget of time; use --methods joint, or calibrated")


@dataclass(frozen=True)
class Speed:
    """By which factor a model is to be faster than the dense one, as a run measures it: in batches, in a dtype."""

    factor: float
    dtype: torch.dtype
    batch_size: int
    folder: Path | None  # where tables of times are kept

    @property
    def names(self) -> tuple[str, str]:
        """Return what it is called in tables and in names of folders."""
        dtype = str(self.dtype).removeprefix("torch.")
        short = f"{self.factor:g}x-faster_{dtype}_batch-{self.batch_size}"
        return f"{self.factor:g}x faster in {dtype}, batches of {self.batch_size}", short

    def budget(self, dense: Any, lengths: Sequence[int], most_batches: int | None, say: Say) -> SpeedBudget:
        """Return the budget on sentences of these ``lengths``; times that are not known are measured."""
        times = known_times(self.folder, dense, self.batch_size, self.dtype, max(lengths), say)
        beside = Beside(dense, lengths, self.batch_size, self.dtype, most_batches)
        took = beside(PrunedBertForSequenceClassification.from_unpruned(dense))
        whole = took["baseline_ms"], took["pruned_ms"]
        return SpeedBudget(
            self.factor, dense.config, times, beside.batches, *whole, lambda model: beside(model)["speedup"]
        )


@dataclass
class Chosen(TokenPruning):
    """A method whose finalized model has a ``choice``, what is to be recorded of how it was chosen.

    Its budget is ``speed``, or without one the FLOPs reduction ``target``.
    """

    name: str = ""
    speed: Speed | None = None

    def __post_init__(self) -> None:
        how, short = self.speed.names if self.speed else (f"for {self.target:g}x", f"{self.target:g}x")
        self.variant, self.label = how, f"{self.name}_{short}"

    def budget(self, dense: Any, context: Context, say: Say) -> Budget:
        if self.speed:
            return self.speed.budget(dense, context.dev_lengths, context.backbone.latency_batches, say)
        assert self.target is not None
        return FlopsBudget(self.target, dense.config, context.dev_lengths)

    def describe(self, model: Any, context: Context) -> dict:
        section = {"target_speedup": self.speed.factor} if self.speed else {}
        section |= super().describe(model, context) | describe_structure(model, context)
        return section | {"choice": model.choice}


def by_budget(name: str, options: Namespace, context: Context) -> list[dict[str, Any]]:
    """List what such a method is made with for each budget; raise a ``SettingError`` if there is none."""
    reductions, speedups = options.target_flops_reduction, options.target_speedup
    if not (reductions or speedups):
        problem = f"{name} needs a budget; give one, as 2, or several, or --target-speedup"
        raise SettingError("target_flops_reduction", problem)
    none = Pruning.none(context.backbone.shape(context.task).depth)
    size = options.latency_batch_size or context.train_settings.batch_size
    how = named_dtype(options.latency_dtype), size, Path(options.cache) / "times"
    budgets = [{"target": budget} for budget in reductions] + [{"speed": Speed(x, *how)} for x in speedups]
    return [{"pruning": none, "name": name} | budget for budget in budgets]
