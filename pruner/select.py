"""Which tokens stay: how many (the counting rule), which (top-k, ties, order), and taking them out of tensors.

The only place with rounding, order and padding rules. It knows nothing of any model.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F


@lru_cache(maxsize=1024)
def _exact(rate: float) -> Fraction:
    # Through the decimal text, so that 0.29 means 29/100 and not the binary number beside it.
    return Fraction(str(float(rate)))


def keep_count(tokens: int, rate: float, count: str = "real", padded_length: int | None = None) -> int:
    """How many of a sentence's tokens stay.

    ``count="real"`` keeps ``n - floor(rate * n)`` of the ``n`` real tokens, in exact decimal arithmetic.
    ``count="padded"`` is the published code's own counting: ``int(L * (1 - rate))`` of the padded length ``L``
    in floating point, padding dropped first. Both keep at least one token of a sentence that has any.
    """
    if count == "padded":
        if padded_length is None:
            raise ValueError('count="padded" needs padded_length')
        kept = int(padded_length * (1 - rate))
    else:
        kept = tokens - math.floor(_exact(rate) * tokens)
    return min(tokens, max(1, kept))


def keep_counts(
    lengths: Sequence[int], schedule: Sequence[float], count: str = "real", padded_length: int | None = None
) -> list[list[int]]:
    """Tokens of each sentence that layer ``l`` computes, one list per layer of ``schedule``.

    With ``count="padded"`` the padded length itself shrinks by each layer's rate.
    """
    layers = []
    current = list(lengths)
    for rate in schedule:
        if rate > 0:
            current = [keep_count(n, rate, count, padded_length) for n in current]
            if padded_length is not None:
                padded_length = max(1, int(padded_length * (1 - rate)))
        layers.append(current)
    return layers


def to_device(values: Sequence, device: torch.device) -> Tensor:
    """Numbers known on the host -> a tensor on ``device``, without waiting for the device."""
    tensor = torch.tensor(values)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def real_mask(counts: Tensor, width: int) -> Tensor:
    """Real tokens first, padding after: [B] counts -> [B, width] booleans, true where a token is real."""
    return torch.arange(width, device=counts.device) < counts[:, None]


def select_tokens(scores: Tensor, keep: Sequence[int], keep_on_device: Tensor | None = None) -> Tensor:
    """Positions of the ``keep[b]`` highest scores of each sentence, in sentence order.

    Args:
        scores: [B, L], higher = keep, padding minus infinity. Equal scores keep the earlier token.
        keep: B counts known on the host: they decide the shape of the result, so that nothing waits for the device.
        keep_on_device: the same counts as a tensor beside ``scores``, if there is one already.

    Returns:
        [B, max(keep)] positions, ascending; a row that keeps fewer is filled up with position 0.
    """
    length = scores.shape[1]
    width = max(keep)
    if keep_on_device is None:
        keep_on_device = to_device(keep, scores.device)
    # A stable sort is what makes ties keep the earlier token; topk promises no order among equals.
    best = scores.sort(dim=1, descending=True, stable=True).indices[:, :width]
    spare = ~real_mask(keep_on_device, width)
    in_order = best.masked_fill(spare, length).sort(dim=1).values
    return in_order.masked_fill(in_order == length, 0)


def gather_tokens(x: Tensor, positions: Tensor) -> Tensor:
    """Take tokens out of a tensor: [B, L] or [B, L, D] and [B, K] positions -> [B, K] or [B, K, D]."""
    if x.dim() == 2:
        return x.gather(1, positions)
    batch, length, width = x.shape
    # Whole rows by one flat index copy faster than gather does with an index expanded over the width.
    rows = positions + torch.arange(batch, device=x.device)[:, None] * length
    return x.reshape(batch * length, width).index_select(0, rows.flatten()).view(batch, -1, width)


def left_align(ids: Tensor, lengths: Sequence[int] | None, padding: int) -> tuple[Tensor, list[int]]:
    """Tokens first and padding behind them: [B, L] ids with ``padding`` anywhere -> [B, L] and B lengths.

    ``lengths`` that are known on the host promise that it is so already; without them the device is waited for.
    """
    if lengths is not None:
        return ids, list(lengths)
    real = ids != padding
    order = real.int().sort(dim=1, descending=True, stable=True).indices
    return ids.gather(1, order), real.sum(dim=1).tolist()


def to_width(ids: Tensor, width: int) -> Tensor:
    """[B, L] ids, cut or padded with 0 to [B, width]."""
    return F.pad(ids[:, :width], (0, max(0, width - ids.shape[1])))
