"""A BERT in 8-bit integers, by this project and by torchao, to be timed beside the one in floating point."""

import copy
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pruner.compress.precision.linears import linears_of
from pruner.compress.precision.quantise import to_int8
from pruner.utils.errors import SettingError


def by_torchao(model: Any) -> Any:
    """Let torchao round the encoder: weights by output, what enters by token, as ours are."""
    try:
        logging.getLogger("torchao").setLevel(logging.ERROR)  # it tells of every GPU library that is not there
        from torchao.quantization import (  # type: ignore[import-not-found]
            Int8DynamicActivationInt8WeightConfig,
            quantize_,
        )
    except ImportError as error:
        raise SettingError("pruning_methods", f"torchao-int8 needs torchao ({error}); pip install torchao") from None
    encoder = {id(linear) for linear in linears_of(model)}

    def inside(module: nn.Module, name: str) -> bool:
        return id(module) in encoder

    quantize_(model, Int8DynamicActivationInt8WeightConfig(), filter_fn=inside)
    return model


PRECISIONS: dict[str, Callable[[Any], Any]] = {"int8": to_int8, "torchao-int8": by_torchao}


def in_precision(model: Any, name: str, dtype: torch.dtype) -> Any:
    """Return a copy of a BERT classifier in ``dtype``, its encoder in a precision."""
    return PRECISIONS[name](copy.deepcopy(model).to(dtype))
