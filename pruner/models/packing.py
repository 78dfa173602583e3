"""Unpadding: the real tokens of a batch one after the other, and back; the rules of padding. It knows no model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice

import numpy as np
import torch
from torch import Tensor

# Attention is computed for several sentences at once, padded to the longest of them.
SLICE_TOKENS = 192  # so many tokens of neighbours of equal length are taken as they lie; on a CPU that saves copies
# Limits of what is computed at once, in pairs of tokens:
PAIR_LIMIT = 2**18  # all of them; with 12 heads a map of 12 MiB in float32
WASTE_LIMIT = 2**12  # those with padding: on a CPU they take about as long as one call more


def to_device(values: Sequence | np.ndarray, device: torch.device) -> Tensor:
    """Send numbers known on the host to ``device`` without waiting for it."""
    tensor = torch.as_tensor(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def real_mask(lengths: Tensor, width: int) -> Tensor:
    """Real tokens first, padding after: [B] lengths -> [B, width] booleans, true where a token is real."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]


def real_lengths(attention_mask: Tensor | None, batch: int, width: int) -> list[int]:
    """Read the lengths of sentences from their mask [B, L]: one wait for the device, saved by ``lengths=``.

    Raises:
        ValueError: a mask that is not [B, L], with padding on the left or between tokens, or for no token at all.
    """
    if attention_mask is None:
        return [width] * batch
    if attention_mask.shape != (batch, width):
        problem = f"{list(attention_mask.shape)} for sentences [{batch}, {width}]"
        raise ValueError(f"attention_mask: {problem}; it says of each token whether it is real, and [B, L] alone does")
    real = attention_mask.bool()
    lengths = real.sum(dim=1)
    if not torch.equal(real, real_mask(lengths, width)):
        if torch.equal(real, real_mask(lengths, width).flip(1)):
            raise ValueError("attention_mask: padding is on the left; use a tokenizer with padding_side='right'")
        raise ValueError("attention_mask: has holes; each row must be its real tokens, then its padding")
    if not bool((lengths > 0).all()):
        raise ValueError("attention_mask: a sentence without any token; each needs one at least, such as [CLS]")
    return lengths.tolist()


