"""Other encoders with BERT's layers, as a BERT: the same weights under BERT's names, the same answers.

What they do differently lies before and behind the layers: how positions are counted, from what width word vectors
come, and what stands between [CLS] and the classifier. All else then works on them as it does on a BERT.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
)
from transformers.activations import ACT2FN
from transformers.models.bert.modeling_bert import BertEmbeddings

from pruner.utils.errors import UserError

HEADS = ("tanh", "relu", "gelu")  # activations between [CLS] and the classifier; BERT's is the first
# What has the same name and meaning in all configs.
SAME = (
    "vocab_size hidden_size num_hidden_layers num_attention_heads max_position_embeddings pad_token_id "
    "initializer_range id2label label2id problem_type"
).split()
MORE = "intermediate_size hidden_act hidden_dropout_prob attention_probs_dropout_prob type_vocab_size layer_norm_eps"


@dataclass(frozen=True)
class Encoder:
    """How an encoder differs from BERT: its weights' names, its config's, and what lies behind its layers."""

    names: Mapping[str, str]  # parts of names, replaced in this order
    head: str
    config: Callable[[Any], dict]
    first_position: Callable[[Any], int] = lambda config: 0  # of its table of positions

    def named(self, name: str) -> str:
        """Return what BERT calls weights."""
        for old, new in self.names.items():
            name = name.replace(old, new)
        return name


def bert_names(config: Any) -> dict:
    return {name: getattr(config, name) for name in MORE.split()} | {"classifier_dropout": config.classifier_dropout}


def distilbert_names(config: Any) -> dict:
    """DistilBERT has no segments; two of zeros let texts in pairs come as BERT's do."""
    sizes = {"intermediate_size": config.hidden_dim, "hidden_act": config.activation, "type_vocab_size": 2}
    dropouts = {"hidden_dropout_prob": config.dropout, "attention_probs_dropout_prob": config.attention_dropout}
    return sizes | dropouts | {"layer_norm_eps": 1e-12, "classifier_dropout": config.seq_classif_dropout}


def electra_names(config: Any) -> dict:
    projected = config.embedding_size != config.hidden_size
    # A name of its own: stock BERTs' configs may have an ``embedding_size``, which is not read there.
    return bert_names(config) | ({"embedding_width": config.embedding_size} if projected else {})


def like_roberta(body: str) -> Encoder:
    names = {f"{body}.": "bert.", "classifier.dense": "bert.pooler.dense", "classifier.out_proj": "classifier"}
    # Positions are counted on from the number of the padding.
    return Encoder(names, "tanh", bert_names, lambda config: config.pad_token_id + 1)


ENCODERS = {
    "distilbert": Encoder(
        {
            "distilbert.transformer.": "bert.encoder.",
            "distilbert.": "bert.",
            "attention.q_lin": "attention.self.query",
            "attention.k_lin": "attention.self.key",
            "attention.v_lin": "attention.self.value",
            "attention.out_lin": "attention.output.dense",
            "sa_layer_norm": "attention.output.LayerNorm",
            "ffn.lin1": "intermediate.dense",
            "ffn.lin2": "output.dense",
            "output_layer_norm": "output.LayerNorm",
            "pre_classifier": "bert.pooler.dense",
        },
        "relu",
        distilbert_names,
    ),
    "roberta": like_roberta("roberta"),
    "xlm-roberta": like_roberta("roberta"),
    "camembert": like_roberta("roberta"),
    "electra": Encoder(
        {
            "electra.embeddings_project": "bert.embeddings.widen",
            "electra.": "bert.",
            "classifier.dense": "bert.pooler.dense",
            "classifier.out_proj": "classifier",
        },
        "gelu",
        electra_names,
    ),
}


class ProjectedEmbeddings(BertEmbeddings):
    """Embeddings of another width than the layers, widened behind the norm (ELECTRA's)."""

    def __init__(self, config: Any) -> None:
        narrow = BertConfig(**{name: getattr(config, name) for name in EMBEDDED}, hidden_size=config.embedding_width)
        super().__init__(narrow)
        self.widen = nn.Linear(config.embedding_width, config.hidden_size)

    def forward(self, *args: Any, **inputs: Any) -> Tensor:
        return self.widen(super().forward(*args, **inputs))


