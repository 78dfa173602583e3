"""Linear layers whose zeros are neither kept nor multiplied: compressed sparse rows (CSR), on a CPU.

A matrix must be nine tenths zeros, or more, before it is faster so.
"""

import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruner.compress.precision.linears import replace_linears

CSR = "csr"
TOKENS = 512  # that a batch has where the two ways are compared
REPEATS = 7


class CsrLinear(nn.Module):
    """A linear layer of ``values`` [nonzeros], their ``columns`` and where ``rows`` begin among them [out + 1].

    It computes in float32, whatever the model is cast to, and is not trained.
    """

    columns: Tensor
    rows: Tensor

    def __init__(self, in_features: int, out_features: int, nonzeros: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.values = nn.Parameter(torch.zeros(nonzeros), requires_grad=False)
        self.register_buffer("columns", torch.zeros(nonzeros, dtype=torch.int32))
        self.register_buffer("rows", torch.zeros(out_features + 1, dtype=torch.int32))
        self.bias = nn.Parameter(torch.zeros(out_features), requires_grad=False) if bias else None
        self._checked = False

    @classmethod
    def of(cls, linear: Any) -> "CsrLinear":
        """Take the weights of a linear layer that are not zero."""
        weight = linear.weight.detach()
        row, column = weight.nonzero(as_tuple=True)
        made = cls(linear.in_features, linear.out_features, len(row), linear.bias is not None)
        made.values.data, made.columns = weight[row, column], column.int()
        made.rows = F.pad(row.bincount(minlength=len(weight)).cumsum(0), (1, 0)).int()
        if linear.bias is not None:
            made.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)
        return made

    @property
    def weight(self) -> Tensor:
        """The dense matrix that it stands for."""
        return self._matrix().to_dense().to(self.values.dtype)

    def _matrix(self) -> Tensor:
        check, self._checked = not self._checked, True  # a file may hold anything, and kernels do not look
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # PyTorch calls the layout beta
            return torch.sparse_csr_tensor(
                self.rows,
                self.columns,
                self.values.float(),
                (self.out_features, self.in_features),
                check_invariants=check,
            )

    def forward(self, x: Tensor) -> Tensor:
        """Compute [..., in] -> [..., out], in the dtype of ``x``."""
        out = (self._matrix() @ x.flatten(0, -2).float().t()).t()
        out = out if self.bias is None else out + self.bias
        return out.to(x.dtype).unflatten(0, x.shape[:-1])


@torch.no_grad()
def csr_speedup(linears: Sequence[Any]) -> float:
    """Time layers as they are and by their values alone, interleaved; return by which factor they are faster so."""
    pairs = [(linear, CsrLinear.of(linear), torch.randn(TOKENS, linear.in_features)) for linear in linears]
    times = torch.zeros(REPEATS + 1, 2)
    for repeat in range(REPEATS + 1):  # the first one warms up
        for *sides, x in pairs:
            for side, run in enumerate(sides):
                begun = time.perf_counter()
                run(x)
                times[repeat, side] += time.perf_counter() - begun
    dense, sparse = times[1:].median(dim=0).values.tolist()
    return dense / sparse


def to_csr(model: Any) -> Any:
    """Keep the weights of a BERT classifier's encoder that are not zero alone, in place; its config says how many."""
    counts: list[int] = []

    def make(linear: nn.Module) -> nn.Module:
        made = CsrLinear.of(linear)
        counts.append(made.values.numel())
        return made

    replace_linears(model, make)
    model.config.precision = {"weights": CSR, "nonzeros": counts}
    return model


def csr_init(model: Any, precision: dict) -> None:
    """Give a model such layers as its config says, empty."""
    counts = precision.get("nonzeros")
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError("precision: nonzeros are not whole numbers")
    left = iter(counts)

    def make(linear: Any) -> nn.Module:
        count = next(left, None)
        if count is None or count > linear.weight.numel():
            raise ValueError(f"precision: nonzeros {counts!s:.60} are not those of the layers")
        return CsrLinear(linear.in_features, linear.out_features, count, linear.bias is not None)

    replace_linears(model, make)
    if next(left, None) is not None:
        raise ValueError(f"precision: nonzeros {counts!s:.60} are not those of the layers")
