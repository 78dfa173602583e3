"""PoWER-BERT's configuration search (Goyal et al. 2020, section 3.3): the schedule is learned with the weights."""

from dataclasses import dataclass
from functools import partial
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
class SoftExtractSearch(Recipe):
    """A training with soft-extract layers; what others are told is the ``path`` of its retention configuration.

    The path is [points][layers] shares of a sentence, from all of it to the end of the search. ``reach`` is the FLOPs
    reduction that it ends with; without one, ``penalty`` is PoWER-BERT's lambda (1e-4 to 7e-3). ``learning_rate`` is
    that of the soft-extract parameters (PoWER-BERT: 1e-4 to 1e-2).
    """

    reach: float | None
    penalty: float | None
    learning_rate: float

    @property
    def name(self) -> str:
        return f"soft-extract-{self.reach:g}x" if self.reach else f"soft-extract-lambda{self.penalty:g}"

    def collate(self, context: Context) -> Collate:
        return context.backbone.collate(context.task, with_lengths=True)

    def prepare(self, model: Any, context: Context, told: dict) -> SoftBert:
        soft = SoftBert(model, self.penalty or 0.0, float(np.mean(context.training_split.lengths)), POINTS)
        # Without budget or penalty, freeze the retention parameters: noise alone would move them.
        soft.soft_extract.requires_grad_(bool(self.reach or self.penalty))
        return soft

    def additions(self, model: Any, context: Context, say: Say) -> Additions:
        return Additions([SearchCallback(self, model, context, say)], {"soft_extract.": self.learning_rate})

    def finish(self, model: Any) -> tuple[nn.Module, dict]:
        return model.model, {"path": model.path[~model.path.isnan().any(dim=1)].tolist()}


class SearchCallback(TrainerCallback):
    """Keeps the soft-extract parameters possible and within the budget, and the path that they take."""

    def __init__(self, search: SoftExtractSearch, soft: SoftBert, context: Context, say: Say) -> None:
        self.search, self.soft, self.context, self.say = search, soft, context, say
        lengths = np.array(context.dev_lengths, dtype=np.float64)
        self.flops = partial(shares_flops, BertShape.of_model(soft.model), lengths)
        self.unpruned = self.flops([1.0] * len(soft.path[0]))

    @torch.no_grad()
    def shrink_to(self, limit: float) -> None:
        """Penalise the masses as much as it takes for the FLOPs not to be above ``limit``.

        The penalty is PoWER-BERT's: each parameter of layer l loses l times as much as one of the first layer.
        """
        retention = self.soft.soft_extract.retention
        before, numbers = retention.clone(), torch.arange(1, len(retention) + 1, device=retention.device)[:, None]

        def penalised(penalty: float) -> float:
            retention.copy_((before - penalty * numbers).clamp(0, 1))
            retention[:, 0] = 1  # where [CLS] is
            return self.flops(self.soft.soft_extract.shares())

        if penalised(0.0) > limit:
            penalised(bisect(lambda penalty: penalised(penalty) > limit, 1.0, steps=24)[1])

    def on_step_end(self, args, state, control, **kwargs):
        self.soft.soft_extract.project()
        progress = state.global_step / state.max_steps
        if self.search.reach:
            progress = min(1.0, progress / PLANNED)
            self.shrink_to(self.unpruned * (1 - (1 - 1 / (self.search.reach * BEYOND)) * progress))
        point = int(progress * POINTS + 1e-9)
        self.soft.path[point] = torch.tensor(self.soft.soft_extract.shares())

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "retained_tokens" in logs:  # all are computed; how much of them goes on, the parameters say
            logs["retained_tokens"] = float(np.mean(self.soft.soft_extract.shares()))

    def on_epoch_end(self, args, state, control, **kwargs):
        if is_main():
            metrics = self.context.metrics(self.soft, self.search.collate(self.context))
            results = ", ".join(f"{name} {100 * value:.1f}" for name, value in metrics.items())
            retained = " ".join(f"{share:.2f}" for share in self.soft.soft_extract.shares())
            self.say(f"search, epoch {round(state.epoch)}: {results}; retained {retained}")
