"""Turns the layers of a BERT into 8-bit integers: for good, or in training alone.

Pooler, classifier and norms stay as they are, embeddings unless asked for. What is rounded stands in the config as
``precision``, so that ``from_pretrained`` builds the same modules before it loads the weights.
"""

from collections.abc import Callable
from typing import Any, Literal

from torch import nn
from transformers import BertForSequenceClassification

from pruner.compress.precision.factorised import FactorisedEmbedding
from pruner.compress.precision.int8 import FakeQuantLinear, Int8Embedding, Int8Linear
from pruner.models.bert_layers import layers_of

WEIGHTS = "int8"


def replace_linears(model: BertForSequenceClassification, make: Callable[[Any], nn.Module]) -> None:
    """Replace each linear layer of the encoder by what ``make`` makes of it, in place."""
    for layer in layers_of(model.bert):
        attention: Any = layer.attention
        parents = [(attention.self, name) for name in ("query", "key", "value")]
        parents += [(module, "dense") for module in (attention.output, layer.intermediate, layer.output)]
        for parent, name in parents:
            if hasattr(parent, name):  # a layer may have no feed-forward
                setattr(parent, name, make(getattr(parent, name)))


def of_words(tables: Any, make: Callable[[Any], nn.Module]) -> None:
    """Replace the word vectors, which may be factorised, by what ``make`` makes of them."""
    factorised = isinstance(tables.word_embeddings, FactorisedEmbedding)
    parent, name = (tables.word_embeddings, "words") if factorised else (tables, "word_embeddings")
    setattr(parent, name, make(getattr(parent, name)))


def to_int8(model: Any, embeddings: bool = False) -> Any:
    """Round a BERT classifier's encoder to int8, in place, of linear layers or of those that round in training."""
    replace_linears(model, Int8Linear.of)
    if embeddings:
        tables = model.bert.embeddings
        of_words(tables, Int8Embedding.of)
    model.config.precision = {"weights": WEIGHTS, "embeddings": embeddings}
    return model


def round_in_training(model: Any, scheme: Literal["rows", "published"] = "rows") -> Any:
    """Let a BERT classifier's encoder compute as if it were int8, in place."""
    replace_linears(model, lambda linear: FakeQuantLinear.of(linear, scheme))
    return model


def int8_init(model: Any) -> None:
    """Give a model that has just been built of its config the modules that ``precision`` says, before it is loaded."""
    precision = getattr(model.config, "precision", None)
    if not precision:
        return
    if not isinstance(precision, dict) or precision.get("weights") != WEIGHTS:
        raise ValueError(f"precision: {precision!s:.60} is unknown; this code has {WEIGHTS}")
    replace_linears(model, Int8Linear.like)
    if precision.get("embeddings"):
        tables = model.bert.embeddings
        of_words(tables, Int8Embedding.like)
