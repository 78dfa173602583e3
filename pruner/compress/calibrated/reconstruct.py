"""Corrects what remains of a BERT by least squares, so that its layers compute what all of it did.

After the mask tuning of Kwon et al. (2022), which finds a factor for each part that remains. Here it is the whole
matrix that follows: as many texts determine it, if it is held near where it was.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pruner.data.cache import Split
from pruner.data.collate import BertCollator, make_batch
from pruner.models.bert_layers import attend, embed, layers_of
from pruner.models.packing import pack

RIDGE = 0.3  # how much a change costs, by the mean square of what enters; with 0.03 to 1 results are about the same
MOST_TOKENS = 2**14  # that are computed at once: 0.2 GB for each activation of a BERT-Base


@torch.no_grad()
def reconstruct(model: Any, dense: Any, split: Split) -> Any:
    """Change the outputs of attention and feed-forward, in place, so that what leaves them is as in the dense model.

    Layer by layer, on what the corrected layers before really compute. ``model`` has all layers of ``dense`` and drops
    no tokens; both are in evaluation mode. Rows beyond ``MOST_TOKENS`` tokens are left out.
    """
    rows = range(max(1, int((split.lengths.cumsum() <= MOST_TOKENS).sum())))
    batch = make_batch(split, rows, BertCollator(with_lengths=True), model.device)
    (packing,) = pack([batch["lengths"]], model.device, False)
    target = embed(dense.bert, packing, batch["input_ids"], batch["token_type_ids"], None)
    hidden = target.clone()
    for layer, of_dense in zip(layers_of(model.bert), layers_of(dense.bert), strict=True):
        context, _ = attend(of_dense, target, packing)
        attended, wanted = of_dense.attention.output(context, target), of_dense.attention.output.dense(context) + target
        context, _ = attend(layer, hidden, packing)
        fit(layer.attention.output.dense, context, wanted - hidden)
        entering = layer.attention.output(context, hidden)
        activations = of_dense.intermediate(attended)
        target, wanted = of_dense.output(activations, attended), of_dense.output.dense(activations) + attended
        activations = layer.intermediate(entering)
        fit(layer.output.dense, activations, wanted - entering)
        hidden = layer.output(activations, entering)
    return model


def fit(linear: nn.Linear, inputs: Tensor, outputs: Tensor) -> None:
    """Change a linear layer by ridge regression, so that it makes ``outputs`` [T, n] of ``inputs`` [T, m]."""
    error, mean = outputs - linear(inputs), inputs.mean(dim=0)
    centred, shift = inputs - mean, error.mean(dim=0)
    gram = (centred.T @ centred).double()
    gram.diagonal().add_(RIDGE * gram.diagonal().mean() + torch.finfo(gram.dtype).tiny)
    change = torch.linalg.solve(gram, (centred.T @ (error - shift)).double()).to(inputs.dtype)
    linear.weight.add_(change.T)
    linear.bias.add_(shift - mean @ change)
