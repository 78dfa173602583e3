"""Read the config.json of a BERT; check what is taken from it."""

from collections.abc import Iterable
from pathlib import Path

from pruner.utils.errors import UserError
from pruner.utils.files import read_json, read_size, short

# In the order in which from_pretrained looks for them.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

# What a config says of a model that is not a plain BERT any more.
SMALLER = {
    "compression": "heads or layers have been removed",
    "precision": "the weights have been rounded",
    "embedding_rank": "the embeddings have been factorised",
}

# All that is taken from a config.json beside hidden_act and pad_token_id: whole numbers of 1 or more, and numbers from
# 0 to these. There may be more in it, such as an attention whose code transformers would fetch from the hub and run.
SIZES = (
    "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size max_position_embeddings "
    "type_vocab_size"
).split()
SHARES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "layer_norm_eps")
LARGEST = dict.fromkeys(SHARES, 1.0) | {"initializer_range": 10.0}


def read_config(path: Path, smaller: bool = False) -> dict:
    """Read what a BERT's config says of the model, nothing else in the file; a ``UserError`` if it cannot be one.

    One that has been made smaller is refused, unless it may be ``smaller``.
    """
    from pruner.data.tokenizer import check_kind  # in here: the converter's --help needs no NumPy

    raw = read_json(path)
    check_kind(raw, path)
    for key, what in SMALLER.items():
        if raw.get(key) and not smaller:
            raise UserError(f"{path}: {what}; give the model that it was made of")
    if "num_hidden_layers" not in raw:
        raise UserError(f"{path}: no num_hidden_layers; {own_file(path)}")
    config: dict = {key: read_size(raw, key, path) for key in SIZES if key in raw}
    check_heads(config.get("hidden_size", 768), config.get("num_attention_heads", 12), path)
    config |= check_shares(raw, LARGEST, path)
    if "hidden_act" in raw:
        config["hidden_act"] = check_activation(raw, "hidden_act", path)
    if (padding := check_padding(raw, config.get("vocab_size", 30522), path)) is not None:
        config["pad_token_id"] = padding
    # Of what was another encoder once.
    if raw.get("head_activation") is not None:
        config["head_activation"] = check_activation(raw, "head_activation", path)
    if raw.get("embedding_width") is not None:
        config["embedding_width"] = read_size(raw, "embedding_width", path)
    return config


def own_file(path: Path) -> str:
    return f"copy the model's own {path.name} there"


def check_heads(hidden: int, heads: int, path: Path) -> None:
    if hidden % heads:
        problem = f"hidden_size {hidden} cannot be divided among num_attention_heads {heads}"
        raise UserError(f"{path}: {problem}; {own_file(path)}")


def check_shares(raw: dict, keys: Iterable[str], path: Path) -> dict[str, float]:
    """Return those of the numbers that a config has, each from 0 to the largest that it can be."""
    found = {}
    for key in keys:
        if key not in raw or (raw[key] is None and key == "classifier_dropout"):
            continue
        value, largest = raw[key], LARGEST.get(key, 1.0)
        if type(value) not in (int, float) or not 0 <= value <= largest:
            raise UserError(f"{path}: {key} is {short(value)}, not a number from 0 to {largest:g}; {own_file(path)}")
        found[key] = float(value)
    return found


def check_activation(raw: dict, key: str, path: Path) -> str:
    if not isinstance(raw[key], str):
        raise UserError(f"{path}: {key} is {short(raw[key])}, not a name; {own_file(path)}")
    return raw[key]


def check_padding(raw: dict, rows: int, path: Path) -> int | None:
    padding = raw.get("pad_token_id")
    if padding is not None and (type(padding) is not int or not 0 <= padding < rows):
        raise UserError(f"{path}: pad_token_id is {short(padding)}, none of vocab_size {rows}; {own_file(path)}")
    return padding
