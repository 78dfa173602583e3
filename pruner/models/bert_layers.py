"""The layers of a ``transformers`` BERT on packed tokens [T, D]: everything but attention works on them as they are.

Only ``BertSelfAttention`` is computed here; all other modules are called, so that whatever wraps them works.
"""

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import BertModel, PretrainedConfig
from transformers.loss.loss_utils import ForSequenceClassificationLoss
from transformers.models.bert.modeling_bert import BertLayer

from pruner.models.attention import Score, attend_packed, in_float32
from pruner.models.packing import Packing


def layers_of(bert: BertModel) -> list[BertLayer]:
    """List the layers, with the type that ``nn.ModuleList`` does not tell."""
    return cast("list[BertLayer]", list(bert.encoder.layer))


def embed(bert: BertModel, packing: Packing, inputs: Tensor, types: Tensor | None, positions: Tensor | None) -> Tensor:
    """Embed ``inputs``, ids [B, L] or vectors in their place [B, L, D], as ``BertModel`` does -> [T, D]

    ``types`` and ``positions`` are [B, L].
    """
    positions = packing.positions if positions is None else packing.unpad(positions.expand(inputs.shape[:2]))
    types = None if types is None else packing.unpad(types.expand(inputs.shape[:2]))[None]
    name = "inputs_embeds" if inputs.is_floating_point() else "input_ids"
    given = {name: packing.unpad(inputs)[None]}
    return bert.embeddings(**given, token_type_ids=types, position_ids=positions[None])[0]


def recomputed(layer: BertLayer, function: Callable, *inputs: Any) -> Any:
    """Call a function of a layer: with gradient checkpointing on, its activations are computed anew on the way back."""
    if layer.gradient_checkpointing and layer.training and torch.is_grad_enabled():
        return cast(Callable, layer._gradient_checkpointing_func)(function, layer, *inputs)
    return function(layer, *inputs)


def run_layer(layer: BertLayer, hidden: Tensor, packing: Packing) -> Tensor:
    """Run a ``BertLayer``: [T, D] -> [T, D]"""
    return feed_forward(layer, attend(layer, hidden, packing)[0], hidden)


def feed_forward(layer: BertLayer, context: Tensor, hidden: Tensor) -> Tensor:
    """Run what follows attention in a ``BertLayer``, on what was attended to and on the layer's input."""
    attended = layer.attention.output(context, hidden)
    return layer.output(layer.intermediate(attended), attended)


def run_last_layer(layer: BertLayer, hidden: Tensor, packing: Packing) -> Tensor:
    """Run what a classifier reads of its last ``BertLayer``, which is [CLS]: [T, D] -> [B, D]

    For training: the loss has the same gradients, and a layer costs little more than its keys and values.
    """
    attention = layer.attention.self
    weights, value = attention.dropout(cls_attention(layer, hidden, packing)), attention.value(hidden)
    with in_float32():
        context = torch.einsum("bhl,blhd->bhd", weights, packing.pad(value).unflatten(-1, heads_of(layer)).float())
    return feed_forward(layer, context.flatten(1).to(value.dtype), packing.first(hidden))


def cls_attention(layer: BertLayer, hidden: Tensor, packing: Packing) -> Tensor:
    """Compute the attention that [CLS] pays to each token: [T, D] -> [B, H, L] in float32, 0 at padding"""
    attention, heads = layer.attention.self, heads_of(layer)
    query = attention.query(packing.first(hidden)).unflatten(-1, heads)
    key = packing.pad(attention.key(hidden)).unflatten(-1, heads)
    with in_float32():
        logits = torch.einsum("bhd,blhd->bhl", query.float(), key.float()) * attention.scaling
    return logits.float().masked_fill(~packing.real[:, None], float("-inf")).softmax(dim=-1)


def heads_of(layer: BertLayer) -> tuple[int, int]:
    """Return the number of heads that a layer has, and their width."""
    attention = layer.attention.self
    return attention.num_attention_heads, attention.attention_head_size


def classify(model: Any, cls: Tensor, classifier: nn.Module | None = None) -> Tensor:
    """Run pooler, dropout and classifier, the model's own by default, on [CLS]: [B, D] -> [B, labels]"""
    pooled = model.dropout(model.bert.pooler(cls[:, None]))
    return (model.classifier if classifier is None else classifier)(pooled)


def task_loss(logits: Tensor, labels: Tensor, config: PretrainedConfig) -> Tensor:
    """Compute the loss that ``BertForSequenceClassification`` has by its config: [B, labels], labels -> scalar

    ``problem_type``, else what the labels look like, makes it a regression's squared error (of one or several
    outputs), a cross-entropy over classes, or a binary one over labels of which several may be true.
    """
    config = copy.copy(config)  # to which the stock function would add the ``problem_type`` that it finds
    if config.num_labels == 1 and config.problem_type is None:
        config.problem_type = "regression"
    if config.problem_type in ("regression", "multi_label_classification"):
        labels = labels.float()
        if labels.numel() != logits.numel():  # PyTorch would broadcast them
            raise ValueError(f"labels: {list(labels.shape)} for logits {list(logits.shape)} ({config.problem_type})")
        labels = labels.view_as(logits)
    return ForSequenceClassificationLoss(labels, logits.float(), config)


def attend(
    layer: BertLayer,
    hidden: Tensor,
    packing: Packing,
    score: Score | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Run the ``BertSelfAttention`` of a ``BertLayer``: [T, D] -> what each token attends to, [T, D].

    With ``score``, a function of attention maps [b, H, n, n] in float32, 0 where padding asks, -> [b, n], also its
    result [T]. ``weights`` [T] in [0, 1], with ``score`` only, say how much of each token is there: as a key and as a
    query, one of weight 0 might as well have been dropped.
    """
    attention, heads = layer.attention.self, heads_of(layer)
    q, k, v = (part(hidden).unflatten(-1, heads) for part in (attention.query, attention.key, attention.value))
    dropout = attention.dropout.p if attention.training else 0.0
    return attend_packed(q, k, v, packing, attention.scaling, dropout, score, weights)
