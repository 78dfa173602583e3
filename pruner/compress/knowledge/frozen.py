"""Training of the top of a BERT alone; what is frozen has no gradients and no dropout."""

from typing import Any

from torch import nn

from pruner.models.bert_layers import layers_of


def freeze(model: Any, top: int) -> Any:
    """Train the ``top`` layers, pooler, classifier and students of a BERT classifier alone, in place."""
    layers = layers_of(model.bert)
    for module in (model.bert.embeddings, *layers[: len(layers) - top]):
        module.requires_grad_(False)
        for part in module.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
    return model


def trainable(model: nn.Module) -> int:
    """Count the parameters that are trained."""
    return sum(x.numel() for x in model.parameters() if x.requires_grad)
