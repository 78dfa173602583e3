"""A BERT of which each training step computes another part: a mixture of fewer layers, heads, neurons and tokens."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import TrainerCallback

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.joint.mixtures import Mixture, Space
from pruner.compress.structure.shrink import Structure
from pruner.compress.tokens.schedule import make_pruning
from pruner.models.bert_layers import heads_of, layers_of


class ElasticBert(PrunedBertForSequenceClassification):
    """``PrunedBertForSequenceClassification`` that computes its ``mixture``. Made by ``elastic``.

    It computes what ``shrink`` leaves of it, not masks: a step costs what its mixture costs.
    """

    mixture: Mixture
    of: list[PrunedBertForSequenceClassification]  # a list, so that it is no module of this one

    def forward(self, *args: Any, **inputs: Any) -> Any:
        (model,), weights = self.of, part_of(self, self.mixture.structure)
        model.training = self.training
        with arranged(model, self.mixture):
            return functional_call(model, weights, args, inputs)


def elastic(model: PrunedBertForSequenceClassification, mixture: Mixture) -> ElasticBert:
    """Return a model of the same modules, which is trained in place of ``model`` and trains it so."""
    twin = copy.copy(model)
    twin.__class__ = ElasticBert
    assert isinstance(twin, ElasticBert)
    twin.mixture, twin.of = mixture, [model]
    return twin


def part_of(model: Any, structure: Structure) -> dict[str, Tensor]:
    """Return the parameters of what a structure leaves of a dense BERT, by their names there; gradients reach all."""
    layers, prefix = layers_of(model.bert), "bert.encoder.layer."
    weights = {name: x for name, x in model.named_parameters() if not name.startswith(prefix)}
    for place, (number, heads, neurons) in enumerate(
        zip(structure.layers, structure.heads, structure.neurons, strict=True)
    ):
        layer, (all_heads, width) = layers[number], heads_of(layers[number])
        kept: dict[str, tuple[int, Tensor]] = {}  # along which dimension what is selected
        if len(heads) < all_heads:
            features = (torch.tensor(heads)[:, None] * width + torch.arange(width)).flatten().to(model.device)
            for name in "query", "key", "value":
                kept |= {f"attention.self.{name}.{kind}": (0, features) for kind in ("weight", "bias")}
            kept["attention.output.dense.weight"] = 1, features
        if len(neurons) < model.config.intermediate_size:
            numbers = torch.tensor(neurons, device=model.device)
            kept |= {f"intermediate.dense.{kind}": (0, numbers) for kind in ("weight", "bias")}
            kept["output.dense.weight"] = 1, numbers
        for name, x in layer.named_parameters():
            weights[f"{prefix}{place}.{name}"] = x.index_select(*kept[name]) if name in kept else x
    return weights


@contextmanager
def arranged(model: Any, mixture: Mixture) -> Iterator[None]:
    """Let a dense BERT have the layers, the numbers of heads and the schedule of a mixture for a while."""
    encoder, config, structure = model.bert.encoder, model.config, mixture.structure
    layers, depth, pruning = encoder.layer, config.num_hidden_layers, model.pruning
    kept = [layers[number] for number in structure.layers]
    heads = [layer.attention.self.num_attention_heads for layer in kept]
    try:
        encoder.layer, config.num_hidden_layers = nn.ModuleList(kept), len(kept)
        model.pruning = make_pruning(mixture.schedule, "attention", len(kept))
        for layer, left in zip(kept, structure.heads, strict=True):
            layer.attention.self.num_attention_heads = len(left)
        yield
    finally:
        encoder.layer, config.num_hidden_layers, model.pruning = layers, depth, pruning
        for layer, number in zip(kept, heads, strict=True):
            layer.attention.self.num_attention_heads = number


class SampleMixtures(TrainerCallback):
    """Gives the model another mixture of its space for every step."""

    def __init__(self, model: ElasticBert, space: Space) -> None:
        self.model, self.space = model, space

    def on_step_begin(self, args, state, control, **kwargs):
        self.model.mixture = self.space.sample(state.global_step)

    def on_epoch_end(self, args, state, control, **kwargs):
        # If the model is evaluated, then always the same part of it.
        budget = replace(self.space.flops, target=self.space.reach**0.5)
        self.model.mixture = next(self.space.meeting(budget, ("width",)))
