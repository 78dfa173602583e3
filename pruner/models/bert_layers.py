"""The layers of a ``transformers`` BERT on packed tokens [T, D]: everything but attention works on them as they are.

Only ``BertSelfAttention`` is computed here; all other modules are called, so that whatever wraps them works.
"""

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import BertForSequenceClassification, BertModel, PretrainedConfig
from transformers.loss.loss_utils import ForSequenceClassificationLoss
from transformers.models.bert.modeling_bert import BertLayer

from pruner.models.packing import Bucket, Packing

SHORT = 64  # tokens: up to here a CPU is faster with plain matrix products than with the fused attention


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


def classify(model: BertForSequenceClassification, hidden: Tensor, packing: Packing) -> Tensor:
    """Run pooler, dropout and classifier on [CLS] alone: [T, D] -> [B, labels]"""
    cls = hidden.index_select(0, packing.cu_seqlens[:-1])
    assert model.bert.pooler is not None  # a classifier's BERT has one
    return model.classifier(model.dropout(model.bert.pooler(cls[:, None])))


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
    score: Callable[[Tensor], Tensor] | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Run the ``BertSelfAttention`` of a ``BertLayer``: [T, D] -> what each token attends to, [T, D].

    With ``score``, a function of attention maps [b, H, n, n] in float32, 0 where padding asks, -> [b, n], also its
    result [T]. ``weights`` [T] in [0, 1], with ``score`` only, say how much of each token is there: as a key and as a
    query, one of weight 0 might as well have been dropped.
    """
    attention = layer.attention.self
    heads = (attention.num_attention_heads, attention.attention_head_size)
    q, k, v = (part(hidden).unflatten(-1, heads) for part in (attention.query, attention.key, attention.value))
    dropout = attention.dropout.p if attention.training else 0.0
    if has_varlen(q) and score is None and not dropout:
        cu_seqlens, max_seqlen = packing.cu_seqlens_int32, packing.max_seqlen
        context = varlen_attn(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen)
        return cast(Tensor, context).flatten(1), None  # a pair only where it is asked to
    # On a CPU in float32 as well where the model is not: bfloat16 is slower there, and compiles for every new shape.
    work = q.dtype if q.is_cuda else torch.float32
    contexts, scores = [], []
    for bucket in packing.buckets:
        queries, keys, values = (bucket.pad(x).transpose(1, 2) for x in (q, k, v))
        if score is not None or (bucket.shape[1] <= SHORT and not q.is_cuda):
            # One copy for both: the order in memory that matrix products need, and the dtype.
            queries, keys, values = (x.to(work, memory_format=torch.contiguous_format) for x in (queries, keys, values))
            present = None if weights is None else bucket.pad(weights)
            context, attention_map = _attend_by_map(queries, keys, values, bucket, attention.scaling, dropout, present)
            if score is not None:
                attention_map = attention_map.detach()
                for share in (present, bucket.real):  # queries count by what there is of them, padding not at all
                    if share is not None:
                        attention_map = attention_map * share.detach()[:, None, :, None]
                scores.append(score(attention_map))
        else:
            mask = None if bucket.real is None else bucket.real[:, None, None]
            queries, keys, values = (x.to(work) for x in (queries, keys, values))
            context = F.scaled_dot_product_attention(queries, keys, values, mask, dropout, scale=attention.scaling)
        contexts.append(context.transpose(1, 2).to(q.dtype, memory_format=torch.contiguous_format))
    context = packing.unpad_buckets(contexts).flatten(1)
    return context, packing.unpad_buckets(scores) if scores else None


def has_varlen(q: Tensor) -> bool:
    """Whether PyTorch attends over packed sentences, without any padding, with such queries [T, H, d]."""
    fits = q.is_cuda and q.dtype in (torch.bfloat16, torch.float16) and q.shape[-1] % 8 == 0
    return fits and torch.cuda.get_device_capability(q.device) >= (8, 0)


def _attend_by_map(
    q: Tensor, k: Tensor, v: Tensor, bucket: Bucket, scaling: float, dropout: float, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attend by matrix products: [b, H, n, d] x 3, weights [b, n] -> [b, H, n, d] and the float32 map [b, H, n, n]"""
    q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
    logits = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=scaling).float()
    logits = logits.unflatten(0, (bucket.shape[0], -1))
    if bucket.real is not None:
        logits.masked_fill_(~bucket.real[:, None, None], float("-inf"))
    if bucket.shape[1] < 16 and not q.is_cuda:
        # What softmax is. PyTorch's own takes rows shorter than a vector register element by element.
        attention = (logits - logits.amax(dim=-1, keepdim=True)).exp()
        attention = attention / attention.sum(dim=-1, keepdim=True)
    else:
        attention = logits.softmax(dim=-1)
    if weights is not None:
        # After the softmax, so that a token of weight 0 has a gradient and can come back.
        attention = attention * weights[:, None, None]
        attention = attention / attention.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(attention.dtype).tiny)
    context = F.dropout(attention, dropout).to(v.dtype).flatten(0, 1) @ v
    return context.unflatten(0, (bucket.shape[0], -1)), attention
