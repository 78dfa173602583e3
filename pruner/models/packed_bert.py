"""The stock BERT on packed tokens, for training: the same weights, the same loss and gradients, no padding."""

import copy
from collections.abc import Sequence

from torch import Tensor
from transformers import BertForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from pruner.models.bert_layers import classify, embed, layers_of, recomputed, run_last_layer, run_layer, task_loss
from pruner.models.packing import pack, rounds_up


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
        (packing,) = pack([lengths], input_ids.device, rounds_up(self.dtype, input_ids.device))
        hidden = embed(self.bert, packing, input_ids, token_type_ids, None)
        *layers, last = layers_of(self.bert)
        for layer in layers:
            hidden = recomputed(layer, run_layer, hidden, packing)
        logits = classify(self, recomputed(last, run_last_layer, hidden, packing))
        loss = None if labels is None else task_loss(logits, labels, self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def packed(model: BertForSequenceClassification) -> PackedBert:
    """Return a model of the same modules, which is trained in place of ``model`` and trains it so."""
    twin = copy.copy(model)
    twin.__class__ = PackedBert
    assert isinstance(twin, PackedBert)
    return twin
