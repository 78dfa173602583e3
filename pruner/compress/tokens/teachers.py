"""The teachers of a BERT: unpruned passes that tell which tokens matter.

They change no weight and leave no gradient.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertForSequenceClassification
from transformers.models.bert.modeling_bert import BertLayer

from pruner.compress.tokens.scores import emission_scores, gradient_scores
from pruner.models.bert_layers import classify, embed, layers_of, run_layer
from pruner.models.packing import Packing, pack

# ``input_ids``, ``token_type_ids`` and ``position_ids``, each [B, L] or ``None``.
Inputs = tuple[Tensor, Tensor | None, Tensor | None]


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def cls_attention(layer: BertLayer, hidden: Tensor, packing: Packing) -> Tensor:
    """How much attention [CLS] pays to each token, averaged over heads: [T, D] -> [B, L], 0 at padding.

    One row of the map is computed.
    """
    attention = layer.attention.self
    heads = (attention.num_attention_heads, attention.attention_head_size)
    query = attention.query(hidden.index_select(0, packing.ends[:-1])).unflatten(-1, heads)
    key = packing.pad(attention.key(hidden)).unflatten(-1, heads)
    logits = torch.einsum("bhd,blhd->bhl", query, key) * attention.scaling
    return logits.float().masked_fill(~packing.real[:, None], float("-inf")).softmax(dim=-1).mean(dim=1)


@torch.no_grad()
def emission(model: BertForSequenceClassification, packing: Packing, inputs: Inputs) -> dict[int, Tensor]:
    """Emission scores [B, L] of every layer."""
    rows: list[Tensor] = []
    with without_dropout(model):
        hidden = embed(model.bert, packing, *inputs)
        layers = layers_of(model.bert)
        for layer in layers[:-1]:
            rows.append(cls_attention(layer, hidden, packing))
            hidden = run_layer(layer, hidden, packing)
        # The rest of the last layer is not needed.
        rows.append(cls_attention(layers[-1], hidden, packing))
    # In older versions of PyTorch, weights that autocast has cast without a graph would serve the pass that is trained.
    torch.clear_autocast_cache()
    return dict(enumerate(emission_scores(rows)))


def gradient(model: BertForSequenceClassification, packing: Packing, inputs: Inputs, first: int) -> dict[int, Tensor]:
    """Gradient scores [B, L] of the layers from ``first`` on, by a pass and its way back.

    The loss takes the model's own prediction for the label, in training too: true labels would leak through the choice
    of tokens, and the model would learn to read them there. It is summed over sentences, so that none depends on its
    batch mates. A regression takes its prediction for the loss: the squared error has the same gradient up to one
    factor per sentence, which is 0 at the prediction.

    ``first`` is the first layer whose scores are wanted.
    """
    # Inference mode is left: its tensors cannot be part of a graph.
    with torch.inference_mode(False), torch.no_grad(), without_dropout(model):
        packing = pack([packing.counts], packing.ends.device, round_up=packing.rows > packing.tokens)[0]
        ids, types, positions = inputs
        types, positions = (None if x is None else x.clone() for x in (types, positions))
        hidden = embed(model.bert, packing, ids.clone(), types, positions)
        layers = layers_of(model.bert)
        for layer in layers[:first]:
            hidden = run_layer(layer, hidden, packing)
        torch.clear_autocast_cache()
        with torch.enable_grad():
            states = [hidden.detach().requires_grad_()]
            for layer in layers[first:]:
                states.append(run_layer(layer, states[-1], packing))
            logits = classify(model, states.pop(), packing).float()
            if model.num_labels == 1:
                loss = logits.sum()
            else:
                loss = F.cross_entropy(logits, logits.detach().argmax(dim=-1), reduction="sum")
            gradients = torch.autograd.grad(loss, states)
        return {first + index: packing.pad(gradient_scores(each)) for index, each in enumerate(gradients)}
