"""What methods have in common that choose for a budget by what it is met."""

from argparse import Namespace
from typing import Any

from pruner.compress.structure.describe import describe_structure
from pruner.compress.tokens.methods import TokenPruning
from pruner.compress.tokens.schedule import Pruning
from pruner.training.context import Context
from pruner.utils.errors import SettingError


class Chosen(TokenPruning):
    """A method whose finalized model has a ``choice``, what is to be recorded of how it was chosen."""

    def describe(self, model: Any, context: Context) -> dict:
        return super().describe(model, context) | describe_structure(model, context) | {"choice": model.choice}


def by_budget(name: str, options: Namespace, context: Context) -> list[dict[str, Any]]:
    """List what such a method is made with for each budget; raise a ``SettingError`` if there is none."""
    if not options.target_flops_reduction:
        raise SettingError("target_flops_reduction", f"{name} needs a budget; give one, as 2, or several")
    none = Pruning.none(context.backbone.shape(context.task).depth)
    return [{"pruning": none, "name": name, "target": budget} for budget in options.target_flops_reduction]
