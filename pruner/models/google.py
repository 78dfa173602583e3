"""Map the variables of google-research/bert to the weights of a BERT of ``transformers``."""

import re
from dataclasses import dataclass
from pathlib import Path

from pruner.utils.errors import UserError

LEFT_OUT = re.compile(r"(/adam_m|/adam_v)$|^global_step$")  # the optimizer's


@dataclass(frozen=True)
class Weight:
    """A weight of the model that a variable becomes, and the variable's shape; kernels are transposed on the way."""

    name: str
    shape: tuple[int, ...]
    transpose: bool = False


def variable_name(module: str) -> str:
    """Translate a module's name: ``bert.encoder.layer.0.output`` -> ``bert/encoder/layer_0/output``"""
    return re.sub(r"layer\.(\d+)", r"layer_\1", module).replace(".", "/")


def linear(module: str, inputs: int, outputs: int) -> dict[str, Weight]:
    return {
        f"{variable_name(module)}/kernel": Weight(f"{module}.weight", (inputs, outputs), transpose=True),
        f"{variable_name(module)}/bias": Weight(f"{module}.bias", (outputs,)),
    }


def layer_norm(parent: str, size: int) -> dict[str, Weight]:
    return {
        f"{variable_name(parent)}/LayerNorm/gamma": Weight(f"{parent}.LayerNorm.weight", (size,)),
        f"{variable_name(parent)}/LayerNorm/beta": Weight(f"{parent}.LayerNorm.bias", (size,)),
    }


def body_weights(config: dict) -> dict[str, Weight]:
    """Map every variable of embeddings, encoder and pooler."""
    d, wide = config["hidden_size"], config["intermediate_size"]
    rows = {"word": "vocab_size", "position": "max_position_embeddings", "token_type": "type_vocab_size"}
    weights = {}
    for kind, size in rows.items():
        module = f"bert.embeddings.{kind}_embeddings"
        weights[variable_name(module)] = Weight(f"{module}.weight", (config[size], d))
    weights |= layer_norm("bert.embeddings", d)
    for layer in range(config["num_hidden_layers"]):
        name = f"bert.encoder.layer.{layer}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            weights |= linear(f"{name}.attention.{part}", d, d)
        weights |= linear(f"{name}.intermediate.dense", d, wide) | linear(f"{name}.output.dense", wide, d)
        weights |= layer_norm(f"{name}.attention.output", d) | layer_norm(f"{name}.output", d)
    return weights | linear("bert.pooler.dense", d, d)


def head_weights(config: dict, labels: int) -> dict[str, dict[str, Weight]]:
    """Map the heads that a checkpoint may have; each must be whole. The decoder is tied to the word embeddings."""
    d = config["hidden_size"]
    return {
        "masked-LM head": {
            "cls/predictions/output_bias": Weight("cls.predictions.bias", (config["vocab_size"],)),
            **linear("cls.predictions.transform.dense", d, d),
            **layer_norm("cls.predictions.transform", d),
        },
        "next-sentence head": {
            "cls/seq_relationship/output_weights": Weight("cls.seq_relationship.weight", (2, d)),
            "cls/seq_relationship/output_bias": Weight("cls.seq_relationship.bias", (2,)),
        },
        "classifier": {
            "output_weights": Weight("classifier.weight", (labels, d)),
            "output_bias": Weight("classifier.bias", (labels,)),
        },
    }


def match(shapes: dict[str, tuple[int, ...]], config: dict, source: Path) -> tuple[dict[str, Weight], list[str]]:
    """Match each variable to its weight, find the heads that are there; a ``UserError`` names what does not match."""
    layers = len({name[1] for name in map(re.compile(r"bert/encoder/layer_(\d+)/").match, shapes) if name})
    if layers != config["num_hidden_layers"]:
        raise UserError(f"{source}: num_hidden_layers is {config['num_hidden_layers']}, the checkpoint has {layers}")
    all_heads = head_weights(config, labels=shapes.get("output_weights", (0,))[0])
    heads = [head for head, weights in all_heads.items() if weights.keys() & shapes.keys()]
    weights = body_weights(config)
    for head in heads:
        weights |= all_heads[head]
    unknown, missing = sorted(shapes.keys() - weights.keys()), sorted(weights.keys() - shapes.keys())
    if unknown:
        raise UserError(f"{source}: {len(unknown)} variables have no place in a BERT: {', '.join(unknown)}")
    if missing:
        raise UserError(f"{source}: {len(missing)} variables are not in the checkpoint: {', '.join(missing)}")
    for variable, weight in weights.items():
        if shapes[variable] != weight.shape:
            raise UserError(
                f"{source}: {variable} should be {list(weight.shape)} by the config, but is {list(shapes[variable])} "
                "in the checkpoint; give the bert_config.json that came with it"
            )
    return weights, heads
