"""Load an encoder of another kind as the BERT that it is; check its config."""

from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification, BertForSequenceClassification

from pruner.data.tokenizer import OTHER_KINDS, check_kind
from pruner.models.config import SHARES, SIZES, check_activation, check_heads, check_padding, check_shares, own_file
from pruner.models.encoders import ENCODERS, as_bert
from pruner.utils.errors import UserError
from pruner.utils.files import read_json, read_size

# All that is taken of a config.json: what BERT's has, under DistilBERT's names too. Nothing else in it is used.
OTHER_SIZES = ("dim", "n_layers", "n_heads", "hidden_dim", "embedding_size")
OTHER_SHARES = ("dropout", "attention_dropout", "seq_classif_dropout")


def is_other_kind(config: dict) -> bool:
    return config.get("model_type") in ENCODERS


def read_encoder(path: Path) -> Any:
    """Read the config of an encoder in ``ENCODERS``; a ``UserError`` if it cannot be one."""
    raw = read_json(path)
    check_kind(raw, path, OTHER_KINDS)
    sizes: dict[str, Any] = {key: read_size(raw, key, path) for key in (*SIZES, *OTHER_SIZES) if key in raw}
    if not sizes.keys() & {"num_hidden_layers", "n_layers"}:
        raise UserError(f"{path}: no number of layers; {own_file(path)}")
    acts: dict[str, Any] = {key: check_activation(raw, key, path) for key in ("hidden_act", "activation") if key in raw}
    shares: dict[str, Any] = check_shares(raw, (*SHARES, *OTHER_SHARES, "initializer_range"), path)
    config: Any = CONFIG_MAPPING[raw["model_type"]](**sizes, **shares, **acts)
    check_heads(config.hidden_size, config.num_attention_heads, path)
    if (padding := check_padding(raw, config.vocab_size, path)) is not None:
        config.pad_token_id = padding
    if ENCODERS[raw["model_type"]].first_position(config) >= config.max_position_embeddings:
        raise UserError(f"{path}: no position is left behind pad_token_id; {own_file(path)}")
    return config


def load_encoder(
    bert: str, config_path: Path, id2label: dict[int, str], **options: Any
) -> tuple[BertForSequenceClassification, dict]:
    """Load an encoder with a classifier for these classes as a BERT, and what ``from_pretrained`` tells, in its names.

    ``options`` are those of ``from_pretrained``, ``output_loading_info`` among them.
    """
    config = read_encoder(config_path)
    config.id2label, config.label2id = id2label, {name: index for index, name in id2label.items()}
    model, info = AutoModelForSequenceClassification.from_pretrained(bert, config=config, **options)
    named = ENCODERS[config.model_type].named
    missing = [named(key) for key in info["missing_keys"]]
    mismatched = [(named(key), *shapes) for key, *shapes in info["mismatched_keys"]]
    return as_bert(model), {"missing_keys": missing, "mismatched_keys": mismatched}
