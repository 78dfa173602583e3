"""The linear layers of a BERT's encoder: queries, keys, values, attention's output, both of the feed-forward."""

from collections.abc import Callable
from typing import Any

from torch import nn

from pruner.models.bert_layers import layers_of


def _places(model: Any) -> list[tuple[nn.Module, str]]:
    places: list[tuple[nn.Module, str]] = []
    for layer in layers_of(model.bert):
        attention: Any = layer.attention
        places += [(attention.self, name) for name in ("query", "key", "value")]
        parents = (attention.output, layer.intermediate, layer.output)
        places += [(parent, "dense") for parent in parents if hasattr(parent, "dense")]  # no feed-forward, no such
    return places


def linears_of(model: Any) -> list[Any]:
    """List them, layer by layer."""
    return [getattr(parent, name) for parent, name in _places(model)]


def replace_linears(model: Any, make: Callable[[Any], nn.Module]) -> None:
    """Replace each by what ``make`` makes of it, in place."""
    for parent, name in _places(model):
        setattr(parent, name, make(getattr(parent, name)))
