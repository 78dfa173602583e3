"""Teachers: importance scores from an unpruned pass, which ``teaching`` surrounds, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruner.models.bert_layers import classify, cls_attention, embed, layers_of, run_layer
from pruner.models.flops import BertShape, LstmShape, Shape, dense_flops
from pruner.models.packing import Packing, pack, to_device

if TYPE_CHECKING:
    from transformers import BertForSequenceClassification

    from pruner.models.lstm import LstmForSequenceClassification


@dataclass(frozen=True)
class Batch:
    """A batch before pruning: its packing, and its inputs [B, L], where L is the longest sentence.

    In place of ids there may be vectors [B, L, D].
    """

    packing: Packing
    input_ids: Tensor
    token_type_ids: Tensor | None = None
    position_ids: Tensor | None = None


@contextmanager
def teaching(model: nn.Module) -> Iterator[None]:
    """Let a model run without dropout and without a graph, and leave it as it was.

    Inference mode is left: a teacher may take gradients of its own, and its tensors can be part of no graph.
    """
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        model.train(training)
        # In older versions of PyTorch, weights that autocast has cast without a graph would serve the pruned pass.
        torch.clear_autocast_cache()


def emission(model: BertForSequenceClassification, batch: Batch, layers: Sequence[int]) -> dict[int, Tensor]:
    """Compute the "ideal emission rate" [B, L] of every layer: the attention that [CLS] pays from there on."""
    packing, stack = batch.packing, layers_of(model.bert)
    hidden = embed(model.bert, packing, batch.input_ids, batch.token_type_ids, batch.position_ids)
    rows = [cls_attention(stack[0], hidden, packing).mean(dim=1)]  # over heads
    for before, layer in pairwise(stack):  # the rest of the last layer is not needed
        hidden = run_layer(before, hidden, packing)
        rows.append(cls_attention(layer, hidden, packing).mean(dim=1))
    return dict(enumerate(emission_scores(rows)))


def emission_scores(cls_attention: Sequence[Tensor]) -> list[Tensor]:
    """Multiply the attention by [CLS] [B, L] over each layer and all later ones -> [B, L] per layer.

    As sums of logs: the plain product is about 1e-18 and drowns.
    """
    tiny = torch.finfo(torch.float32).tiny
    logs = torch.stack([a.float().clamp_min(tiny).log() for a in cls_attention])
    return list(logs.flip(0).cumsum(0).flip(0))


def emission_flops(shape: Shape, tokens: Sequence[np.ndarray], layers: Sequence[int], widths: Sequence[int]) -> float:
    """Count a pass without the last layer, and a row of each layer's map: one query, all keys, their products."""
    shape, real = cast(BertShape, shape), tokens[0]
    attention = sum(layer.attention for layer in shape.layers)
    rows = 2 * shape.hidden * attention * (1 + real) + 2 * real * attention
    return sum(shape.layer(index, real) for index in range(shape.depth - 1)) + float(np.sum(rows))


def gradient(model: BertForSequenceClassification, batch: Batch, layers: Sequence[int]) -> dict[int, Tensor]:
    """Compute the "ideal gradients" [B, L] of the first of ``layers`` and all later ones, by a pass and its way back.

    The loss takes the model's own prediction for the label, in training too: true labels would leak through the choice
    of tokens, and the model would learn to read them there. It is summed over sentences, so that none depends on its
    batch mates. A regression takes its prediction for the loss: the squared error has the same gradient up to one
    factor per sentence, which is 0 at the prediction.
    """
    first, packing, stack = min(layers), batch.packing, layers_of(model.bert)
    # The caller's tensors may be of inference mode.
    packing = pack([packing.seqlens], packing.cu_seqlens.device, round_up=packing.rows > packing.num_tokens)[0]
    inputs = (batch.input_ids, batch.token_type_ids, batch.position_ids)
    ids, types, positions = (None if x is None else x.clone() for x in inputs)
    hidden = embed(model.bert, packing, cast(Tensor, ids), types, positions)
    for layer in stack[:first]:
        hidden = run_layer(layer, hidden, packing)
    torch.clear_autocast_cache()
    with torch.enable_grad():
        states = [hidden.detach().requires_grad_()]
        for layer in stack[first:]:
            states.append(run_layer(layer, states[-1], packing))
        logits = classify(model, packing.first(states.pop())).float()
        labels = logits.detach().argmax(dim=-1)
        loss = logits.sum() if model.num_labels == 1 else F.cross_entropy(logits, labels, reduction="sum")
        gradients = torch.autograd.grad(loss, states)
    return {layer: packing.pad(gradient_scores(x)) for layer, x in enumerate(gradients, start=first)}


def gradient_scores(gradient: Tensor) -> Tensor:
    """Average absolute gradients of the loss over the width, in logs: [..., D] -> [...]

    The log leaves the order as it is. It is for the students: a few tokens' gradients are a hundred times the others',
    and a squared error on the plain values would learn these few alone.
    """
    tiny = torch.finfo(torch.float32).tiny
    return gradient.float().abs().mean(dim=-1).clamp_min(tiny).log()


def gradient_flops(shape: Shape, tokens: Sequence[np.ndarray], layers: Sequence[int], widths: Sequence[int]) -> float:
    """Count a pass and its way back to the first layer: linear layers once more, the attention products twice."""
    shape, real = cast(BertShape, shape), tokens[0]
    total = dense_flops(shape, real) + shape.head(len(real))
    for index in range(min(layers), shape.depth):
        total += shape.layer(index, real) + float(np.sum(4 * real**2 * shape.layers[index].attention))
    return total


def gate(model: LstmForSequenceClassification, batch: Batch, layers: Sequence[int]) -> dict[int, Tensor]:
    """Average the input gate of the first LSTM over its width at each word: [S, L], 0 at padding"""
    lstm, hidden, ids = model.lstm[0], model.config.hidden_size, batch.input_ids
    names = ("weight_ih_l0", "bias_ih_l0", "weight_hh_l0", "bias_hh_l0")  # the input gate's rows come first
    w_words, b_words, w_state, b_state = (lstm.get_parameter(name)[:hidden] for name in names)
    gates = torch.zeros(ids.shape, device=ids.device)
    for rows, width in model.chunks(batch.packing.seqlens, ids.device):
        at = to_device(rows, ids.device)
        words = model.embedding(ids[at, :width])
        before = F.pad(lstm(words)[0][:, :-1], (0, 0, 1, 0))  # the state that each word meets
        input_gate = F.linear(words, w_words, b_words) + F.linear(before, w_state, b_state)
        gates[at, :width] = input_gate.float().sigmoid().mean(dim=-1)
    return {0: gates.masked_fill(~batch.packing.real, 0)}


def gate_flops(shape: Shape, tokens: Sequence[np.ndarray], layers: Sequence[int], widths: Sequence[int]) -> float:
    """Count the first LSTM on every word, and its input gate once more, from the states."""
    return float(np.sum(tokens[0])) * cast(LstmShape, shape).word(0) * 1.25
