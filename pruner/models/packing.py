"""Unpadding: the real tokens of a batch one after the other, and back; the rules of padding. It knows no model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice, pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# Attention is computed for several sentences at once, padded to the longest of them.
SLICE_TOKENS = 192  # so many tokens of neighbours of equal length are taken as they lie; on a CPU that saves copies
# Limits of what is computed at once, in pairs of tokens:
PAIR_LIMIT = 2**18  # all of them; with 12 heads a map of 12 MiB in float32
WASTE_LIMIT = 2**12  # those with padding: on a CPU they take about as long as one call more


def to_device(values: Sequence | np.ndarray, device: torch.device) -> Tensor:
    """Numbers known on the host -> a tensor on ``device``, without waiting for the device."""
    tensor = torch.as_tensor(values)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def real_mask(counts: Tensor, width: int) -> Tensor:
    """Real tokens first, padding after: [B] counts -> [B, width] booleans, true where a token is real."""
    return torch.arange(width, device=counts.device) < counts[:, None]


def real_lengths(attention_mask: Tensor | None, batch: int, width: int) -> list[int]:
    """Real tokens of each sentence, read from the mask [B, L]: one wait for the device, saved by ``lengths=``."""
    if attention_mask is None:
        return [width] * batch
    counts = attention_mask.bool().sum(dim=1)
    if not torch.equal(attention_mask.bool(), real_mask(counts, width)) or not bool((counts > 0).all()):
        raise ValueError("attention_mask: each row must be its real tokens, at least one, and then its padding")
    return counts.tolist()


def left_align(ids: Tensor, lengths: Sequence[int] | None, padding: int) -> tuple[Tensor, list[int]]:
    """Tokens first and padding behind them: [B, L] ids with ``padding`` anywhere -> [B, L] and B lengths.

    ``lengths`` that are known on the host promise that it is so already; without them the device is waited for.
    """
    if lengths is not None:
        return ids, list(lengths)
    real = ids != padding
    order = real.int().sort(dim=1, descending=True, stable=True).indices
    return ids.gather(1, order), real.sum(dim=1).tolist()


def to_width(ids: Tensor, width: int) -> Tensor:
    """[B, L] ids, cut or padded with 0 to [B, width]."""
    return F.pad(ids[:, :width], (0, max(0, width - ids.shape[1])))


def round_rows(tokens: int) -> int:
    """Tokens -> rows, at most 1/32 more: 32 sizes between a power of two and the next, multiples of 16 at least."""
    step = max(16, 2 ** (tokens.bit_length() - 6))
    return -(-tokens // step) * step


@dataclass(frozen=True)
class Bucket:
    """Sentences (``rows`` of the batch) of similar length, padded to the longest: ``shape`` is b sentences, n tokens.

    ``index`` says where their tokens lie in the packed row: a slice, or [b * n] places where some are padded or apart
    (padding points at any real token). ``real`` [b, n] is false at padding, ``None`` where there is none.
    """

    rows: list[int]
    shape: tuple[int, int]
    index: slice | Tensor
    real: Tensor | None

    def pad(self, x: Tensor) -> Tensor:
        """[T, ...] -> [b, n, ...]"""
        rows = x[self.index] if isinstance(self.index, slice) else x.index_select(0, self.index)
        return rows.unflatten(0, self.shape)


@dataclass(frozen=True)
class Packing:
    """The packed row of a batch: T tokens, sentence after sentence. Made by ``pack``.

    ``counts`` are the B numbers of real tokens, known on the host: they decide all shapes. T is the sum of them; or
    more, where the first token is repeated at the end. On the device: ``ends`` [B + 1], where each sentence begins and
    the last one ends; ``places`` [T], each token's place among the B * L of the padded batch.

    And how it comes out of a packing before it, of which each sentence keeps its ``counts`` best tokens: ``best`` are
    the places of these in [B, L] ranks of tokens, ``begins`` where their sentence began, both without repetitions.
    """

    counts: list[int]
    ends: Tensor
    places: Tensor
    best: Tensor
    begins: Tensor

    @property
    def rows(self) -> int:
        return len(self.places)

    @cached_property
    def tokens(self) -> int:
        return sum(self.counts)

    @cached_property
    def width(self) -> int:
        return max(self.counts)

    @cached_property
    def real(self) -> Tensor:
        """[B, L] true where the padded batch has a real token."""
        return real_mask(self.ends.diff(), self.width)

    @cached_property
    def positions(self) -> Tensor:
        """[T] the position of each token in its sentence."""
        return self.places % self.width

    @cached_property
    def ends_int32(self) -> Tensor:
        """``ends`` as variable-length attention wants them."""
        return self.ends.int()

    def unpad(self, x: Tensor) -> Tensor:
        """[B, L or more, ...] -> [T, ...]"""
        return x[:, : self.width].flatten(0, 1).index_select(0, self.places)

    def pad(self, x: Tensor, filling: float = 0) -> Tensor:
        """[T, ...] -> [B, L, ...] with ``filling`` behind the tokens"""
        padded = x.new_full((len(self.counts) * self.width, *x.shape[1:]), filling)
        padded = padded.index_copy(0, self.places[: self.tokens], x[: self.tokens])
        return padded.unflatten(0, (len(self.counts), self.width))

    @cached_property
    def buckets(self) -> list[Bucket]:
        """All sentences in buckets of similar length; on a GPU in as few as fit, where calls cost more than padding."""
        found, apart, start, row = [], [], 0, 0
        for count, group in groupby(self.counts):
            number = len(list(group))
            rows, tokens = list(range(row, row + number)), number * count
            if self.ends.is_cuda or tokens < SLICE_TOKENS or number * count**2 > PAIR_LIMIT:
                apart += rows
            else:
                found.append(Bucket(rows, (number, count), slice(start, start + tokens), None))
            start, row = start + tokens, row + number
        starts = np.cumsum([0, *self.counts])
        for rows in self._similar(apart):
            counts, width = np.array([self.counts[row] for row in rows]), self.counts[rows[0]]
            index = starts[rows][:, None] + np.minimum(np.arange(width), counts[:, None] - 1)
            real = None if counts[-1] == width else to_device(np.arange(width) < counts[:, None], self.ends.device)
            found.append(Bucket(rows, (len(rows), width), to_device(index.ravel(), self.ends.device), real))
        return found

    def _similar(self, rows: Sequence[int]) -> Iterator[list[int]]:
        """Rows in groups of similar counts, the longest first."""
        waste_limit = PAIR_LIMIT if self.ends.is_cuda else WASTE_LIMIT
        group: list[int] = []
        waste = 0
        for row in sorted(rows, key=lambda row: -self.counts[row]):
            longest = self.counts[group[0]] if group else self.counts[row]
            waste += longest**2 - self.counts[row] ** 2
            if waste > waste_limit or (group and (len(group) + 1) * longest**2 > PAIR_LIMIT):
                yield group
                group, waste = [], 0
            group.append(row)
        if group:
            yield group

    def unpad_buckets(self, parts: Sequence[Tensor]) -> Tensor:
        """What was computed of each of ``buckets``, [b, n, ...] -> [T, ...]"""
        parts = [part.flatten(0, 1) for part in parts]
        if self._places_in_buckets is not None:
            return torch.cat(parts).index_select(0, self._places_in_buckets)
        repeated = parts[0][:1].expand(self.rows - self.tokens, *parts[0].shape[1:])
        return torch.cat([*parts, repeated])

    @cached_property
    def _places_in_buckets(self) -> Tensor | None:
        """[T] the place of each token in the padded buckets one after the other; ``None`` if they are in order."""
        begins, place = np.zeros(len(self.counts), dtype=np.int64), 0
        for bucket in self.buckets:
            begins[bucket.rows] = place + bucket.shape[1] * np.arange(bucket.shape[0])
            place += bucket.shape[0] * bucket.shape[1]
        if place == self.tokens and (np.diff(begins) > 0).all():
            return None
        places = np.full(self.rows, begins[0])
        places[: self.tokens] = np.repeat(begins, self.counts) + _positions(np.array(self.counts))
        return to_device(places, self.ends.device)


def pack(counts_by_layer: Sequence[Sequence[int]], device: torch.device, round_up: bool = False) -> list[Packing]:
    """A packing for each of a batch's layers: the tokens that enter it, fewer from layer to layer; in one transfer.

    Args:
        counts_by_layer: B numbers of tokens for each layer.
        round_up: let the number of rows be one of a few (``round_rows``). Nothing reads the rows that are repeated.
    """
    distinct = [list(counts) for counts, _ in groupby(counts_by_layer)]
    arrays: list[np.ndarray] = []
    begins, width = np.cumsum(distinct[0]) - distinct[0], max(distinct[0])
    for layer in distinct:
        counts, positions = np.array(layer), _positions(np.array(layer))
        ends, sentences = np.concatenate([[0], counts.cumsum()]), np.repeat(np.arange(len(layer)), counts)
        places = np.zeros(round_rows(len(positions)) if round_up else len(positions), dtype=np.int64)
        places[: len(positions)] = sentences * max(layer) + positions
        arrays += [ends, places, sentences * width + positions, begins[sentences]]
        begins, width = ends[:-1], max(layer)
    tensors = iter(to_device(np.concatenate(arrays), device).split([len(array) for array in arrays]))
    packings = iter([Packing(layer, *islice(tensors, 4)) for layer in distinct])
    found = [next(packings)]
    for before, after in pairwise(counts_by_layer):
        found.append(found[-1] if after == before else next(packings))
    return found


def _positions(counts: np.ndarray) -> np.ndarray:
    """B counts -> 0, 1, ..., again from 0 for each sentence."""
    ends = counts.cumsum()
    return np.arange(ends[-1]) - np.repeat(ends - counts, counts)
