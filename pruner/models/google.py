"""Map the variables of google-research/bert to the weights of a BERT of ``transformers``."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from pruner.utils.errors import UserError, listed

# Google's code has used the tanh form of GELU since February 2019 and the exact one before; its config says "gelu" for
# both, which transformers takes for the exact one.
GELU = {"tanh": "gelu_pytorch_tanh", "exact": "gelu"}
SQUAD = re.compile(r"cls/squad/")  # the head of run_squad.py
TF2 = re.compile(r"\.ATTRIBUTES/|_CHECKPOINTABLE_OBJECT_GRAPH")
PADDED_TO = (8, 16, 32, 64, 128)  # the next multiple of one of these has a table of word pieces that was padded


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


def is_training_state(name: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Tell whether a variable is an optimizer's, whichever it was: a count, a scale, or a slot of another variable.

    No weight of a BERT is a single number. Slots are named after what they belong to, with something behind it:
    ``<variable>/adam_m``, ``<variable>/LAMB_1``, ``training/Adam/<variable>/m``. ``teacher/<variable>`` is a weight of
    another model.
    """
    parts = name.split("/")
    owners = ("/".join(parts[start:end]) for start, end in combinations(range(len(parts)), 2))
    return shapes[name] == () or any(owner in shapes for owner in owners)


def padded_rows(shapes: Mapping[str, tuple[int, ...]], config: dict, pieces: int) -> int | None:
    """Return the number of word embeddings if they are more than word pieces because the table was padded."""
    rows = shapes.get("bert/embeddings/word_embeddings", (0,))[0]
    padded = rows in {pieces + -pieces % step for step in PADDED_TO} and config["vocab_size"] in (rows, pieces)
    return rows if padded and rows > pieces else None


def named(variables: Collection[str]) -> str:
    """List five variables at most, by their whole names: those of a BERT differ at their ends."""
    return listed(sorted(variables), most=5, longest=100)


def match(shapes: dict[str, tuple[int, ...]], config: dict, source: Path) -> tuple[dict[str, Weight], list[str]]:
    """Match each variable to its weight, find the heads that are there; a ``UserError`` names what does not match."""
    layers = len({name[1] for name in map(re.compile(r"bert/encoder/layer_(\d+)/").match, shapes) if name})
    if not layers:
        problem = f"no variable of the checkpoint is one of a BERT's layers (bert/encoder/layer_0/...): {named(shapes)}"
        raise UserError(f"{source}: {problem}; give a checkpoint of google-research/bert")
    if layers != config["num_hidden_layers"]:
        problem = f"num_hidden_layers is {config['num_hidden_layers']}, the checkpoint has {layers}"
        raise UserError(f"{source}: {problem}; give the config that came with it")
    all_heads = head_weights(config, labels=shapes.get("output_weights", (0,))[0])
    heads = [head for head, weights in all_heads.items() if weights.keys() & shapes.keys()]
    weights = body_weights(config)
    for head in heads:
        weights |= all_heads[head]
    unknown, missing = shapes.keys() - weights.keys(), weights.keys() - shapes.keys()
    if unknown:
        problem = f"{len(unknown)} variables have no place in a BERT: {named(unknown)}"
        raise UserError(f"{source}: {problem}; give a checkpoint of pre-training, or of run_classifier.py")
    if missing:
        problem = f"{len(missing)} variables are not in the checkpoint: {named(missing)}"
        raise UserError(f"{source}: {problem}; give the whole checkpoint, and the config that came with it")
    for variable, weight in weights.items():
        if shapes[variable] != weight.shape:
            raise UserError(
                f"{source}: {variable} should be {list(weight.shape)} by the config, but is {list(shapes[variable])} "
                "in the checkpoint; give the bert_config.json that came with it"
            )
    return weights, heads