def rounds_up(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a model of ``dtype`` is faster with few numbers of rows: oneDNN compiles for each, except in float32."""
    return device.type == "cpu" and (dtype != torch.float32 or torch.is_autocast_enabled("cpu"))


def round_rows(tokens: int) -> int:
    """Round up by 1/32 at most: 32 sizes between a power of two and the next, multiples of 16 at least."""
    step = max(16, 2 ** (tokens.bit_length() - 6))
    return -(-tokens // step) * step


@dataclass(frozen=True)
class Bucket:
    """Sentences (``rows`` of the batch) of similar length, padded to the longest: ``shape`` is b sentences, n tokens.

    ``indices`` say where their tokens lie in the packed row: a slice, or [b * n] where some are padded or apart
    (padding points at any real token). ``real`` [b, n] is false at padding, ``None`` where there is none.
    """

    rows: list[int]
    shape: tuple[int, int]
    indices: slice | Tensor
    real: Tensor | None

    def pad(self, x: Tensor) -> Tensor:
        """[T, ...] -> [b, n, ...]"""
        rows = x[self.indices] if isinstance(self.indices, slice) else x.index_select(0, self.indices)
        return rows.unflatten(0, self.shape)


@dataclass(frozen=True)
class Packing:
    """The packed row of a batch: T tokens, sentence after sentence. Made by ``pack``.

    ``seqlens`` are the B numbers of real tokens, known on the host: they decide all shapes. T is the sum of them; or
    more, where the first token is repeated at the end. On the device: ``cu_seqlens`` [B + 1], where each sentence
    begins and the last one ends; ``indices`` [T], each token's place among the B * L of the padded batch.

    Also stores how to select its tokens, the best ``seqlens`` of each sentence, from the previous packing: ``best``
    are their places in [B, L] ranks of tokens, ``starts`` where their sentence began, both without repetitions.
    """

    seqlens: list[int]
    cu_seqlens: Tensor
    indices: Tensor
    best: Tensor
    starts: Tensor

    @property
    def rows(self) -> int:
        return len(self.indices)

    @cached_property
    def num_tokens(self) -> int:
        return sum(self.seqlens)

    @cached_property
    def max_seqlen(self) -> int:
        return max(self.seqlens)

    @cached_property
    def real(self) -> Tensor:
        """[B, L] true where the padded batch has a real token."""
        return real_mask(self.cu_seqlens.diff(), self.max_seqlen)

    @cached_property
    def positions(self) -> Tensor:
        """[T] the position of each token in its sentence."""
        return self.indices % self.max_seqlen

    @cached_property
    def cu_seqlens_int32(self) -> Tensor:
        """``cu_seqlens`` as variable-length attention takes them."""
        return self.cu_seqlens.int()

    def unpad(self, x: Tensor) -> Tensor:
        """[B, L or more, ...] -> [T, ...]"""
        return x[:, : self.max_seqlen].flatten(0, 1).index_select(0, self.indices)

    def first(self, x: Tensor) -> Tensor:
        """[T, ...] -> [B, ...], of the first token of each sentence"""
        return x.index_select(0, self.cu_seqlens[:-1])

    def pad(self, x: Tensor, filling: float = 0) -> Tensor:
        """[T, ...] -> [B, L, ...] with ``filling`` behind the tokens"""
        padded = x.new_full((len(self.seqlens) * self.max_seqlen, *x.shape[1:]), filling)
        padded = padded.index_copy(0, self.indices[: self.num_tokens], x[: self.num_tokens])
        return padded.unflatten(0, (len(self.seqlens), self.max_seqlen))

    @cached_property
    def buckets(self) -> list[Bucket]:
        """All sentences in buckets of similar length; on a GPU in as few as fit, where calls cost more than padding."""
        buckets, apart, device = [], [], self.cu_seqlens.device
        starts = np.cumsum([0, *self.seqlens])
        for length, group in groupby(range(len(self.seqlens)), key=self.seqlens.__getitem__):
            rows = list(group)
            tokens, start = len(rows) * length, int(starts[rows[0]])
            if device.type == "cuda" or tokens < SLICE_TOKENS or tokens * length > PAIR_LIMIT:
                apart += rows
            else:
                buckets.append(Bucket(rows, (len(rows), length), slice(start, start + tokens), None))
        for rows in self._similar(apart):
            lengths, width = np.array(self.seqlens)[rows], self.seqlens[rows[0]]
            indices = starts[rows][:, None] + np.minimum(np.arange(width), lengths[:, None] - 1)
            real = None if lengths[-1] == width else to_device(np.arange(width) < lengths[:, None], device)
            buckets.append(Bucket(rows, (len(rows), width), to_device(indices.ravel(), device), real))
        return buckets

    def _similar(self, rows: Sequence[int]) -> Iterator[list[int]]:
        """Group rows by similar lengths, the longest first."""
        waste_limit = PAIR_LIMIT if self.cu_seqlens.is_cuda else WASTE_LIMIT
        group: list[int] = []
        waste = 0
        for row in sorted(rows, key=lambda row: -self.seqlens[row]):
            longest = self.seqlens[group[0]] if group else self.seqlens[row]
            waste += longest**2 - self.seqlens[row] ** 2
            if waste > waste_limit or (group and (len(group) + 1) * longest**2 > PAIR_LIMIT):
                yield group
                group, waste = [], 0
            group.append(row)
        if group:
            yield group

    def unpad_buckets(self, parts: Sequence[Tensor]) -> Tensor:
        """Join what was computed of each of ``buckets``: [b, n, ...] each -> [T, ...]"""
        parts = [part.flatten(0, 1) for part in parts]
        if self._indices_in_buckets is not None:
            return torch.cat(parts).index_select(0, self._indices_in_buckets)
        repeated = parts[0][:1].expand(self.rows - self.num_tokens, *parts[0].shape[1:])
        return torch.cat([*parts, repeated])

    @cached_property
    def _indices_in_buckets(self) -> Tensor | None:
        """[T] where each token lies in the padded buckets one after the other; ``None`` if they are in order."""
        starts, place = np.zeros(len(self.seqlens), dtype=np.int64), 0
        for bucket in self.buckets:
            starts[bucket.rows] = place + bucket.shape[1] * np.arange(bucket.shape[0])
            place += bucket.shape[0] * bucket.shape[1]
        if place == self.num_tokens and (np.diff(starts) > 0).all():
            return None
        indices = np.full(self.rows, starts[0])
        indices[: self.num_tokens] = np.repeat(starts, self.seqlens) + _positions(np.array(self.seqlens))
        return to_device(indices, self.cu_seqlens.device)


def pack(seqlens_by_layer: Sequence[Sequence[int]], device: torch.device, round_up: bool = False) -> list[Packing]:
    """Make a packing for each of a batch's layers: the tokens that enter it, ever fewer; in one transfer.

    Args:
        seqlens_by_layer: B numbers of tokens for each layer.
        round_up: let the number of rows be one of a few (``round_rows``). Nothing reads the rows that are repeated.
    """
    distinct = [(list(seqlens), len(list(layers))) for seqlens, layers in groupby(seqlens_by_layer)]
    arrays: list[np.ndarray] = []
    starts, width = np.cumsum(distinct[0][0]) - distinct[0][0], max(distinct[0][0])
    for layer, _ in distinct:
        seqlens, positions = np.array(layer), _positions(np.array(layer))
        cu_seqlens, sentences = np.concatenate([[0], seqlens.cumsum()]), np.repeat(np.arange(len(layer)), seqlens)
        indices = np.zeros(round_rows(len(positions)) if round_up else len(positions), dtype=np.int64)
        indices[: len(positions)] = sentences * max(layer) + positions
        arrays += [cu_seqlens, indices, sentences * width + positions, starts[sentences]]
        starts, width = cu_seqlens[:-1], max(layer)
    tensors = iter(to_device(np.concatenate(arrays), device).split([len(array) for array in arrays]))
    return [packing for layer, times in distinct for packing in [Packing(layer, *islice(tensors, 4))] * times]


def _positions(seqlens: np.ndarray) -> np.ndarray:
    """Count from 0 in each sentence: B lengths -> [T]"""
    ends = seqlens.cumsum()
    return np.arange(ends[-1]) - np.repeat(ends - seqlens, seqlens)
