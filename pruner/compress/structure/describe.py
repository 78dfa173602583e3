"""What a record says of a smaller BERT."""

from typing import Any

from torch import Tensor

from pruner.compress.method import weights_of
from pruner.compress.precision.int8 import Int8
from pruner.compress.structure.shrink import Structure
from pruner.training.context import Context


def describe_structure(model: Any, context: Context) -> dict:
    """Describe what is left: layers and heads by their numbers, neurons by how many, and what share of the weights."""
    structure, dense = Structure.of(model.config), context.backbone.empty(context.task)
    kept = {
        "layers": list(structure.layers),
        "heads": [list(heads) for heads in structure.heads],
        "neurons": [len(neurons) for neurons in structure.neurons],
    }
    scales = sum(x.numel() for module in model.modules() if isinstance(module, Int8) for x in module.scales())
    students = sum(map(Tensor.numel, model.students.parameters()))
    left, total = (
        sum(map(Tensor.numel, weights_of(model))) - students - scales,
        sum(map(Tensor.numel, dense.parameters())),
    )
    shares = {"weights_remaining": left / total, "weights_remaining_published": published_share(structure, dense)}
    return {"kept": kept} | {name: round(share, 6) for name, share in shares.items()}


def published_share(structure: Structure, dense: Any) -> float:
    """Compute the share of weights that remain as Liang et al. (2021) do, without biases, norms and layers' own."""
    config, depth = dense.config, dense.config.num_hidden_layers
    width = config.hidden_size // config.num_attention_heads
    heads = depth * config.num_attention_heads - sum(map(len, structure.heads))
    neurons = depth * config.intermediate_size - sum(map(len, structure.neurons))
    gone = 4 * width * config.hidden_size * heads + 2 * config.hidden_size * neurons
    return 1 - gone / sum(map(Tensor.numel, dense.parameters()))
