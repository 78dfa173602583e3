"""Scorers: one score per token, higher = keep. Pure functions of tensors; they know nothing of any model.

All take and return [B, L] tensors (B sentences, L tokens) and leave padding to the caller, who fills it with
minus infinity by ``mask_padding``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

CONTROLS = ("random", "head", "tail", "frequency")
TEACHERS = ("emission", "gradient")


def mask_padding(scores: Tensor, real: Tensor) -> Tensor:
    """Scores with minus infinity where ``real`` [B, L] is false."""
    return scores.masked_fill(~real, float("-inf"))


def head_scores(input_ids: Tensor) -> Tensor:
    """Earlier tokens first."""
    length = input_ids.shape[1]
    return -torch.arange(length, device=input_ids.device, dtype=torch.float32).expand(input_ids.shape)


def tail_scores(input_ids: Tensor) -> Tensor:
    """Later tokens first."""
    return -head_scores(input_ids)


def frequency_scores(input_ids: Tensor, token_counts: Tensor) -> Tensor:
    """Rarer words first; ``token_counts`` [vocabulary] holds how often each occurs in the training set."""
    return -token_counts[input_ids].double()  # double: a float32 would tie counts above 2**24


def fixed_scores(method: str, input_ids: Tensor, token_counts: Tensor | None) -> Tensor:
    """The scores of ``head``, ``tail`` or ``frequency``, which are the same in every layer."""
    if method == "frequency":
        assert token_counts is not None  # models take no such method without them
        return frequency_scores(input_ids, token_counts)
    return head_scores(input_ids) if method == "head" else tail_scores(input_ids)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    # Logical shift: int64 is signed in torch, and its >> drags the sign along.
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele et al. 2014, fig. 16): scatters int64 values over all 64 bits."""
    x = (x ^ _shift_right(x, 30)) * (0xBF58476D1CE4E5B9 - (1 << 64))
    x = (x ^ _shift_right(x, 27)) * (0x94D049BB133111EB - (1 << 64))
    return x ^ _shift_right(x, 31)


def random_scores(input_ids: Tensor, real: Tensor, seed: int) -> Tensor:
    """Uniform in [0, 1), seeded by ``seed`` and the sentence itself.

    A hash instead of a generator: what a sentence gets then depends neither on its batch mates nor on its padding,
    on any device.
    """
    positions = torch.arange(input_ids.shape[1], device=input_ids.device)
    tokens = _mix(_mix(input_ids.long() + 1) + positions) * real
    sentence = _mix(tokens.sum(dim=1, keepdim=True) + seed)
    bits = _mix(sentence + _mix(positions + 1))
    return _shift_right(bits, 40).to(torch.float32) / (1 << 24)


def emission_scores(cls_attention: Sequence[Tensor]) -> list[Tensor]:
    """The "ideal emission rate": for each layer, the product over it and later layers of the attention by [CLS].

    Args:
        cls_attention: per layer [B, L], the head-averaged attention that ``[CLS]`` pays to each token.

    Returns:
        Per layer [B, L], as sums of logs: the plain product is about 1e-18 and drowns.
    """
    tiny = torch.finfo(torch.float32).tiny
    logs = torch.stack([a.float().clamp_min(tiny).log() for a in cls_attention])
    return list(logs.flip(0).cumsum(0).flip(0))


def gradient_scores(gradient: Tensor) -> Tensor:
    """The "ideal gradients": [B, L, D] gradients of the loss -> [B, L] logs of the means of their absolute values.

    The log leaves the order as it is. It is for the students: a few tokens' gradients are a hundred times the others',
    and a squared error on the plain values would learn these few alone.
    """
    tiny = torch.finfo(torch.float32).tiny
    return gradient.float().abs().mean(dim=-1).clamp_min(tiny).log()
