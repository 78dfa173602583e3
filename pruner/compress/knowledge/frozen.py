"""Training of the top of a BERT alone; what is frozen has no gradients and no dropout."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from pruner.models.bert_layers import classify, layers_of, task_loss
from pruner.models.packed_bert import encode


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


class OnFeatures(nn.Module):
    """A BERT classifier with a frozen encoder, for training: each sentence is encoded once, and its [CLS] remembered.

    What is remembered is 4 * D bytes a sentence, and is forgotten when a weight of the encoder changes.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        self._known: dict[bytes, Tensor] = {}
        self._seen: int | None = None

    def forward(
        self,
        input_ids: Tensor,
        lengths: Sequence[int],
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Classify sentences [B, L] with padding on the right, of B real ``lengths``."""
        logits = classify(self.model, self.features(input_ids, lengths, token_type_ids))
        loss = None if labels is None else task_loss(logits, labels, self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    @torch.no_grad()
    def features(self, ids: Tensor, lengths: Sequence[int], types: Tensor | None = None) -> Tensor:
        """Return what the pooler reads: ids and types [B, L], B real lengths -> [B, D]"""
        version = sum(x._version for x in self.model.bert.parameters() if not x.requires_grad)
        if version != self._seen:
            self._known.clear()
            self._seen = version
        of_types = torch.zeros_like(ids) if types is None else types
        read = torch.stack((ids, of_types), dim=1).cpu().numpy()
        keys = [both[:, :length].tobytes() for both, length in zip(read, lengths, strict=True)]
        new = [row for row, key in enumerate(keys) if key not in self._known]
        if new:
            own = [lengths[row] for row in new]
            found = encode(self.model.bert, ids[new, : max(own)], own, of_types[new, : max(own)])
            self._known |= {keys[row]: x for row, x in zip(new, found.float().cpu(), strict=True)}
        return torch.stack([self._known[key] for key in keys]).to(ids.device)
