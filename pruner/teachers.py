"""The teachers of a BERT: unpruned passes that tell which tokens matter. They change no weight and leave no gradient.

``model`` is a ``BertForSequenceClassification`` (its ``bert``, ``classifier`` and ``num_labels`` are used).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruner.scores import emission_scores, gradient_scores
from pruner.select import real_mask

MakeMask = Callable[[Tensor, Tensor], Tensor | None]


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def cls_attention(attention: nn.Module, hidden: Tensor, real: Tensor) -> Tensor:
    """How much attention [CLS] pays to each token, averaged over heads: hidden [B, L, D] -> [B, L].

    ``attention`` is a layer's ``BertSelfAttention``. One row of the map is computed, by any attention implementation.
    """
    heads = (attention.num_attention_heads, attention.attention_head_size)
    query = attention.query(hidden[:, 0]).unflatten(-1, heads)
    key = attention.key(hidden).unflatten(-1, heads)
    logits = torch.einsum("bhd,blhd->bhl", query, key) * attention.scaling
    return logits.float().masked_fill(~real[:, None], float("-inf")).softmax(dim=-1).mean(dim=1)


@torch.no_grad()
def emission(model: nn.Module, inputs: list[Tensor | None], counts: Tensor, make_mask: MakeMask) -> dict[int, Tensor]:
    """Emission scores [B, L] of every layer.

    Args:
        inputs: ``input_ids``, ``token_type_ids``, ``position_ids``, each [B, L] or ``None``.
        counts: [B] real tokens of each sentence; they come first in their row.
        make_mask: hidden states [B, L, D] and real tokens [B, L] -> the mask that the layers expect.
    """
    rows: list[Tensor] = []
    with without_dropout(model):
        hidden = model.bert.embeddings(*inputs)
        real = real_mask(counts, hidden.shape[1])
        mask = make_mask(hidden, real)
        layers = model.bert.encoder.layer
        for layer in layers[:-1]:
            rows.append(cls_attention(layer.attention.self, hidden, real))
            hidden = layer(hidden, mask)
        rows.append(cls_attention(layers[-1].attention.self, hidden, real))  # the rest of the last layer is not needed
    # In older versions of PyTorch, weights that autocast has cast without a graph would serve the pass that is trained.
    torch.clear_autocast_cache()
    return dict(enumerate(emission_scores(rows)))


def gradient(
    model: nn.Module,
    inputs: list[Tensor | None],
    counts: Tensor,
    make_mask: MakeMask,
    first: int,
) -> dict[int, Tensor]:
    """Gradient scores [B, L] of the layers from ``first`` on, by a pass and its way back.

    The loss takes the model's own prediction for the label, in training too: true labels would leak through the choice
    of tokens, and the model would learn to read them there. It is summed over sentences, so that none depends on its
    batch mates. A regression takes its prediction for the loss: the squared error has the same gradient up to one
    factor per sentence, which is 0 at the prediction.

    Args:
        inputs, counts, make_mask: as for ``emission``.
        first: the first layer whose scores are wanted.
    """
    # Inference mode is left, and its tensors are copied: they cannot be part of a graph.
    with torch.inference_mode(False), torch.no_grad(), without_dropout(model):
        hidden = model.bert.embeddings(*[None if x is None else x.clone() for x in inputs])
        mask = make_mask(hidden, real_mask(counts.clone(), hidden.shape[1]))
        for layer in model.bert.encoder.layer[:first]:
            hidden = layer(hidden, mask)
        torch.clear_autocast_cache()
        with torch.enable_grad():
            states = [hidden.detach().requires_grad_()]
            for layer in model.bert.encoder.layer[first:]:
                states.append(layer(states[-1], mask))
            logits = model.classifier(model.bert.pooler(states.pop())).float()
            if model.num_labels == 1:
                loss = logits.sum()
            else:
                loss = F.cross_entropy(logits, logits.detach().argmax(dim=-1), reduction="sum")
            gradients = torch.autograd.grad(loss, states)
    return {first + index: gradient_scores(each) for index, each in enumerate(gradients)}
