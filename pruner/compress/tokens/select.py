"""Which tokens stay: how many (the counting rule) and which (top-k, ties, order). It knows nothing of any model."""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from torch import Tensor
from torch.nn import functional as F

from pruner.models.packing import Packing


@lru_cache(maxsize=1024)
def _exact(rate: float) -> Fraction:
    # Through the decimal text, so that 0.29 means 29/100 and not the binary number beside it.
    return Fraction(str(float(rate)))


def keep_count(tokens: int, rate: float, count: str = "real", padded_length: int | None = None) -> int:
    """Count how many of a sentence's tokens stay.

    ``count="real"`` keeps ``n - floor(rate * n)`` of the ``n`` real tokens, in exact decimal arithmetic.
    ``count="padded"`` is the published code's own counting: ``int(L * (1 - rate))`` of the padded length ``L``
    in floating point, padding dropped first. Both keep at least one token of a sentence that has any.
    """
    if count == "padded":
        if padded_length is None:
            raise ValueError('count="padded" needs padded_length')
        kept = int(padded_length * (1 - rate))
    else:
        share = _exact(rate)
        kept = tokens - tokens * share.numerator // share.denominator
    return min(tokens, max(1, kept))


def keep_counts(
    lengths: Sequence[int], schedule: Sequence[float], count: str = "real", padded_length: int | None = None
) -> list[list[int]]:
    """Count the tokens of each sentence that layer ``l`` computes: one list per layer of ``schedule``.

    With ``count="padded"`` the padded length itself shrinks by each layer's rate.
    """
    layers, current = [], list(lengths)
    for rate in schedule:
        if rate > 0:
            current = [keep_count(n, rate, count, padded_length) for n in current]
            if padded_length is not None:
                padded_length = max(1, int(padded_length * (1 - rate)))
        layers.append(current)
    return layers


def select_tokens(scores: Tensor, kept: Packing) -> Tensor:
    """Select the tokens that stay: of each sentence the best ``kept.seqlens``, in order.

    ``scores`` are [B, L], padding minus infinity; equal ones keep the earlier token. ``kept`` is the packing that comes
    out, made by ``pack`` after that of the tokens which have scores. Returns where the tokens lie in the packed row,
    [T'], ascending; behind them 0 for the rows with which ``kept`` is rounded up.
    """
    # A stable sort is what makes ties keep the earlier token; topk promises no order among equals.
    ranked = scores.sort(dim=1, descending=True, stable=True).indices
    indices = ranked.flatten().index_select(0, kept.best) + kept.starts
    return F.pad(indices.sort().values, (0, kept.rows - kept.num_tokens))
