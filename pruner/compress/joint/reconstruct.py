"""Corrects what remains of a BERT by least squares, so that its layers compute what all of it did.

After the mask tuning of Kwon et al. (2022), which finds a factor for each part that remains. Here it is the whole
matrix that follows: as many texts determine it, if it is held near where it was.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pruner.compress.structure.shrink import Structure
from pruner.data.cache import Split
from pruner.data.collate import BertCollator, make_batch
from pruner.models.bert_layers import attend, embed, layers_of
from pruner.models.packing import pack

RIDGE = 0.3  # how much a change costs, by the mean square of what enters; a tenth or ten times as much is no better
MOST_TOKENS = 2**14  # that are computed at once: 0.2 GB for each activation of a BERT-Base


@torch.no_grad()
def reconstruct(model: Any, dense: Any, split: Split, most_tokens: int = MOST_TOKENS) -> Any:
    """Change the outputs of attention and feed-forward, in place, so that what leaves them is as in the dense model.

    Layer by layer, on what the corrected layers before really compute. Where layers have left, the one before them
    does their work as far as it can: its output imitates that of the last of them, and has its norm. ``model`` drops no
    tokens; both are in evaluation mode. Rows beyond ``most_tokens`` are left out.
    """
    rows = range(max(1, int((split.lengths.cumsum() <= most_tokens).sum())))
    batch = make_batch(split, rows, BertCollator(with_lengths=True), model.device)
    (packing,) = pack([batch["lengths"]], model.device, False)
    target = embed(dense.bert, packing, batch["input_ids"], batch["token_type_ids"], None)
    hidden, of_dense, kept = target.clone(), layers_of(dense.bert), Structure.of(model.config).layers
    ends = [*kept[1:], len(of_dense)]
    for number in range(kept[0]):
        target, _, _ = run(of_dense[number], target, packing)
    for layer, number, end in zip(layers_of(model.bert), kept, ends, strict=True):
        wanted_context, wanted = None, None
        for at in range(number, end):
            target, of_attention, wanted = run(of_dense[at], target, packing)
            wanted_context = of_attention if at == number else wanted_context
        assert wanted_context is not None
        assert wanted is not None
        if end > number + 1:
            layer.output.LayerNorm.load_state_dict(of_dense[end - 1].output.LayerNorm.state_dict())
        context, _ = attend(layer, hidden, packing)
        fit(layer.attention.output.dense, context, wanted_context - hidden)
        entering = layer.attention.output(context, hidden)
        activations = layer.intermediate(entering)
        fit(layer.output.dense, activations, wanted - entering)
        hidden = layer.output(activations, entering)
    return model


def run(layer: Any, hidden: Tensor, packing: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Run a layer, [T, D] -> what leaves it, and what enters the norms of its attention and of its feed-forward.

    Without dropout, as in evaluation mode.
    """
    context, _ = attend(layer, hidden, packing)
    of_attention = layer.attention.output.dense(context) + hidden
    attended = layer.attention.output.LayerNorm(of_attention)
    of_feed_forward = layer.output.dense(layer.intermediate(attended)) + attended
    return layer.output.LayerNorm(of_feed_forward), of_attention, of_feed_forward


def fit(linear: nn.Linear, inputs: Tensor, outputs: Tensor) -> None:
    """Change a linear layer by ridge regression, so that it makes ``outputs`` [T, n] of ``inputs`` [T, m]."""
    error, mean = outputs - linear(inputs), inputs.mean(dim=0)
    centred, shift = inputs - mean, error.mean(dim=0)
    gram = (centred.T @ centred).double()
    gram.diagonal().add_(RIDGE * gram.diagonal().mean() + torch.finfo(gram.dtype).tiny)
    change = torch.linalg.solve(gram, (centred.T @ (error - shift)).double()).to(inputs.dtype)
    linear.weight.add_(change.T)
    linear.bias.add_(shift - mean @ change)
