"""Packing against plain loops: nothing is lost, doubled or moved, whatever the lengths."""

from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruner.models import packing as module
from pruner.models.packing import PAIR_LIMIT, WASTE_LIMIT, pack, round_rows

COUNTS = st.lists(st.integers(1, 90), min_size=1, max_size=40)
CPU = torch.device("cpu")


@given(COUNTS, st.booleans())
def test_unpad_takes_the_tokens_and_pad_puts_them_back(counts, round_up):
    packing = pack([counts], CPU, round_up)[0]
    padded = torch.arange(1, len(counts) * (max(counts) + 3) + 1).view(len(counts), -1)  # wider than needed
    packed = packing.unpad(padded)
    expected = [row[:n].tolist() for row, n in zip(padded, counts, strict=True)]
    assert packed[: packing.num_tokens].tolist() == list(chain(*expected))
    assert packed[packing.num_tokens :].eq(1).all()  # the first token, repeated
    assert len(packed) == packing.rows
    back = packing.pad(packed, -1)
    assert back.shape == (len(counts), max(counts))
    assert [row[:n].tolist() for row, n in zip(back, counts, strict=True)] == expected
    assert back[~packing.real].eq(-1).all()
    positions = list(chain(*map(range, counts)))
    assert packing.positions[: packing.num_tokens].tolist() == positions


@given(COUNTS, st.booleans(), st.booleans(), st.booleans())
def test_buckets_hold_every_sentence_once(counts, in_order, few, round_up):
    counts = sorted(counts, reverse=True) if in_order else counts
    with pytest.MonkeyPatch.context() as patch:
        if few:  # as on a GPU
            patch.setattr(module, "SLICE_TOKENS", 10**9)
            patch.setattr(module, "WASTE_LIMIT", PAIR_LIMIT)
        packing = pack([counts], CPU, round_up)[0]
        numbers = packing.unpad(torch.arange(len(counts) * max(counts)).view(len(counts), -1))
        parts = [bucket.pad(numbers) for bucket in packing.buckets]
        assert sorted(row for bucket in packing.buckets for row in bucket.rows) == list(range(len(counts)))
        for bucket, part in zip(packing.buckets, parts, strict=True):
            for number, row in enumerate(bucket.rows):
                real = bucket.real[number] if bucket.real is not None else torch.ones(bucket.shape[1], dtype=torch.bool)
                assert part[number][real].tolist() == numbers[: packing.num_tokens].split(counts)[row].tolist()
            assert bucket.shape[0] == 1 or bucket.shape[0] * bucket.shape[1] ** 2 <= PAIR_LIMIT
        assert torch.equal(packing.unpad_buckets(parts), numbers)


@given(COUNTS)
def test_little_is_computed_of_padding(counts):
    for bucket in pack([counts], CPU)[0].buckets:
        pairs = sum(counts[row] ** 2 for row in bucket.rows)
        assert bucket.shape[0] * bucket.shape[1] ** 2 - pairs <= WASTE_LIMIT


def test_sentences_of_equal_length_are_taken_as_they_lie():
    buckets = pack([[20] * 16 + [19] * 16], CPU)[0].buckets
    assert [bucket.indices for bucket in buckets] == [slice(0, 320), slice(320, 624)]
    assert all(bucket.real is None for bucket in buckets)


@given(st.integers(1, 100_000))
def test_rows_are_few_sizes_and_little_more_than_the_tokens(tokens):
    rows = round_rows(tokens)
    assert tokens <= rows <= max(tokens + 15, tokens * 33 / 32)
    octave = {round_rows(n) for n in range(512, 1024)}
    assert len(octave) == 33


def test_layers_with_the_same_tokens_share_their_packing():
    first, second, third = pack([[5, 4], [3, 2], [3, 2]], CPU)
    assert second is third
    assert first is not second


def test_sentences_may_be_empty():
    before, kept = pack([[0, 3, 0], [0, 2, 0]], CPU)
    assert before.unpad(torch.tensor([[0, 0, 0], [7, 8, 9], [0, 0, 0]])).tolist() == [7, 8, 9]
    assert kept.pad(torch.tensor([7, 9])).tolist() == [[0, 0], [7, 9], [0, 0]]
