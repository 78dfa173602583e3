"""Linear layers in whole numbers of 8 bits, and layers that compute as if they were, for training.

Weights have a scale for each output, what enters has one for each token: a sentence's logits then do not depend on what
else is in its batch. The ``published`` scheme, of Q8BERT (Zafrir et al. 2019, section 3), has one for all weights of a
layer, and one for all that enters it, which a moving average finds in training and which is fixed then.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Scheme = Literal["rows", "published"]

LARGEST = 127  # symmetric: -128 is not used
EMA = 0.9999  # of the ranges of activations, as published


def scales(x: Tensor) -> Tensor:
    """Return what rows [..., K] are to be divided by: [..., 1] in float32, 1 for a row of zeros."""
    return scale_of(x.detach().abs().amax(dim=-1, keepdim=True).float())


def quantise(x: Tensor, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Round rows [..., K] to whole numbers, int8, of a ``scale``, by default their own ``scales`` [..., 1]."""
    scale = scales(x) if scale is None else scale
    return (x.float() / scale).round_().clamp_(-LARGEST, LARGEST).to(torch.int8), scale


@cache
def has_int_mm(device_type: str) -> bool:
    """Whether PyTorch multiplies 8-bit integers here; its function has no public name."""
    try:
        ones = torch.ones(32, 32, dtype=torch.int8, device=device_type)
        return bool((torch._int_mm(ones, ones) == 32).all())
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


def int_product(rows: Tensor, weight: Tensor) -> Tensor:
    """Multiply int8 [T, K] by the transpose of int8 [N, K] -> whole numbers [T, N], without an error."""
    tokens, (outputs, inputs) = len(rows), weight.shape
    if not has_int_mm(rows.device.type) or (rows.is_cuda and (outputs % 8 or inputs % 8)):
        return rows.double() @ weight.double().t()  # float32 is not exact beyond 1040 inputs
    if rows.is_cuda and tokens <= 16:  # fewer are refused there
        return torch._int_mm(F.pad(rows, (0, 0, 0, 32 - tokens)), weight.t())[:tokens]
    return torch._int_mm(rows, weight.t())


class Int8(nn.Module):
    """A module whose ``weight`` [rows, columns] is int8, with a ``scale`` [rows] in float32 for each row."""

    weight: Tensor
    scale: Tensor
    cast: Tensor

    def _allocate(self, rows: int, columns: int) -> None:
        self.register_buffer("weight", torch.zeros(rows, columns, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(rows))
        self.register_buffer("cast", torch.zeros(()), persistent=False)  # has the dtype that the model is cast to

    def scales(self) -> list[Tensor]:
        """List what its whole numbers, and those that enter, are multiplied by."""
        return [x for name, x in self.named_buffers(recurse=False) if name.endswith("scale")]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Keep the scales in float32, whatever the model is cast to."""
        before = {name: x for name, x in self.named_buffers(recurse=False) if name.endswith("scale")}
        super()._apply(fn, recurse)
        for name, scale in before.items():
            if not scale.is_meta and not self.weight.is_meta:
                setattr(self, name, scale.to(self.weight.device))
        return self


class Int8Linear(Int8):
    """A linear layer in int8; ``input_scale`` is that of all that enters, or ``None``: each token has its own."""

    input_scale: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True, scheme: Scheme = "rows") -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self._allocate(out_features, in_features)
        self.register_buffer("input_scale", torch.ones(()) if scheme == "published" else None)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    @classmethod
    def like(cls, linear: nn.Linear, scheme: Scheme = "rows") -> "Int8Linear":
        """Make an empty one of the same sizes."""
        return cls(linear.in_features, linear.out_features, linear.bias is not None, scheme)

    @classmethod
    def of(cls, linear: nn.Linear) -> "Int8Linear":
        """Round a layer's weights, as it rounds them itself if it is a ``FakeQuantLinear``."""
        scheme = linear.scheme if isinstance(linear, FakeQuantLinear) else "rows"
        made, weights = cls.like(linear, scheme), linear.weight.detach()
        if isinstance(linear, FakeQuantLinear) and scheme == "published":
            made.input_scale = scale_of(linear.range)
            made.weight, scale = quantise(weights, scale_of(largest(weights)))
            made.scale = scale.expand(linear.out_features).clone()
        else:
            made.weight, scale = quantise(weights)
            made.scale = scale.squeeze(-1)
        if linear.bias is not None:
            made.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)
        return made

    def forward(self, x: Tensor) -> Tensor:
        """Compute [..., in] -> [..., out], in the dtype of ``x``."""
        rows, scale = quantise(x.flatten(0, -2), self.input_scale)
        sums = int_product(rows, self.weight).float()
        out = sums.mul_(scale).mul_(self.scale)
        out = out if self.bias is None else out.add_(self.bias)
        return out.to(x.dtype).unflatten(0, x.shape[:-1])

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class Int8Embedding(Int8):
    """An embedding in int8, with a scale for each word."""

    def __init__(self, words: int, width: int, padding_idx: int | None = None) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.padding_idx = words, width, padding_idx
        self._allocate(words, width)

    @classmethod
    def like(cls, embedding: nn.Embedding) -> "Int8Embedding":
        return cls(embedding.num_embeddings, embedding.embedding_dim, embedding.padding_idx)

    @classmethod
    def of(cls, embedding: nn.Embedding) -> "Int8Embedding":
        made = cls.like(embedding)
        weight, scale = quantise(embedding.weight.detach())
        made.weight, made.scale = weight, scale.squeeze(-1)
        return made

    def forward(self, ids: Tensor) -> Tensor:
        return (self.weight[ids].float() * self.scale[ids][..., None]).to(self.cast.dtype)


