"""Turns the layers of a BERT into 8-bit integers: for good, or in training alone.

Pooler, classifier and norms stay as they are, embeddings unless asked for. What is rounded stands in the config as
``precision``, so that ``from_pretrained`` builds the same modules before it loads the weights.
"""

from collections.abc import Callable
from typing import Any, get_args

from torch import nn

from pruner.compress.precision.factorised import FactorisedEmbedding
from pruner.compress.precision.int8 import FakeQuantLinear, Int8Embedding, Int8Linear, Scheme
from pruner.compress.precision.linears import linears_of, replace_linears

INT8 = "int8"


def of_words(tables: Any, make: Callable[[Any], nn.Module]) -> None:
    """Replace the word vectors, which may be factorised, by what ``make`` makes of them."""
    factorised = isinstance(tables.word_embeddings, FactorisedEmbedding)
    parent, name = (tables.word_embeddings, "words") if factorised else (tables, "word_embeddings")
    setattr(parent, name, make(getattr(parent, name)))


def to_int8(model: Any, embeddings: bool = False) -> Any:
    """Round a BERT classifier's encoder to int8, in place, of linear layers or of those that round in training."""
    first = linears_of(model)[0]
    scheme: Scheme = first.scheme if isinstance(first, FakeQuantLinear) else "rows"
    replace_linears(model, Int8Linear.of)
    if embeddings:
        of_words(model.bert.embeddings, Int8Embedding.of)
    model.config.precision = {"weights": INT8, "embeddings": embeddings, "scheme": scheme}
    return model


def round_in_training(model: Any, scheme: Scheme = "rows") -> Any:
    """Let a BERT classifier's encoder compute as if it were int8, in place."""
    replace_linears(model, lambda linear: FakeQuantLinear.of(linear, scheme))
    return model


def int8_init(model: Any, precision: dict) -> None:
    """Give a model such layers as its config says, empty."""
    scheme: Any = precision.get("scheme")
    if scheme not in get_args(Scheme):
        raise ValueError(f"precision: scheme {scheme!s:.60} is unknown; this code has {' and '.join(get_args(Scheme))}")
    replace_linears(model, lambda linear: Int8Linear.like(linear, scheme))
    if precision.get("embeddings"):
        of_words(model.bert.embeddings, Int8Embedding.like)
