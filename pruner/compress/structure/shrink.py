"""Removes layers, heads, neurons and feed-forwards from a BERT: what is left is smaller, and needs no masks.

What is left is kept in the config, as ``compression``, in the numbers of the dense model, so that ``from_pretrained``
builds the same shapes before it loads the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import BertForSequenceClassification

from pruner.models.bert_layers import layers_of

Model = TypeVar("Model", bound=BertForSequenceClassification)


@dataclass(frozen=True)
class Structure:
    """What is left of a BERT, in the numbers of the dense model; ``heads`` and ``neurons`` are those of its layers.

    Each layer has a head at least. One without neurons has no feed-forward: it computes LayerNorm(x) there, as where
    Liang et al. (2021) mask a feed-forward's output.
    """

    layers: tuple[int, ...]
    heads: tuple[tuple[int, ...], ...]
    neurons: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        for numbers in (self.layers, *self.heads, *self.neurons):
            if list(numbers) != sorted({*numbers}) or any(type(number) is not int or number < 0 for number in numbers):
                raise ValueError(f"compression: {list(numbers)!s:.60} are not different numbers in ascending order")
        if not self.layers or not len(self.layers) == len(self.heads) == len(self.neurons):
            raise ValueError("compression: no layers, or heads and neurons of another number of layers")
        if not all(self.heads):
            raise ValueError("compression: a layer without heads; leave one in each, or drop the layer")

    @classmethod
    def of(cls, config: Any) -> Structure:
        """Return what is left of the BERT of a config: all of it, if nothing has been removed."""
        if saved := getattr(config, "compression", None):
            return cls.from_dict(saved)
        layers, heads = range(config.num_hidden_layers), tuple(range(config.num_attention_heads))
        neurons = tuple(range(config.intermediate_size))
        return cls(tuple(layers), (heads,) * len(layers), (neurons,) * len(layers))

    @classmethod
    def from_dict(cls, saved: Any) -> Structure:
        """Read what ``to_dict`` gave; raise a ValueError if it is not that."""
        try:
            heads, neurons = (tuple(map(tuple, saved[key])) for key in ("heads", "neurons"))
            return cls(tuple(saved["layers"]), heads, neurons)
        except (LookupError, TypeError) as error:
            raise ValueError(f"compression: not what is left of a BERT ({error})") from None

    def to_dict(self) -> dict[str, Any]:
        return {key: [list(x) if isinstance(x, tuple) else x for x in value] for key, value in asdict(self).items()}

    def keep_layers(self, layers: Sequence[int]) -> Structure:
        """Keep only these of the layers."""
        kept = sorted(layers)
        at = [self.layers.index(layer) for layer in kept]
        return Structure(tuple(kept), tuple(self.heads[i] for i in at), tuple(self.neurons[i] for i in at))

    def mask(self, heads: Tensor | None = None, neurons: Tensor | None = None) -> Structure:
        """Keep what is true in masks [L, H] and [L, F], or [L] for whole feed-forwards, over the dense model's L."""

        def masked(kept: tuple[tuple[int, ...], ...], mask: Tensor | None) -> tuple[tuple[int, ...], ...]:
            if mask is None:
                return kept
            mask = mask.cpu()
            rows = zip(self.layers, kept, strict=True)
            if mask.dim() == 1:
                return tuple(numbers if mask[layer] else () for layer, numbers in rows)
            return tuple(tuple(n for n in numbers if mask[layer, n]) for layer, numbers in rows)

        return Structure(self.layers, masked(self.heads, heads), masked(self.neurons, neurons))


