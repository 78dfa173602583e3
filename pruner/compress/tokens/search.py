"""PoWER-BERT's configuration search (Goyal et al. 2020, section 3.3): the schedule is learned with the weights."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import BertForSequenceClassification, TrainerCallback

from pruner.compress.tokens.budget import bisect, shares_flops
from pruner.compress.tokens.schedule import SearchSettings
from pruner.compress.tokens.soft_extract import SoftBert
from pruner.data.collate import Collate, SplitDataset
from pruner.models.flops import BertShape
from pruner.training.curves import Curves
from pruner.training.train import train
from pruner.training.trainer import TrainSettings

POINTS = 40  # of the path that a search keeps
BEYOND = 1.1  # a search goes a little further than it is asked to: other methods may need more of the tokens to leave
PLANNED = 0.9  # the part of the search in which the budget shrinks; the rest is spent on it


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

    def __init__(
        self,
        soft: SoftBert,
        reach: float | None,
        flops: Callable[[Sequence[float]], float],
        after_epoch: Callable[[int, list[float]], None],
    ) -> None:
        self.soft, self.flops, self.after_epoch = soft, flops, after_epoch
        self.goal = None if reach is None else reach * BEYOND
        self.unpruned = flops([1.0] * len(soft.path[0]))

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
        self.after_epoch(round(state.epoch), self.soft.soft_extract.shares())


def make_soft(model: BertForSequenceClassification, data: SplitDataset, settings: SearchSettings) -> SoftBert:
    """A fine-tuned model with soft-extract layers, before the search."""
    return SoftBert(model, settings.penalty or 0.0, float(np.mean(data.split.lengths)), POINTS)


def search(
    soft: SoftBert,
    data: SplitDataset,
    lengths: Sequence[int],
    training: TrainSettings,
    settings: SearchSettings,
    seed: int,
    folder: Path,
    collate: Collate,
    after_epoch: Callable[[SoftBert, int, list[float]], None],
    say: Callable[[str], None],
    curves: Curves | None = None,
) -> list[list[float]]:
    """Train a model with soft-extract layers; a search that was interrupted goes on.

    Args:
        lengths: real tokens of the sentences on which the budget is to be met.
        folder: where the checkpoints are.
        after_epoch: called with the soft model, the epoch's number and what the layers retain.
        say: is told what the user should know, in a line.
        curves: where the search is logged for TensorBoard, if it is.

    Returns:
        the path of the retention configuration, [points][layers] shares of a sentence, from all of it to the end.
    """
    shape, tokens = BertShape.of(soft.model.config), np.array(lengths, dtype=np.float64)
    callback = SearchCallback(
        soft,
        settings.reach,
        lambda shares: shares_flops(shape, tokens, shares),
        lambda epoch, shares: after_epoch(soft, epoch, shares),
    )
    # What nothing is gained by leaving out stays: without a penalty, noise alone would move the parameters.
    soft.soft_extract.requires_grad_(bool(settings.reach or settings.penalty))
    rates = {"soft_extract.": settings.learning_rate}
    train(soft, data, training, seed, folder, collate, "linear", [callback], rates, say, curves)
    return soft.path[~soft.path.isnan().any(dim=1)].tolist()