class FakeQuantLinear(nn.Linear):
    """A linear layer that rounds its weights and what enters as ``Int8Linear`` does, and learns as if it did not."""

    range: Tensor

    def __init__(self, *args: Any, scheme: Scheme = "rows", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scheme = scheme
        if scheme == "published":
            self.register_buffer("range", torch.zeros(()))  # of what enters; 0: nothing has entered yet

    @classmethod
    def of(cls, linear: nn.Linear, scheme: Scheme = "rows") -> "FakeQuantLinear":
        """Make one of a layer's own parameters."""
        with torch.device("meta"):
            made = cls(linear.in_features, linear.out_features, linear.bias is not None, scheme=scheme)
        made.weight, made.bias = linear.weight, linear.bias
        if scheme == "published":
            made.range = torch.zeros((), device=linear.weight.device)
        return made.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        if self.scheme == "rows":
            return F.linear(rounded(x, scales(x)), rounded(self.weight, scales(self.weight)), self.bias)
        if self.training:
            self._watch(x)
        weight = rounded(self.weight, scale_of(largest(self.weight)))
        return F.linear(rounded(x, scale_of(self.range)), weight, self.bias)

    @torch.no_grad()
    def _watch(self, x: Tensor) -> None:
        now = largest(x)
        self.range = torch.where(self.range > 0, self.range - (1 - EMA) * (self.range - now), now)


def largest(x: Tensor) -> Tensor:
    """Return the largest magnitude: [...] -> scalar"""
    return x.detach().abs().amax().float()


def scale_of(largest: Tensor) -> Tensor:
    """Return what is to be divided by, so that the ``largest`` becomes 127; 1 where that is 0."""
    return torch.where(largest > 0, largest / LARGEST, 1.0)


def rounded(x: Tensor, scale: Tensor) -> Tensor:
    """Round to multiples of ``scale``, at most 127 of them; the gradient passes where nothing was cut off."""
    quotient = (x.float() / scale).clamp(-LARGEST - 0.5, LARGEST + 0.5)  # what rounds to 127 is not cut off
    whole = quotient.round().clamp(-LARGEST, LARGEST)
    return ((quotient + (whole - quotient).detach()) * scale).to(x.dtype)
