"""PoWER-BERT's configuration search (Goyal et al. 2020, section 3.3): the schedule is learned with the weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import TrainerCallback

from pruner.compress.tokens.budget import bisect, shares_flops
from pruner.compress.tokens.soft_extract import SoftBert
from pruner.data.collate import Collate
from pruner.models.flops import BertShape
from pruner.training.context import Context
from pruner.training.stage import Additions, Recipe, Say
from pruner.utils.distributed import is_main

POINTS = 40  # of the path that a search keeps
BEYOND = 1.1  # a search goes a little further than it is asked to: other methods may need more of the tokens to leave
PLANNED = 0.9  # the part of the search in which the budget shrinks; the rest is spent on it


@dataclass(frozen=True)
class SearchSettings:
    """How PoWER-BERT's search goes.

    ``reach`` is the FLOPs reduction that it ends with; without one, ``penalty`` is PoWER-BERT's lambda (1e-4 to 7e-3).
    ``learning_rate`` is that of the soft-extract parameters (PoWER-BERT: 1e-4 to 1e-2).
    """

    reach: float | None
    penalty: float | None
    learning_rate: float

    @property
    def name(self) -> str:
        return f"soft-extract-{self.reach:g}x" if self.reach else f"soft-extract-lambda{self.penalty:g}"


@dataclass(frozen=True)
class SoftExtractSearch(Recipe):
    """A training with soft-extract layers; what others are told is the ``path`` of its retention configuration.

    The path is [points][layers] shares of a sentence, from all of it to the end of the search.
    """

    how: SearchSettings

    def collate(self, context: Context) -> Collate:
        return context.backbone.collate(context.task, with_lengths=True)

    def prepare(self, model: Any, context: Context, told: dict) -> SoftBert:
        soft = SoftBert(model, self.how.penalty or 0.0, float(np.mean(context.training_split.lengths)), POINTS)
        # Without budget or penalty, freeze the retention parameters: noise alone would move them.
        soft.soft_extract.requires_grad_(bool(self.how.reach or self.how.penalty))
        return soft

    def additions(self, model: Any, context: Context, say: Say) -> Additions:
        return Additions(
            [SearchCallback(model, self.how.reach, context, say)], {"soft_extract.": self.how.learning_rate}
        )

    def finish(self, model: Any) -> tuple[nn.Module, dict]:
        return model.model, {"path": model.path[~model.path.isnan().any(dim=1)].tolist()}


@torch.no_grad()
def shrink_to(soft: SoftBert, limit: float, flops: Callable[[Sequence[float]], float]) -> float:
    """Penalise the masses as much as it takes for the FLOPs not to be above ``limit``; returns how much that is.

    The penalty is PoWER-BERT's: each parameter of layer l loses l times as much as one of the first layer.
    """
    retention = soft.soft_extract.retention
    before, numbers = retention.clone(), torch.arange(1, len(retention) + 1, device=retention.device)[:, None]

    def penalised(penalty: float) -> float:
        retention.copy_((before - penalty * numbers).clamp(0, 1))
        retention[:, 0] = 1  # where [CLS] is
        return flops(soft.soft_extract.shares())

    if penalised(0.0) <= limit:
        return 0.0
    _, high = bisect(lambda penalty: penalised(penalty) > limit, 1.0, steps=24)
    penalised(high)
    return high


class SearchCallback(TrainerCallback):
    """Keeps the soft-extract parameters possible and within the budget, and the path that they take."""

    def __init__(self, soft: SoftBert, reach: float | None, context: Context, say: Say) -> None:
        self.soft, self.context, self.say = soft, context, say
        self.goal = None if reach is None else reach * BEYOND
        self.shape, self.lengths = BertShape.of_model(soft.model), np.array(context.dev_lengths, dtype=np.float64)
        self.unpruned = self.flops([1.0] * len(soft.path[0]))

    def flops(self, shares: Sequence[float]) -> float:
        return shares_flops(self.shape, self.lengths, shares)

    def on_step_end(self, args, state, control, **kwargs):
        self.soft.soft_extract.project()
        progress = state.global_step / state.max_steps
        if self.goal:
            progress = min(1.0, progress / PLANNED)
            shrink_to(self.soft, self.unpruned * (1 - (1 - 1 / self.goal) * progress), self.flops)
        point = int(progress * POINTS + 1e-9)
        self.soft.path[point] = torch.tensor(self.soft.soft_extract.shares())

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "retained_tokens" in logs:  # all are computed; how much of them goes on, the parameters say
            logs["retained_tokens"] = float(np.mean(self.soft.soft_extract.shares()))

    def on_epoch_end(self, args, state, control, **kwargs):
        if is_main():
            metrics = self.context.metrics(
                self.soft, self.context.backbone.collate(self.context.task, with_lengths=True)
            )
            results = ", ".join(f"{name} {100 * value:.1f}" for name, value in metrics.items())
            retained = " ".join(f"{share:.2f}" for share in self.soft.soft_extract.shares())
            self.say(f"search, epoch {round(state.epoch)}: {results}; retained {retained}")