class NoFeedForward(nn.Module):
    """Stands for a layer's ``BertOutput`` where its feed-forward has left: LayerNorm, as published."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.LayerNorm = norm

    def forward(self, hidden: Tensor, attended: Tensor) -> Tensor:
        return self.LayerNorm(attended)


def shrink(model: Model, structure: Structure) -> Model:
    """Remove from a BERT classifier, in place, what is not in the structure; its config says what is left.

    A model of which parts have been removed can be shrunk further, always in the numbers of the dense one. A schedule
    of token pruning is forgotten: it was for other layers.

    Raises:
        ValueError: the structure has something that the model does not have.
    """
    before = Structure.of(model.config)
    if not {*structure.layers} <= {*before.layers}:
        raise ValueError(f"compression: layers {list(structure.layers)} of a BERT that has {list(before.layers)}")
    kept = before.keep_layers(structure.layers)
    layers = dict(zip(before.layers, layers_of(model.bert), strict=True))
    model.bert.encoder.layer = nn.ModuleList(layers[number] for number in structure.layers)
    model.config.num_hidden_layers = len(structure.layers)
    model.config.compression = structure.to_dict()
    resize(model, kept, structure)
    if set_pruning := getattr(model, "set_pruning", None):
        set_pruning([0.0] * len(structure.layers))
    return model


def resize(model: BertForSequenceClassification, before: Structure, after: Structure) -> None:
    """Remove heads and neurons of the layers that a model has."""
    layers: list[Any] = list(layers_of(model.bert))
    parts = zip(layers, before.heads, after.heads, before.neurons, after.neurons, strict=True)
    for index, (layer, heads, kept_heads, neurons, kept_neurons) in enumerate(parts):
        attention, output = layer.attention.self, layer.attention.output
        attention.layer_idx = index
        if kept_heads != heads:
            width = attention.attention_head_size
            features = places(heads, kept_heads)[:, None] * width + torch.arange(width)
            for linear in (attention.query, attention.key, attention.value):
                keep_outputs(linear, features.flatten())
            keep_inputs(output.dense, features.flatten())
            # Neither the width of a head nor the scaling by it changes.
            attention.num_attention_heads, attention.all_head_size = len(kept_heads), features.numel()
        if kept_neurons != neurons and not kept_neurons:
            layer.intermediate, layer.output = nn.Identity(), NoFeedForward(layer.output.LayerNorm)
        elif kept_neurons != neurons:
            keep_outputs(layer.intermediate.dense, places(neurons, kept_neurons))
            keep_inputs(layer.output.dense, places(neurons, kept_neurons))


def places(numbers: Sequence[int], kept: Sequence[int]) -> Tensor:
    """Return where the numbers that are kept stand among those that there are."""
    at = {number: place for place, number in enumerate(numbers)}
    if absent := [number for number in kept if number not in at]:
        raise ValueError(f"compression: {absent[0]} is kept of what the BERT no longer has")
    return torch.tensor([at[number] for number in kept])


def keep_outputs(linear: nn.Linear, features: Tensor) -> None:
    select(linear, "weight", 0, features)
    if linear.bias is not None:
        select(linear, "bias", 0, features)
    linear.out_features = len(features)


def keep_inputs(linear: nn.Linear, features: Tensor) -> None:
    select(linear, "weight", 1, features)
    linear.in_features = len(features)


def select(module: nn.Module, name: str, dim: int, index: Tensor) -> None:
    parameter = module.get_parameter(name)
    kept = parameter.detach().index_select(dim, index.to(parameter.device))
    setattr(module, name, nn.Parameter(kept, parameter.requires_grad))


def shrunk_init(model: BertForSequenceClassification) -> None:
    """Give a model that has just been built of its config the shapes that ``compression`` says, before it is loaded."""
    if not getattr(model.config, "compression", None):
        return
    structure, config = Structure.of(model.config), model.config
    heads, neurons = tuple(range(config.num_attention_heads)), tuple(range(config.intermediate_size))
    count = len(structure.layers)
    if count != config.num_hidden_layers:
        raise ValueError(f"compression: {count} layers, but num_hidden_layers is {config.num_hidden_layers}")
    resize(model, Structure(structure.layers, (heads,) * count, (neurons,) * count), structure)
