"""The counting rule, and selection by hand-computed cases and properties."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruner.select import gather_tokens, keep_count, keep_counts, select_tokens

RATES = st.decimals(min_value=0, max_value="0.999", places=3).map(float)


@pytest.mark.parametrize(
    ("tokens", "rate", "kept"),
    [
        (100, 0.29, 71),
        (10, 0.6, 4),
        (10, 0.0, 10),
        (1, 0.9, 1),
        (3, 0.5, 2),
        (7, 0.999, 1),
        (100, 0.57, 43),
        (2, 0.5, 1),
    ],
)
def test_counts_by_hand(tokens, rate, kept):
    assert keep_count(tokens, rate) == kept


@given(st.integers(1, 2000), RATES)
def test_counting_rule(tokens, rate):
    kept = keep_count(tokens, rate)
    share = Fraction(f"{rate:.3f}")
    assert 1 <= kept <= tokens
    assert kept == max(1, tokens - math.floor(share * tokens))
    # What is dropped is at most the share, and less than one token below it.
    assert tokens - kept <= share * tokens
    assert kept == 1 or (tokens - kept) + 1 > share * tokens


@given(st.integers(1, 500), RATES, RATES)
def test_a_higher_rate_never_keeps_more(tokens, one, other):
    low, high = sorted((one, other))
    assert keep_count(tokens, high) <= keep_count(tokens, low)


@given(st.integers(1, 500), RATES)
def test_a_longer_sentence_never_keeps_less(tokens, rate):
    assert keep_count(tokens, rate) <= keep_count(tokens + 1, rate)


def test_padded_counting_is_the_published_one():
    # int(128 * 0.4) = 51 places: a sentence of 40 loses nothing but padding, one of 100 loses 49.
    assert keep_counts([40, 100, 128], [0.6, 0.0], "padded", 128) == [[40, 51, 51], [40, 51, 51]]
    # The second layer counts from the 51 places that the first has left.
    assert keep_counts([40, 100], [0.6, 0.5], "padded", 128)[1] == [25, 25]
    with pytest.raises(ValueError, match="padded_length"):
        keep_count(10, 0.5, "padded")


def test_rates_multiply_over_layers():
    assert keep_counts([100, 9], [0.5, 0.0, 0.5], "real") == [[50, 5], [50, 5], [25, 3]]


def test_selection_by_hand():
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.9, 0.2], [0.3, 0.3, 0.3, -math.inf, -math.inf]])
    positions = select_tokens(scores, [3, 2])
    assert positions.tolist() == [[1, 2, 3], [0, 1, 0]]  # ties keep the earlier; the free place points at 0


def test_padding_is_never_taken_before_a_real_token():
    scores = torch.tensor([[-math.inf, -math.inf, 1.0, -math.inf]])  # two real tokens without any score, one padding
    assert select_tokens(scores, [3]).tolist() == [[0, 1, 2]]


@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.data())
def test_selection_agrees_with_sorting(length, seed, data):
    keep = data.draw(st.integers(1, length))
    scores = np.random.default_rng(seed).integers(0, 5, length).astype(np.float32)  # many ties
    best = sorted(range(length), key=lambda position: (-scores[position], position))[:keep]
    assert select_tokens(torch.tensor(scores)[None], [keep]).tolist() == [sorted(best)]


def test_gather_takes_the_same_tokens_of_every_tensor():
    x = torch.arange(24.0).view(2, 4, 3)
    positions = torch.tensor([[0, 3], [1, 2]])
    assert torch.equal(gather_tokens(x, positions), torch.stack([x[0, [0, 3]], x[1, [1, 2]]]))
    assert torch.equal(gather_tokens(x[..., 0], positions), torch.stack([x[0, [0, 3], 0], x[1, [1, 2], 0]]))
