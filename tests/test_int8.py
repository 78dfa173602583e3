"""Integer layers against NumPy, against themselves in other batches, and against what rounds while training."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from pruner.compress.precision import int8
from pruner.compress.precision.int8 import EMA, FakeQuantLinear, Int8Linear, int_product, quantise, rounded, scales


@pytest.fixture
def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(24, 10)


def by_numpy(linear: nn.Linear, x: torch.Tensor) -> np.ndarray:
    """[T, in] -> [T, out]; products in 64-bit integers."""

    def rows(a):
        scale = np.abs(a).max(axis=1, keepdims=True).astype(np.float32) / np.float32(127)
        return np.rint(a / scale).astype(np.int64), scale

    (a, s), (w, t) = rows(x.numpy()), rows(linear.weight.detach().numpy())
    return (a @ w.T) * s * t.T + linear.bias.detach().numpy()


def test_it_computes_in_whole_numbers(linear):
    x = torch.randn(7, 24) * torch.tensor([1e-3, 1, 10, 1, 5, 1, 100])[:, None]
    found = Int8Linear.of(linear)(x)
    assert np.allclose(found.detach().numpy(), by_numpy(linear, x), rtol=1e-5, atol=1e-6)
    assert torch.allclose(found, linear(x), atol=0.02 * x.abs().max())
    assert Int8Linear.of(linear)(x.view(7, 1, 24)).shape == (7, 1, 10)


def test_products_are_exact_however_they_are_made(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    a, w = (torch.randint(-127, 128, size, generator=generator, dtype=torch.int8) for size in ((5, 3072), (16, 3072)))
    a[0], w[0] = 127, 127  # beyond what float32 holds exactly
    expected = a.long() @ w.long().t()
    assert torch.equal(int_product(a, w).long(), expected)
    monkeypatch.setattr(int8, "has_int_mm", lambda device: False)
    assert torch.equal(int_product(a, w).long(), expected)


def test_a_row_does_not_depend_on_its_neighbours(linear):
    layer, x = Int8Linear.of(linear), torch.randn(9, 24)
    x[3] *= 1000
    together = layer(x)
    assert all(torch.equal(layer(row[None])[0], out) for row, out in zip(x, together, strict=True))


def test_rounding_twice_changes_nothing_and_nothing_is_nan(linear):
    x = torch.randn(6, 24)
    x[2] = 0
    q, s = quantise(x)
    assert q.dtype == torch.int8
    assert q.abs().amax(dim=1).tolist() == [127, 127, 0, 127, 127, 127]
    again, _ = quantise(q * s)
    assert torch.equal(q, again)
    assert torch.equal(Int8Linear.of(linear)(x)[2], linear.bias)


def test_what_rounds_in_training_computes_the_same(linear):
    x = torch.randn(8, 24)
    fake, real = FakeQuantLinear.of(copy.deepcopy(linear)), Int8Linear.of(linear)
    assert torch.allclose(fake(x), real(x), atol=1e-5)


def test_gradients_pass_but_where_something_was_cut_off():
    x = torch.tensor([0.5, 1.26, -3.0, 127.4, -200.0, 300.0], requires_grad=True)
    out = rounded(x, torch.tensor(1.0))
    assert out.tolist() == [0, 1, -3, 127, -127, 127]
    out.sum().backward()
    assert x.grad.tolist() == [1, 1, 1, 1, 0, 0]
    y = torch.randn(3, 5, requires_grad=True)
    rounded(y, scales(y)).sum().backward()  # nothing is cut off by a scale of its own
    assert torch.equal(y.grad, torch.ones(3, 5))


def test_the_published_scheme_follows_the_largest_value(linear):
    layer = FakeQuantLinear.of(linear, "published").train()
    first, second = torch.full((2, 24), 2.0), torch.full((2, 24), 10.0)
    layer(first)
    assert layer.range.item() == 2
    layer(second)
    assert layer.range.item() == pytest.approx(2 + (1 - EMA) * 8)
    kept = layer.range.clone()
    out = layer.eval()(second)
    assert torch.equal(layer.range, kept)
    weight = rounded(linear.weight, linear.weight.detach().abs().max() / 127)
    assert torch.allclose(out, nn.functional.linear(torch.full((2, 24), kept.item()), weight, linear.bias), atol=1e-5)
    # Nothing has entered yet: there are no ranges, and no NaN either.
    assert FakeQuantLinear.of(linear, "published").eval()(first).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scales_stay_precise_and_a_weight_is_a_byte(linear, dtype, tmp_path):
    layer = Int8Linear.of(linear)
    scale = layer.scale.clone()
    cast = copy.deepcopy(layer).to(dtype).float()
    assert torch.equal(cast.scale, scale)
    assert cast.weight.dtype == torch.int8
    x = torch.randn(4, 24)
    assert copy.deepcopy(layer).to(dtype)(x.to(dtype)).dtype == dtype
    empty = Int8Linear(24, 10)
    empty.load_state_dict(layer.state_dict())
    assert torch.equal(empty(x), layer(x))
    assert sum(x.nbytes for x in layer.state_dict().values()) == 24 * 10 + 4 * 10 + 4 * 10