class BertLikeConfig(BertConfig):
    """The config of a ``BertLikeForSequenceClassification``; it has a type of its own, since stock computes another."""

    model_type = "bert_like"


class BertLikeForSequenceClassification(BertForSequenceClassification):
    """A BERT classifier with what other encoders have before and behind the layers. Made by ``as_bert``."""

    config_class = BertLikeConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        encoder_init(self)


EMBEDDED = "vocab_size max_position_embeddings type_vocab_size layer_norm_eps hidden_dropout_prob pad_token_id".split()


def as_bert(model: Any) -> BertForSequenceClassification:
    """Make a BERT classifier, in evaluation mode, of one that is a BERT already, or of an encoder in ``ENCODERS``.

    The result has copies of the weights, and the same logits for padding on the right.

    Raises:
        UserError: another kind of model, or a decoder.
    """
    if isinstance(model, BertForSequenceClassification):
        return model
    config, kind = model.config, getattr(model.config, "model_type", "")
    known = f"BERT and {', '.join(ENCODERS)}"
    if kind not in ENCODERS or not type(model).__name__.endswith("ForSequenceClassification"):
        raise UserError(f"{type(model).__name__}: not supported; give a classifier of one of {known}")
    if getattr(config, "is_decoder", False):
        raise UserError(f"{type(model).__name__}: a decoder reads in one direction; give an encoder")
    encoder, first = ENCODERS[kind], ENCODERS[kind].first_position(config)
    made = BertLikeForSequenceClassification(like_bert(config))
    weights = {}
    for name, values in model.state_dict().items():
        name = encoder.named(name)  # noqa: PLW2901
        weights[name] = values[first:] if name.endswith("position_embeddings.weight") else values
    types = made.bert.embeddings.token_type_embeddings.weight
    weights.setdefault("bert.embeddings.token_type_embeddings.weight", torch.zeros_like(types))
    made.load_state_dict(weights)
    return made.to(model.device, model.dtype).eval()


def like_bert(config: Any) -> BertLikeConfig:
    """Return the config of another encoder as that of a BERT."""
    encoder = ENCODERS[config.model_type]
    settings = {name: getattr(config, name) for name in SAME} | encoder.config(config)
    settings["max_position_embeddings"] -= encoder.first_position(config)
    return BertLikeConfig(**(settings | {"head_activation": encoder.head}))


def plain_class(config: Any) -> type[BertForSequenceClassification]:
    """Return the class that a plain model of a config is of: stock, unless other things lie before or behind layers."""
    other = getattr(config, "head_activation", None) or getattr(config, "embedding_width", None)
    return BertLikeForSequenceClassification if other else BertForSequenceClassification


def encoder_init(model: Any) -> None:
    """Give a model that has just been built of its config what other encoders have before and behind the layers."""
    config = model.config
    head, width = getattr(config, "head_activation", None) or HEADS[0], getattr(config, "embedding_width", None)
    if head not in HEADS:
        raise ValueError(f"head_activation: {head!s:.60} is unknown; this code has {', '.join(HEADS)}")
    if head != HEADS[0]:
        model.bert.pooler.activation = ACT2FN[head]
    if width is None:
        return
    if type(width) is not int or width < 1:
        raise ValueError(f"embedding_width: {width!s:.60} is no width; give a whole number of 1 or more")
    model.bert.embeddings = ProjectedEmbeddings(config)


def register_class(model_class: Any) -> None:
    """Let the auto classes of ``transformers`` load what a class saves; a folder may name another tokenizer."""
    config_class = model_class.config_class
    AutoConfig.register(config_class.model_type, config_class)
    AutoModelForSequenceClassification.register(config_class, model_class)
    AutoTokenizer.register(config_class, BertTokenizer)


register_class(BertLikeForSequenceClassification)
