"""Masks: a BERT that computes as if heads and feed-forwards were gone, while they are there; for training in turns."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from pruner.models.bert_layers import heads_of, layers_of


@contextmanager
def masked(
    model: Any,
    heads: Tensor | None = None,
    feed_forwards: Tensor | None = None,
    neurons: Tensor | None = None,
) -> Iterator[None]:
    """Multiply heads' contexts [L, H], feed-forwards' outputs [L] and neurons' activations [L, F] of ``model.bert``.

    With booleans, as Liang et al. 2021 (section 2) mask, parts compute nothing and have no gradients. On the packed
    path as well as in stock ``transformers``.
    """

    def scale(factors: Tensor) -> Callable[..., Any]:
        return lambda module, inputs: (inputs[0] * factors.to(inputs[0]), *inputs[1:])

    with ExitStack() as hooks:
        for index, layer in enumerate(layers_of(model.bert)):
            if heads is not None:
                by_feature = heads[index].repeat_interleave(heads_of(layer)[1])
                hook = layer.attention.output.dense.register_forward_pre_hook(scale(by_feature))
                hooks.callback(hook.remove)
            if neurons is not None:
                hooks.callback(layer.output.dense.register_forward_pre_hook(scale(neurons[index])).remove)
            if feed_forwards is not None:
                factor = feed_forwards[index]
                hook = layer.output.dense.register_forward_hook(
                    lambda module, inputs, x, factor=factor: x * factor.to(x)
                )
                hooks.callback(hook.remove)
        yield
