"""Token pruning before the steps of an LSTM, as methods."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import nn
from transformers import TrainerCallback

from pruner.compress.tokens.lstm import PrunedLstmForSequenceClassification
from pruner.compress.tokens.methods import TokenPruning
from pruner.training.context import Context
from pruner.training.stage import Additions, Say


@dataclass
class LstmPruning(TokenPruning):
    """Drop words before the LSTM reads; ``rate_start`` is the rate at the first step, ``None`` where it is constant."""

    rate_start: float | None = None

    model_class: ClassVar[Any] = PrunedLstmForSequenceClassification

    def settings(self, context: Context) -> dict:
        return {"pruning_rate_start": self.rate_start} | self._student_settings()

    def additions(self, model: nn.Module, context: Context, say: Say) -> Additions:
        ramp = [] if self.rate_start is None else [RateRamp(model, self.rate_start)]
        return replace(super().additions(model, context, say), callbacks=ramp)

    def _schedule_section(self, model: Any) -> dict:
        return {"target_prune_rate": model.pruning.schedule[0], "schedule_source": self.source}


class RateRamp(TrainerCallback):
    """Lets the rate grow linearly from a start to its target at the last optimizer step, as published."""

    def __init__(self, model: Any, start: float) -> None:
        self.model, self.start = model, start

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        share = state.global_step / max(1, state.max_steps - 1)
        self.model.ramp_rate = self.start + (self.model.pruning.schedule[0] - self.start) * min(1.0, share)
