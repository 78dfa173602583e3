"""The baseline of token pruning."""

from typing import Any

from pruner.compress.method import Dense
from pruner.compress.tokens.measures import count_tokens
from pruner.compress.tokens.schedule import Pruning
from pruner.training.context import Context


class Unpruned(Dense):
    """The dense model; its record says in token pruning's words that every layer computes all tokens."""

    def describe(self, model: Any, context: Context) -> dict:
        pruning = Pruning.none(context.backbone.shape(context.task).depth)
        is_lstm = context.backbone.name == "lstm"
        rates = {"target_prune_rate": 0.0} if is_lstm else {"schedule": list(pruning.schedule)}
        section = {"teacher": None, "schedule_source": "given", "target_flops_reduction": None, "count": "real"}
        return rates | section | {"tokens": count_tokens(context.dev_lengths, pruning)}
