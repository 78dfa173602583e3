"""Scorers and students against values computed by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from pruner.compress.tokens.scores import Tokens, frequency_scores, head_scores, random_scores, tail_scores
from pruner.compress.tokens.student import Student, distillation_loss, standardise
from pruner.compress.tokens.teachers import emission_scores, gradient_scores
from pruner.models.packing import real_mask


def test_emission_is_the_product_over_this_and_later_layers():
    attention = [torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.2, 0.3, 0.5]])]
    first, second = emission_scores(attention)
    assert torch.allclose(first, torch.log(torch.tensor([[0.1, 0.075, 0.125]])))
    assert torch.allclose(second, torch.log(attention[1]))


def test_emission_orders_what_a_plain_product_would_drown():
    faint = [torch.tensor([[1e-30, 2e-30, 0.0]])] * 3  # products of 1e-90 are 0 in float32
    assert emission_scores(faint)[0].argsort(descending=True).tolist() == [[1, 0, 2]]


def test_gradient_is_the_mean_absolute_value_in_logs():
    found = gradient_scores(torch.tensor([[[1.0, -3.0], [0.5, 0.5], [0.0, 0.0]]]))
    assert found[0, :2].exp().tolist() == pytest.approx([2.0, 0.5])
    assert found[0, 2] < found[0, 1]
    assert found.isfinite().all()


def test_positions_and_frequency():
    ids = torch.tensor([[7, 8, 9]])
    occurrences = torch.zeros(10, dtype=torch.int64)
    occurrences[7:] = torch.tensor([2**24 + 1, 2**24, 3])
    tokens = Tokens(ids, ids > 0, occurrences=occurrences)
    assert head_scores(tokens).argsort(descending=True).tolist() == [[0, 1, 2]]
    assert tail_scores(tokens).argsort(descending=True).tolist() == [[2, 1, 0]]
    assert frequency_scores(tokens).argsort(descending=True).tolist() == [[2, 1, 0]]


def test_random_depends_on_the_sentence_layer_and_seed_alone():
    ids = torch.randint(5, 1000, (2, 12), generator=torch.Generator().manual_seed(0))
    one, real = ids[:1, :9], torch.ones(1, 9, dtype=torch.bool)
    alone = random_scores(Tokens(one, real, seed=1))
    batched = random_scores(Tokens(ids, real_mask(torch.tensor([9, 12]), 12), seed=1))
    assert torch.equal(alone[0], batched[0, :9])
    other_word = one.clone()
    other_word[0, 8] += 1
    assert not torch.equal(alone, random_scores(Tokens(one, real, seed=2)))
    assert not torch.equal(alone, random_scores(Tokens(one, real, layer=1, seed=1)))
    assert not torch.equal(alone, random_scores(Tokens(other_word, real, seed=1)))


def test_random_is_uniform_at_every_position():
    ids = torch.randint(0, 30000, (4000, 8), generator=torch.Generator().manual_seed(0))
    scores = random_scores(Tokens(ids, torch.ones_like(ids, dtype=torch.bool), seed=3))
    for position in range(8):
        assert kstest(scores[:, position].numpy(), "uniform").pvalue > 1e-3
    correlation = np.corrcoef(scores.numpy().T)
    assert np.abs(correlation - np.eye(8)).max() < 0.06


def test_standardise_by_hand():
    scores = torch.tensor([[1.0, 3.0, 99.0], [2.0, 2.0, 2.0]])
    real = torch.tensor([[True, True, False], [True, True, True]])
    assert torch.allclose(standardise(scores, real), torch.tensor([[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]), atol=1e-5)
    tiny = torch.tensor([[1e-25, 3e-25, math.inf]])
    assert torch.allclose(standardise(tiny, real[:1]), torch.tensor([[-1.0, 1.0, 0.0]]), atol=1e-5)


def test_distillation_ignores_scale_shift_and_padding():
    teacher = torch.tensor([[1.0, 4.0, 2.0, -math.inf]])
    real = torch.tensor([[True, True, True, False]])
    assert distillation_loss(5 * teacher + 7, teacher, real).item() == pytest.approx(0, abs=1e-6)
    # The reverse order is the farthest: standardised scores z and -z, mean of (2z)^2 = 4.
    assert distillation_loss(-teacher, teacher, real).item() == pytest.approx(4, abs=1e-4)


def test_parts_of_a_batch_add_up_by_their_share_of_its_sentences():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 7, 9, generator=generator)
    real = real_mask(torch.tensor([9, 1, 4, 0, 7, 2, 5]), 9)
    parts = [distillation_loss(student[rows], teacher[rows], real[rows]) for rows in (slice(0, 2), slice(2, 7))]
    assert (2 * parts[0] + 5 * parts[1]).item() / 7 == pytest.approx(
        distillation_loss(student, teacher, real).item(), rel=1e-5
    )
    # By hand: of each sentence the mean over its own tokens, however many.
    reversed_order = distillation_loss(
        torch.tensor([[1.0, 2, 0], [1, 3, 2]]),
        torch.tensor([[2.0, 1, 0], [1, 3, 2]]),
        real_mask(torch.tensor([2, 3]), 3),
    )
    assert reversed_order.item() == pytest.approx((4 + 0) / 2, abs=1e-4)


def test_no_gradient_reaches_the_hidden_states_or_the_teacher():
    torch.manual_seed(0)
    hidden, teacher = torch.randn(2, 5, 8, requires_grad=True), torch.randn(2, 5, requires_grad=True)
    student = Student(8, (8, 8))
    distillation_loss(student(hidden), teacher, torch.ones(2, 5, dtype=torch.bool)).backward()
    assert hidden.grad is None
    assert teacher.grad is None
    assert all(p.grad is not None for p in student.parameters())
    assert [layer.out_features for layer in student.layers if hasattr(layer, "out_features")] == [8, 8, 1]
