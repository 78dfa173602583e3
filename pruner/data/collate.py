"""From a prepared split to batches: padded to their longest sentence, lengths kept on the host."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from pruner.data.cache import Split

Collate = Callable[[Sequence[dict]], dict]

UNLIKE, FEWEST_ROWS = 0.05, 64  # of ``rows_of_lengths``: how much lengths may differ, and how few rows are enough


class TrainingData(Dataset):
    """Sentences as ``Trainer`` wants them."""

    tokens: np.ndarray  # all of them, to know which words occur

    def __len__(self) -> int:
        raise NotImplementedError

    def batches(self, batch_size: int, seed: int) -> Any:
        """Return the batch sampler, with a length, by which rows are put together; ``None``: at random."""
        return None


@dataclass(eq=False)
class SplitDataset(TrainingData):
    """The sentences of a split."""

    split: Split
    teacher_logits: np.ndarray | None = None  # [rows, labels] of another model, for distillation

    @property
    def tokens(self) -> np.ndarray:  # type: ignore[override]
        return self.split.tokens

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, row: int) -> dict:
        split = self.split
        number = row if split.numbers is None else int(split.numbers[row])
        sentence = {"row": number, "tokens": split.sentence(row), "second": int(split.second[row])}
        targets = {"labels": split.labels, "teacher_logits": self.teacher_logits}
        return sentence | {name: array[row] for name, array in targets.items() if array is not None}


@dataclass
class BertCollator:
    """Collates sentences -> ``input_ids``, ``attention_mask``, ``token_type_ids`` [B, L] and ``labels`` [B].

    ``lengths`` on the host are added for models that take them, to know shapes without asking the device.
    """

    with_lengths: bool

    def __call__(self, sentences: Sequence[dict]) -> dict:
        ids, lengths = pad([sentence["tokens"] for sentence in sentences])  # [PAD] is masked, so any id would do
        positions = torch.arange(ids.shape[1])
        real = positions < torch.tensor(lengths)[:, None]
        second = positions >= torch.tensor([sentence["second"] for sentence in sentences])[:, None]
        batch: dict = {"input_ids": ids, "attention_mask": real.long(), "token_type_ids": (real & second).long()}
        return batch | stack_labels(sentences) | ({"lengths": lengths} if self.with_lengths else {})


@dataclass
class LstmCollator:
    """Collates sentences -> ``input_ids`` [B, L], ``lengths``, of pairs ``second_ids`` [B, M] too, ``labels`` [B]."""

    pairs: bool

    def __call__(self, sentences: Sequence[dict]) -> dict:
        batch = stack_labels(sentences)
        batch["input_ids"], batch["lengths"] = pad([sentence["tokens"][: sentence["second"]] for sentence in sentences])
        if self.pairs:
            seconds = [sentence["tokens"][sentence["second"] :] for sentence in sentences]
            batch["second_ids"], batch["second_lengths"] = pad(seconds)
        return batch


def pad(sentences: Sequence[np.ndarray]) -> tuple[Tensor, list[int]]:
    """Pad the ids of B sentences with 0 -> [B, L], and their lengths."""
    padded = pad_sequence([torch.from_numpy(ids) for ids in sentences], batch_first=True)
    return padded.long(), [len(ids) for ids in sentences]


def stack_labels(sentences: Sequence[dict]) -> dict:
    """Stack ``labels`` [B] and ``teacher_logits`` [B, labels] where the sentences have any."""
    names = sentences[0].keys() & {"labels", "teacher_logits"}
    return {name: torch.from_numpy(np.array([sentence[name] for sentence in sentences])) for name in names}


def sorted_rows(split: Split, batch_size: int) -> list[np.ndarray]:
    """Sort rows into batches of similar length, the longest first: little padding, and memory peaks at once."""
    order = np.argsort(-split.lengths, kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def sorted_batches(
    split: Split, batch_size: int, collate: Collate, device: torch.device
) -> Iterator[tuple[np.ndarray, dict]]:
    """Make batches of similar length on ``device``, each with its row numbers, without labels."""
    return ((rows, make_batch(split, rows, collate, device)) for rows in sorted_rows(split, batch_size))


def make_batch(split: Split, rows: Sequence[int] | np.ndarray, collate: Collate, device: torch.device) -> dict:
    """Collate some rows of a split on ``device``, without their labels."""
    dataset = SplitDataset(split)
    batch = collate([dataset[int(row)] for row in rows])
    return {name: x.to(device) if isinstance(x, Tensor) else x for name, x in batch.items() if name != "labels"}


def training_rows(split: Split, at_most: int | None) -> Split:
    """Return the training rows, or a random subset of them, the same for every seed and method."""
    if at_most is None or at_most >= len(split):
        return split
    return some_rows(split, np.sort(np.random.default_rng(0).choice(len(split), at_most, replace=False)))


def rows_of_lengths(split: Split, lengths: Sequence[int], at_most: int) -> Split:
    """Return rows, each at most once, that are about as long as sentences of these ``lengths``.

    What dropping tokens costs depends on how many there are, and training rows may be much shorter than those of dev.
    Where there are not enough of a length, it is fewer rows: a half, a quarter and so on of ``at_most``.
    """
    rows = min(at_most, len(split))
    while True:
        wanted = np.quantile(lengths, (np.arange(rows) + 0.5) / rows)
        taken = _nearest_rows(split.lengths, wanted)
        if rows <= FEWEST_ROWS or np.abs(split.lengths[taken] - wanted).mean() <= UNLIKE * wanted.mean():
            return some_rows(split, np.sort(taken))
        rows //= 2


def _nearest_rows(lengths: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the number of a row for each length that is wanted, in ascending order; the longest choose first."""
    order = np.random.default_rng(0).permutation(len(lengths))
    left, taken = order[np.argsort(lengths[order], kind="stable")], list[int]()
    for length in wanted[::-1]:
        after = int(np.searchsorted(lengths[left], length))
        near = [place for place in (after - 1, after) if 0 <= place < len(left)]
        nearest = min(near, key=lambda place: abs(lengths[left[place]] - length))
        taken.append(int(left[nearest]))
        left = np.delete(left, nearest)
    return np.array(taken[::-1])


def hold_out(split: Split, share: float) -> tuple[Split, Split]:
    """Part a share of the rows from the others, at random, the same for every seed and method: others, these."""
    order = np.random.default_rng(1).permutation(len(split))
    held = min(len(split) - 1, max(1, round(share * len(split))))
    return some_rows(split, np.sort(order[held:])), some_rows(split, np.sort(order[:held]))


def random_rows(lengths: Sequence[int] | np.ndarray, vocabulary: int, generator: np.random.Generator) -> Split:
    """Make sentences of random words that have these lengths, without labels."""
    lengths = np.asarray(lengths, dtype=np.int64)
    tokens = generator.integers(5, vocabulary, lengths.sum()).astype(np.int32)
    return Split(tokens, np.concatenate([[0], lengths.cumsum()]), lengths.astype(np.int32), None)


def some_rows(split: Split, rows: np.ndarray) -> Split:
    """Return these rows as a split, which knows their numbers in the whole one."""
    tokens = np.concatenate([split.tokens[:0], *(split.sentence(row) for row in rows)])
    offsets = np.concatenate([[0], split.lengths[rows].cumsum()])
    labels = None if split.labels is None else split.labels[rows]
    return Split(tokens, offsets, split.second[rows], labels, rows if split.numbers is None else split.numbers[rows])
