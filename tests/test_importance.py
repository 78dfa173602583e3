"""Importance of heads, feed-forwards and neurons against a BERT that is written out here, in float64, word by word."""

import copy
from itertools import pairwise

import pytest
import torch
from conftest import small_config
from reference import bert_by_hand
from torch import Tensor
from torch.nn import functional as F
from transformers import BertForSequenceClassification

from pruner.compress.structure.importance import (
    importance,
    losing_feed_forwards,
    losing_heads,
    normalise,
    random_feed_forwards,
    random_heads,
    winning_feed_forwards,
    winning_heads,
)
from pruner.compress.structure.shrink import Structure, shrink

LENGTHS = [5, 9, 3, 7, 8, 2, 6, 4, 9, 3, 5]
SIZES = [4, 4, 3]  # of batches; the last one is shorter
LAYERS, HEADS = 3, 4


@pytest.fixture(scope="module")
def model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = small_config(num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_labels=3, initializer_range=0.4)
    return BertForSequenceClassification(config).eval()


@pytest.fixture(scope="module")
def sentences(model) -> list[tuple[Tensor, Tensor, int]]:
    """Ids, segments and label of each."""
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(5, model.config.vocab_size, (length,), generator=generator) for length in LENGTHS]
    return [(x, (torch.arange(len(x)) >= len(x) // 2).long(), number % 3) for number, x in enumerate(ids)]


def batched(sentences, sizes=SIZES, padding: int = 0):
    batches, rest = [], list(sentences)
    for size in sizes:
        part, rest = rest[:size], rest[size:]
        width = max(len(ids) for ids, *_ in part) + padding
        ids, types = (torch.stack([F.pad(x[k], (0, width - len(x[k]))) for x in part]) for k in (0, 1))
        mask = torch.stack([torch.arange(width) < len(x) for x, *_ in part]).long()
        labels = torch.tensor([label for *_, label in part])
        batches.append({"input_ids": ids, "attention_mask": mask, "token_type_ids": types, "labels": labels})
    return batches


def slopes(model, ids: Tensor, types: Tensor, label: int) -> tuple[Tensor, Tensor, Tensor]:
    """Derive a sentence's loss by a factor for each token: of heads [L, H, T], outputs [L, T], neurons [L, F, T]."""
    sizes = (LAYERS, HEADS), (LAYERS,), (LAYERS, model.config.intermediate_size)
    factors = [torch.ones(*size, len(ids), dtype=torch.float64, requires_grad=True) for size in sizes]
    loss = -torch.log_softmax(bert_by_hand(model, ids, types, *factors), dim=-1)[label]
    return torch.autograd.grad(loss, factors)


@pytest.fixture(scope="module")
def by_sentence(model, sentences) -> list[tuple[Tensor, Tensor, Tensor]]:
    return [slopes(model, *sentence) for sentence in sentences]


@pytest.mark.parametrize("weigh", ["sentence", "batch"])
@pytest.mark.parametrize("granularity", ["token", "sentence"])
def test_scores_are_those_written_out(model, sentences, by_sentence, granularity, weigh):
    found = importance(model, batched(sentences), granularity, weigh)
    weights = [1 / 11] * 11 if weigh == "sentence" else [1 / (3 * size) for size in SIZES for _ in range(size)]
    for kind, scores in enumerate(found):
        parts = [x[kind].abs().sum(-1) if granularity == "token" else x[kind].sum(-1).abs() for x in by_sentence]
        expected = sum(weight * part for weight, part in zip(weights, parts, strict=True))
        assert scores.shape == expected.shape
        assert torch.allclose(scores, expected, rtol=1e-3, atol=1e-6)


def test_batches_padding_and_frozen_weights_change_nothing(model, sentences):
    scores = importance(model, batched(sentences))
    frozen = model.requires_grad_(False)
    again = importance(frozen, batched(sentences, [11], padding=5))
    model.requires_grad_(True)
    for one, other in zip(scores, again, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-7)
    # But the last batch counts more by batches.
    assert not torch.allclose(scores.heads, importance(model, batched(sentences), weigh="batch").heads, rtol=1e-2)


def test_in_the_last_layer_tokens_and_sentences_agree(model, sentences):
    """Only [CLS] has a gradient there."""
    token, sentence = (importance(model, batched(sentences), granularity=kind) for kind in ("token", "sentence"))
    for one, other in zip(token, sentence, strict=True):
        assert torch.allclose(one[-1], other[-1])
        assert not torch.allclose(one[0], other[0], rtol=1e-2)


def test_the_model_is_left_as_it_was(model, sentences):
    model.train()
    inputs = batched(sentences)[0]
    with torch.no_grad():
        importance(model, batched(sentences))
    assert model.training
    assert all(each.grad is None for each in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    half = shrink(copy.deepcopy(model), Structure.of(model.config).keep_layers([0]))
    with pytest.raises(ValueError, match="parts of this model have been removed"):
        importance(half, [inputs])
    with pytest.raises(ValueError, match="no batches"):
        importance(model, [])
    with pytest.raises(ValueError, match="'word', 'sentence'; granularity is token or sentence"):
        importance(model, [inputs], granularity="word")
    model.eval()


def test_scores_are_normalised_by_layer(model, sentences):
    scores = importance(model, batched(sentences))
    heads, feed_forwards, neurons = normalise(scores)
    assert torch.allclose(heads.square().sum(dim=1), torch.ones(LAYERS, dtype=torch.float64))
    assert torch.allclose(neurons.square().sum(dim=1), torch.ones(LAYERS, dtype=torch.float64))
    assert feed_forwards.square().sum().item() == pytest.approx(1)
    assert torch.equal(normalise(scores.heads), heads)
    assert torch.equal(heads.argsort(dim=1), scores.heads.argsort(dim=1))
    assert torch.equal(normalise(torch.zeros(2, 3)), torch.zeros(2, 3))


BY_HAND = torch.tensor([[0.1, 0.4, 0.2], [0.6, 0.5, 0.7], [0.2, 0.3, 0.2]])


def test_tickets_by_hand():
    """Ascending: 0.1 | 0.2 0.2 0.2 | 0.3 0.4 | 0.5 0.6 0.7; 0.4, 0.7 and 0.3 are the best of their layers."""
    assert winning_heads(BY_HAND, 0).all()
    assert winning_heads(BY_HAND, 1).int().tolist() == [[0, 1, 1], [1, 1, 1], [1, 1, 1]]
    assert winning_heads(BY_HAND, 3).int().tolist() == [[0, 1, 0], [1, 1, 1], [0, 1, 1]]  # the lower layer's first
    assert winning_heads(BY_HAND, 5).int().tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    assert winning_heads(BY_HAND, 9).int().tolist() == [[0, 1, 0], [0, 0, 1], [0, 1, 0]]
    assert losing_heads(BY_HAND, 2).int().tolist() == [[1, 1, 1], [0, 1, 0], [1, 1, 1]]
    assert losing_heads(BY_HAND, 9).int().tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]
    scores = torch.tensor([0.3, 0.1, 0.2])
    assert winning_feed_forwards(scores, 2).tolist() == [True, False, False]
    assert losing_feed_forwards(scores, 2).tolist() == [False, True, False]
    assert not winning_feed_forwards(scores, 3).any()
    with pytest.raises(ValueError, match="n: -1 parts cannot leave"):
        winning_heads(BY_HAND, -1)


@pytest.mark.parametrize("make", [winning_heads, losing_heads, lambda scores, n: random_heads((6, 12), n, seed=3)])
def test_tickets_are_nested_of_equal_size_and_leave_each_layer_a_head(make):
    scores = torch.rand(6, 12, generator=torch.Generator().manual_seed(0))
    masks = [make(scores, n) for n in range(73)]
    for n, (mask, smaller) in enumerate(pairwise(masks)):
        assert mask.sum() == 72 - min(n, 66)
        assert mask.any(dim=1).all()
        assert not (smaller & ~mask).any()


def test_random_tickets_are_drawn_without_replacement_and_uniformly():
    masks = torch.stack([random_heads((3, 4), 6, seed) for seed in range(400)]).double()
    assert (masks.sum(dim=(1, 2)) == 6).all()
    assert (masks.mean(dim=0) - 0.5).abs().max() < 0.1
    assert torch.equal(random_heads((3, 4), 6, 1), random_heads((3, 4), 6, 1))
    parts = torch.stack([random_feed_forwards(4, 1, seed) for seed in range(400)]).double()
    assert (parts.sum(dim=1) == 3).all()
    assert (parts.mean(dim=0) - 0.75).abs().max() < 0.1
