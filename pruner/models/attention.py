"""Attention within the sentences of a packed row: PyTorch's own kernels where they are faster, else matrix products."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn

from pruner.models.dropout import dropout as drop_out
from pruner.models.dropout import dropout_mask
from pruner.models.packing import Bucket, Packing

Score = Callable[[Tensor], Tensor]  # attention maps [b, H, n, n] in float32 -> importance scores [b, n]
SHORT = 64  # tokens: up to here a CPU is faster with plain matrix products than with the fused attention


def attend_packed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    packing: Packing,
    scaling: float,
    dropout: float,
    score: Score | None,
    weights: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Attend with queries, keys and values [T, H, d] -> [T, H * d], and what ``score`` makes of the maps, [T].

    ``weights`` [T] in [0, 1], with ``score`` only, say how much of each token is there.
    """
    if has_varlen(q) and score is None and not dropout:
        cu_seqlens, max_seqlen = packing.cu_seqlens_int32, packing.max_seqlen
        context = varlen_attn(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen)
        return cast(Tensor, context).flatten(1), None  # a pair only where it is asked to
    by_map = score is not None or dropout or packing.max_seqlen <= SHORT
    if q.requires_grad and by_map and not q.is_cuda and weights is None:
        context, scores = PackedAttention.apply(torch.stack((q, k, v), 1), packing, scaling, dropout, score)
    else:
        with in_float32():
            context, scores = attend_in_buckets(q, k, v, packing, scaling, dropout, score, weights)
    return context.flatten(1), scores


def attend_in_buckets(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    packing: Packing,
    scaling: float,
    dropout: float,
    score: Score | None,
    weights: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Attend as ``attend_packed``, in one call for each bucket -> [T, H, d] and scores [T]"""
    # On a CPU in float32 as well where the model is not: bfloat16 is slower there, and compiles for every new shape.
    work = q.dtype if q.is_cuda else torch.float32
    contexts, scores = [], []
    for bucket in packing.buckets:
        queries, keys, values = (bucket.pad(x).transpose(1, 2) for x in (q, k, v))
        if score is not None or (bucket.shape[1] <= SHORT and not q.is_cuda):
            # One copy for both: the order in memory that matrix products need, and the dtype.
            queries, keys, values = (x.to(work, memory_format=torch.contiguous_format) for x in (queries, keys, values))
            present = None if weights is None else bucket.pad(weights)
            context, attention = _attend_by_map(queries, keys, values, bucket, scaling, dropout, present)
            if score is not None:
                attention = attention.detach()
                for share in (present, bucket.real):  # queries count by what there is of them, padding not at all
                    if share is not None:
                        attention = attention * share.detach()[:, None, :, None]
                scores.append(score(attention))
        else:
            mask = None if bucket.real is None else bucket.real[:, None, None]
            queries, keys, values = (x.to(work) for x in (queries, keys, values))
            context = F.scaled_dot_product_attention(queries, keys, values, mask, dropout, scale=scaling)
        contexts.append(context.transpose(1, 2).to(q.dtype, memory_format=torch.contiguous_format))
    return packing.unpad_buckets(contexts), packing.unpad_buckets(scores) if scores else None


def has_varlen(q: Tensor) -> bool:
    """Whether PyTorch attends over packed sentences, without any padding, with such queries [T, H, d]."""
    fits = q.is_cuda and q.dtype in (torch.bfloat16, torch.float16) and q.shape[-1] % 8 == 0
    return fits and torch.cuda.get_device_capability(q.device) >= (8, 0)


def _attend_by_map(
    q: Tensor, k: Tensor, v: Tensor, bucket: Bucket, scaling: float, dropout: float, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attend by matrix products: [b, H, n, d] x 3, weights [b, n] -> [b, H, n, d] and the float32 map [b, H, n, n]"""
    q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
    attention = attention_map(q, k, bucket, scaling)
    if weights is not None:
        # After the softmax, so that a token of weight 0 has a gradient and can come back.
        attention = attention * weights[:, None, None]
        attention = attention / attention.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(attention.dtype).tiny)
    context = drop_out(attention, dropout).to(v.dtype).flatten(0, 1) @ v
    return context.unflatten(0, (bucket.shape[0], -1)), attention


