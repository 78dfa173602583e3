"""Which heads and neurons a model's answers depend on, without labels (Kwon et al. 2022).

"A Fast Post-Training Pruning Framework for Transformers", arXiv 2204.09656: a part's worth is its entry on the diagonal
of the Fisher information of factors put on the parts, to second order twice the divergence from the model's answers
that its absence makes. They take the labels' gradients; the expectation over the model's own answers needs none.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pruner.compress.structure.importance import Scores, sensitivities
from pruner.data.cache import Split
from pruner.data.collate import BertCollator, make_batch, sorted_rows

DIRECTIONS = 4  # of the answers that are derived at most; with more classes, so many random mixtures of them


def answer_kind(config: Any) -> str:
    """Return what the answers of a classifier are, as its config or, without a word there, ``transformers`` says."""
    return config.problem_type or ("regression" if config.num_labels == 1 else "single_label_classification")


def fisher_scores(model: Any, split: Split, batch_size: int) -> Scores:
    """Score the parts of a BERT classifier by the roots of their Fisher information, a mean over the rows of a split.

    The answers are taken for a distribution over classes, for one over each label, or of a regression for the mean of a
    normal one of unit variance.
    """
    training, generator, totals = model.training, torch.Generator().manual_seed(0), None
    model.eval()
    for rows in sorted_rows(split, batch_size):
        inputs = make_batch(split, rows, BertCollator(with_lengths=False), model.device)
        for direction in directions(model.config.num_labels, generator):
            kinds = sensitivities(model, inputs, partial(mixed, direction, model.config))
            squares = [torch.stack([x.sum(dim=1).square().sum(dim=0) for x in kind]) for kind in kinds]
            totals = squares if totals is None else [a + b for a, b in zip(totals, squares, strict=True)]
    model.train(training)
    assert totals is not None  # there are rows
    weight = len(split) * (DIRECTIONS if model.config.num_labels > DIRECTIONS else 1)
    heads, feed_forwards, neurons = ((total / weight).sqrt().cpu() for total in totals)
    return Scores(heads, feed_forwards.squeeze(-1), neurons)


def directions(labels: int, generator: torch.Generator) -> Tensor:
    """List what outputs are multiplied with before they are derived: [n, labels], n at most ``DIRECTIONS``.

    Squares of derivatives by random signs have the sum of the squares for their mean.
    """
    if labels <= DIRECTIONS:
        return torch.eye(labels)
    return torch.randint(2, (DIRECTIONS, labels), generator=generator) * 2.0 - 1


def mixed(direction: Tensor, config: Any, logits: Tensor) -> Tensor:
    """Add up what is derived: [labels], [B, labels] -> scalar"""
    return (roots(logits, config) @ direction.to(logits)).sum()


def roots(logits: Tensor, config: Any) -> Tensor:
    """Return outputs of whose derivatives the squares add up to the Fisher information: [B, labels] -> [B, labels]"""
    kind = answer_kind(config)
    if kind == "regression":
        return logits
    if kind == "multi_label_classification":
        p = logits.detach().sigmoid()
        return (p * (1 - p)).sqrt() * logits
    log_p = logits.log_softmax(dim=1)
    return log_p.detach().exp().sqrt() * log_p


def unlikeness(logits: Tensor, reference: Tensor, config: Any) -> float:
    """Average by how much answers differ from those of another model: [B, labels] x 2

    The divergence of a classifier, the squared error of a regression.
    """
    kind = answer_kind(config)
    if kind == "regression":
        return F.mse_loss(logits, reference).item()
    if kind == "multi_label_classification":
        p = reference.sigmoid()
        own, cross = (F.binary_cross_entropy_with_logits(x, p, reduction="none") for x in (reference, logits))
        return (cross - own).sum(dim=1).mean().item()
    return F.kl_div(logits.log_softmax(dim=1), reference.softmax(dim=1), reduction="batchmean").item()


def agreement(logits: Tensor, reference: Tensor, config: Any) -> float:
    """Return the share of rows with the same answer as another model; of a regression the rank correlation."""
    kind = answer_kind(config)
    if kind == "single_label_classification":
        return (logits.argmax(dim=1) == reference.argmax(dim=1)).double().mean().item()
    if kind == "multi_label_classification":
        return ((logits > 0) == (reference > 0)).all(dim=1).double().mean().item()
    from scipy.stats import spearmanr

    return float(spearmanr(logits.flatten(), reference.flatten()).statistic)
