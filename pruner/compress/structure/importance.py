"""How much a BERT's loss depends on each head, feed-forward and neuron (Michel et al. 2019; Liang et al. 2021).

All are expected sensitivities: the absolute derivative of the loss by a factor of 1 put on what a part computes: a
head's context, a feed-forward's output, a neuron's activation.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from transformers import BertForSequenceClassification

from pruner.models.bert_layers import layers_of, task_loss

TINY = 1e-20  # of a norm, as published


class Scores(NamedTuple):
    """Importance of heads [L, H], of whole feed-forwards [L], and of their neurons [L, F], in float64."""

    heads: Tensor
    feed_forwards: Tensor
    neurons: Tensor


def importance(
    model: BertForSequenceClassification,
    batches: Iterable[Mapping[str, Tensor]],
    granularity: Literal["token", "sentence"] = "token",
    weigh: Literal["sentence", "batch"] = "sentence",
) -> Scores:
    """Score the parts of a model on sentences with labels; raw, see ``normalise``. The model is left as it was.

    Liang et al. 2021, section 3.1, after Michel et al. 2019, equation 2. Each batch's gradients are its own; dropout is
    off, and padding counts nothing.

    Args:
        batches: ``input_ids``, ``attention_mask``, ``token_type_ids`` [B, L] and ``labels`` [B].
        granularity: of what absolute values are taken before they are added: of each ``token``, as in the published
            code, or of each ``sentence``, as in the paper's formula.
        weigh: every ``sentence`` counts the same, however the batches were cut; or every ``batch``, as published.

    Raises:
        ValueError: there are no batches, an option is unknown, or parts have been removed already.
    """
    if getattr(model.config, "compression", None):
        raise ValueError("importance: parts of this model have been removed; score the one that it was made of")
    if granularity not in ("token", "sentence") or weigh not in ("sentence", "batch"):
        raise ValueError(
            f"importance: {granularity!r}, {weigh!r}; granularity is token or sentence, weigh sentence or batch"
        )
    totals, weight, training = None, 0, model.training
    model.eval()
    try:
        for batch in batches:
            share = len(batch["labels"]) if weigh == "sentence" else 1
            scores = [share * score for score in _scores(model, batch, granularity)]
            totals = scores if totals is None else [total + score for total, score in zip(totals, scores, strict=True)]
            weight += share
    finally:
        model.train(training)
    if totals is None:
        raise ValueError("importance: no batches; give some with labels")
    return Scores(*(total / weight for total in totals))


def _scores(model: BertForSequenceClassification, batch: Mapping[str, Tensor], granularity: str) -> Iterator[Tensor]:
    """Score one batch by its mean loss."""
    inputs = {name: x for name, x in batch.items() if name != "labels"}
    for kind in sensitivities(model, inputs, lambda logits: task_loss(logits, batch["labels"], model.config)):
        by_sentence = [x.sum(dim=1) if granularity == "sentence" else x for x in kind]
        yield torch.stack([x.abs().flatten(0, -2).sum(dim=0) for x in by_sentence]).squeeze(-1)


def sensitivities(
    model: BertForSequenceClassification, inputs: Mapping[str, Tensor], loss_of: Callable[[Tensor], Tensor]
) -> list[list[Tensor]]:
    """Derive a function of the logits by factors on what heads, feed-forwards and neurons compute of each token.

    Returns, for each of the three kinds, [B, L, parts] of each layer in float64, 0 at padding.
    """
    with torch.enable_grad(), _watched(model) as watched:
        loss = loss_of(model(**inputs).logits)
    values = [x for kind in watched for x in kind]
    slopes = iter(torch.autograd.grad(loss, values))
    heads, outputs, neurons = ([(next(slopes) * x).detach().double() for x in kind] for kind in watched)
    counts = [layer.attention.self.num_attention_heads for layer in layers_of(model.bert)]
    heads = [x.unflatten(-1, (count, -1)).sum(dim=-1) for x, count in zip(heads, counts, strict=True)]
    return [heads, [x.sum(dim=-1, keepdim=True) for x in outputs], neurons]


@contextmanager
def _watched(model: BertForSequenceClassification) -> Iterator[tuple[list[Tensor], list[Tensor], list[Tensor]]]:
    """Collect in a forward pass each layer's contexts [B, L, H * d], feed-forward outputs and activations [B, L, F]."""
    contexts, outputs, activations = list[Tensor](), list[Tensor](), list[Tensor]()

    def keep(kept: list[Tensor]) -> Callable[..., None]:
        return lambda module, inputs, *output: kept.append(output[0] if output else inputs[0])

    with ExitStack() as hooks:
        # Whatever of the model is frozen, the values depend on this.
        embedded = model.bert.embeddings.register_forward_hook(lambda module, inputs, x: x.detach().requires_grad_())
        hooks.callback(embedded.remove)
        for layer in layers_of(model.bert):
            for handle in (
                layer.attention.output.dense.register_forward_pre_hook(keep(contexts)),
                layer.output.dense.register_forward_pre_hook(keep(activations)),
                layer.output.dense.register_forward_hook(keep(outputs)),
            ):
                hooks.callback(handle.remove)
        yield contexts, outputs, activations


