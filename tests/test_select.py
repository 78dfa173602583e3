"""The counting rule, and selection by hand-computed cases and properties."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruner.compress.tokens.select import keep_count, keep_counts, select_tokens
from pruner.models.packing import pack

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


def chosen(scores, keep: list[int]) -> list[list[int]]:
    """Positions that stay of each sentence, given scores [B, L] with minus infinity at padding."""
    before, kept = pack([(scores > -math.inf).sum(dim=1).tolist(), keep], scores.device)
    places = select_tokens(scores, kept)
    return [positions.tolist() for positions in before.positions[places].split(keep)]


def test_selection_by_hand():
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.9, 0.2], [0.3, 0.3, 0.3, -math.inf, -math.inf]])
    assert chosen(scores, [3, 2]) == [[1, 2, 3], [0, 1]]  # ties keep the earlier


def test_padding_is_never_taken_before_a_real_token():
    scores = torch.tensor([[-math.inf, -math.inf, 1.0, -math.inf]])  # two real tokens without any score, one padding
    kept = pack([[4], [3]], scores.device)[1]
    assert select_tokens(scores, kept).tolist() == [0, 1, 2]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(0, 2**32 - 1), st.booleans(), st.data())
def test_selection_agrees_with_sorting(lengths, seed, round_up, data):
    keep = [data.draw(st.integers(1, length)) for length in lengths]
    before, kept = pack([lengths, keep], torch.device("cpu"), round_up)
    scores = np.random.default_rng(seed).integers(0, 5, before.num_tokens).astype(np.float32)  # many ties
    expected = []
    for start, length, number in zip(np.cumsum([0, *lengths]), lengths, keep, strict=False):
        expected += sorted(sorted(range(start, start + length), key=lambda place: (-scores[place], place))[:number])
    padded = before.pad(torch.tensor(np.pad(scores, (0, before.rows - before.num_tokens))), -math.inf)
    places = select_tokens(padded, kept).tolist()
    assert places == expected + [0] * (kept.rows - kept.num_tokens)