def attention_map(q: Tensor, k: Tensor, bucket: Bucket, scaling: float) -> Tensor:
    """Compute the softmax over real tokens in float32: [b * H, n, d] x 2 -> [b, H, n, n], 0 where a key is padding."""
    logits = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=scaling).float()
    logits = logits.unflatten(0, (bucket.shape[0], -1))
    if bucket.real is not None:
        logits.masked_fill_(~bucket.real[:, None, None], float("-inf"))
    if bucket.shape[1] < 16 and not q.is_cuda:
        # What softmax is. PyTorch's own takes rows shorter than a vector register element by element.
        attention = (logits - logits.amax(dim=-1, keepdim=True)).exp()
        return attention / attention.sum(dim=-1, keepdim=True)
    return logits.softmax(dim=-1)


def in_float32() -> AbstractContextManager:
    """Leave mixed precision on a CPU: small products are slower in bfloat16, and compiled for every new shape."""
    return torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext()


class PackedAttention(torch.autograd.Function):
    """``attend_in_buckets`` on a CPU with its own way back; scores have no gradient.

    Small batches wait for calls more than for products. What PyTorch derives for a bucket is a gradient of the whole
    packed row, which is then added to those of the other buckets; here a bucket has the gradient of its own tokens.
    """

    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        packing: Packing,
        scaling: float,
        dropout: float,
        score: Score | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend: [T, 3, H, d] -> [T, H, d], and the scores [T]."""
        contexts, scores, kept = [], [], list[Tensor | None]()
        with in_float32():
            for bucket in packing.buckets:
                q, k, v = in_heads(bucket.pad(qkv))
                attention = attention_map(q, k, bucket, scaling)
                if score is not None:
                    queries = attention if bucket.real is None else attention * bucket.real[:, None, :, None]
                    scores.append(score(queries))
                attention = attention.flatten(0, 1)
                mask = dropout_mask(attention, dropout) if dropout else None
                context = (attention if mask is None else attention * mask) @ v
                contexts.append(from_heads(context[None], bucket).squeeze(2).to(qkv.dtype))
                kept += q, k, v, attention, mask
        ctx.save_for_backward(*kept)
        ctx.packing, ctx.scaling, ctx.dtype = packing, scaling, qkv.dtype
        return packing.unpad_buckets(contexts), packing.unpad_buckets(scores) if scores else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor, None, None, None, None]:
        """Return the gradients of Q, K and V, where S = scaling * Q K^T, A = softmax(S), C = (A * dropout mask) V."""
        packing, by_bucket, kept = ctx.packing, [], iter(ctx.saved_tensors)
        with in_float32():
            for bucket, (q, k, v, attention, mask) in zip(packing.buckets, zip(*[kept] * 5, strict=True), strict=True):
                padded = bucket.pad(gradient[:, None])
                if bucket.real is not None:
                    padded = padded * bucket.real[:, :, None, None, None]  # nobody reads what padding attends to
                (d_context,) = in_heads(padded)
                d_attention, dropped = d_context @ v.transpose(1, 2), attention
                if mask is not None:
                    d_attention, dropped = d_attention.mul_(mask), attention * mask
                d_logits = torch._softmax_backward_data(d_attention, attention, -1, torch.float32).mul_(ctx.scaling)
                parts = d_logits @ k, d_logits.transpose(1, 2) @ q, dropped.transpose(1, 2) @ d_context
                by_bucket.append(from_heads(torch.stack(parts), bucket).to(ctx.dtype))
        gradients = packing.unpad_buckets(by_bucket)
        gradients[packing.num_tokens :] = 0  # rows that repeat a token: nobody attends to them
        return gradients, None, None, None, None


def in_heads(x: Tensor) -> Tensor:
    """Turn [b, n, k, H, d] into float32 in the order that matrix products need: [k, b * H, n, d]"""
    return x.permute(2, 0, 3, 1, 4).to(torch.float32, memory_format=torch.contiguous_format).flatten(1, 2)


def from_heads(x: Tensor, bucket: Bucket) -> Tensor:
    """Turn [k, b * H, n, d] back: [b, n, k, H, d]"""
    return x.unflatten(1, (bucket.shape[0], -1)).permute(1, 3, 0, 2, 4)