def normalise(scores: Any) -> Any:
    """Divide scores by their L2 norm in each layer, those of feed-forwards by that over all layers.

    ``scores`` are ``Scores``, or some of them: [L, parts] or [L].
    """
    if isinstance(scores, Tensor):
        return scores / (scores.norm(dim=-1, keepdim=True) + TINY)
    return Scores(*map(normalise, scores))


def winning_heads(scores: Tensor, n: int) -> Tensor:
    """Mark the heads that stay when the ``n`` least important ones of all layers leave: [L, H] -> booleans [L, H]

    The best head of each layer stays, so that at most L * H - L leave. Of equal ones, lower layers' leave first. What
    stays with a larger ``n`` stays with a smaller one (Liang et al. 2021, section 3.1).
    """
    return _kept(scores, n, protected=scores.argmax(dim=1))


def losing_heads(scores: Tensor, n: int) -> Tensor:
    """Mark the heads that stay when the ``n`` most important ones leave, the worst head of each layer staying."""
    return winning_heads(-scores, n)


def random_heads(shape: tuple[int, int], n: int, seed: int) -> Tensor:
    """Mark the heads [L, H] that stay when ``n`` drawn at random leave, one in each layer staying."""
    return winning_heads(_random(shape, seed), n)


def winning_feed_forwards(scores: Tensor, n: int) -> Tensor:
    """Mark the feed-forwards that stay when the ``n`` least important ones leave: [L] -> booleans [L]; none is safe."""
    return _kept(scores, n)


def losing_feed_forwards(scores: Tensor, n: int) -> Tensor:
    """Mark the feed-forwards that stay when the ``n`` most important ones leave."""
    return winning_feed_forwards(-scores, n)


def random_feed_forwards(layers: int, n: int, seed: int) -> Tensor:
    """Mark the feed-forwards [layers] that stay when ``n`` drawn at random leave."""
    return winning_feed_forwards(_random((layers,), seed), n)


def _random(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _kept(scores: Tensor, n: int, protected: Tensor | None = None) -> Tensor:
    """Let the first ``n`` in ascending order leave, but for the ``protected`` part of each row."""
    if n < 0:
        raise ValueError(f"n: {n} parts cannot leave; give a number from 0")
    kept, order = torch.ones_like(scores, dtype=torch.bool), scores.flatten().argsort(stable=True)
    if protected is not None:
        rows = torch.arange(len(scores), device=scores.device)
        order = order[~torch.isin(order, rows * scores.shape[1] + protected)]
    kept.view(-1)[order[:n]] = False
    return kept
