"""Training of the top of a BERT alone; what is frozen has no gradients and no dropout."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pruner.models.bert_layers import layers_of
from pruner.models.packed_bert import PackedBert


def freeze(model: Any, top: int) -> Any:
    """Train the ``top`` layers, pooler, classifier and students of a BERT classifier alone, in place."""
    layers = layers_of(model.bert)
    for module in (model.bert.embeddings, *layers[: len(layers) - top]):
        module.requires_grad_(False)
        for part in module.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
    return model


def trainable(model: nn.Module) -> int:
    """Count the parameters that are trained."""
    return sum(x.numel() for x in model.parameters() if x.requires_grad)


def reads_features(model: Any) -> bool:
    """Tell whether what the pooler of a ``PrunedBertForSequenceClassification`` reads of a sentence stays the same."""
    frozen = not any(x.requires_grad for x in (*model.bert.embeddings.parameters(), *model.bert.encoder.parameters()))
    return frozen and not any(model.pruning.scorers)


class OnFeatures(PackedBert):
    """A BERT classifier with a frozen encoder, for training: each sentence is encoded once, and its [CLS] remembered.

    What is remembered is 4 * D bytes a sentence, and is forgotten when a weight of the encoder changes. Made by
    ``on_features``.
    """

    _known: dict[bytes, Tensor]
    _seen: int

    @torch.no_grad()
    def features(self, ids: Tensor, lengths: Sequence[int], types: Tensor | None = None) -> Tensor:
        """Return what the pooler reads: ids and types [B, L], B real lengths -> [B, D]"""
        version = sum(x._version for x in self.bert.parameters() if not x.requires_grad)
        if version != self._seen:
            self._known.clear()
            self._seen = version
        of_types = torch.zeros_like(ids) if types is None else types
        read = torch.stack((ids, of_types), dim=1).cpu().numpy()
        keys = [both[:, :length].tobytes() for both, length in zip(read, lengths, strict=True)]
        new = [row for row, key in enumerate(keys) if key not in self._known]
        if new:
            own = [lengths[row] for row in new]
            found = super().features(ids[new, : max(own)], own, of_types[new, : max(own)])
            self._known |= {keys[row]: x for row, x in zip(new, found.float().cpu(), strict=True)}
        return torch.stack([self._known[key] for key in keys]).to(ids.device)


def on_features(model: Any) -> OnFeatures:
    """Return a model of the same modules, which is trained in place of ``model`` and trains it so."""
    twin = copy.copy(model)
    twin.__class__, twin._known, twin._seen = OnFeatures, {}, -1
    assert isinstance(twin, OnFeatures)
    return twin
