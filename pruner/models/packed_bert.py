"""The stock BERT on packed tokens, for training: the same weights, the same loss and gradients, no padding."""

import copy
from collections.abc import Sequence

from torch import Tensor
from transformers import BertForSequenceClassification, BertModel
from transformers.modeling_outputs import SequenceClassifierOutput

from pruner.models.bert_layers import classify, embed, layers_of, recomputed, run_last_layer, run_layer, task_loss
from pruner.models.packing import pack, rounds_up


def encode(bert: BertModel, ids: Tensor, lengths: Sequence[int], types: Tensor | None) -> Tensor:
    """Compute what a classifier reads of the last layer, [CLS]: ids and types [B, L], B real lengths -> [B, D]"""
    (packing,) = pack([lengths], ids.device, rounds_up(bert.dtype, ids.device))
    hidden = embed(bert, packing, ids, types, None)
    *layers, last = layers_of(bert)
    for layer in layers:
        hidden = recomputed(layer, run_layer, hidden, packing)
    return recomputed(last, run_last_layer, hidden, packing)


class PackedBert(BertForSequenceClassification):
    """``BertForSequenceClassification`` whose ``forward`` computes real tokens alone. Made by ``packed``."""

    def forward(
        self,
        input_ids: Tensor,
        lengths: Sequence[int],
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Classify sentences [B, L] with padding on the right; B real ``lengths`` take the place of the mask."""
        logits = classify(self, self.features(input_ids, lengths, token_type_ids))
        loss = None if labels is None else task_loss(logits, labels, self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def features(self, ids: Tensor, lengths: Sequence[int], types: Tensor | None = None) -> Tensor:
        """Return what the pooler reads: ids and types [B, L], B real lengths -> [B, D]"""
        return encode(self.bert, ids, lengths, types)


def packed(model: BertForSequenceClassification) -> PackedBert:
    """Return a model of the same modules, which is trained in place of ``model`` and trains it so."""
    twin = copy.copy(model)
    twin.__class__ = PackedBert
    assert isinstance(twin, PackedBert)
    return twin
