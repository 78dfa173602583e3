"""The cells of RunLstm4Glue.py and RunLstm4Agnews.py: an LSTM, trained from scratch with and without pruning."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import TrainerCallback

from pruner.compress.tokens.flops import pruned_flops
from pruner.compress.tokens.lstm import PrunedLstmForSequenceClassification
from pruner.compress.tokens.measures import count_tokens
from pruner.compress.tokens.schedule import Pruning
from pruner.compress.tokens.select import keep_counts
from pruner.data.cache import Cache, Split
from pruner.data.collate import Collate, LstmCollator, make_batch
from pruner.data.glue import Task
from pruner.data.vocabulary import Vocabulary, vocabulary_path
from pruner.experiments.grid import EXAMPLES, Cell, Grid, shorten
from pruner.models.flops import LstmShape, dense_flops, reduction
from pruner.models.lstm import LstmConfig
from pruner.training.trainer import TrainSettings


@dataclass(frozen=True)
class LstmGrid(Grid[PrunedLstmForSequenceClassification]):
    """``sizes`` are the model's, by their names in its config. ``vectors`` are pretrained ones by task and word id, of
    the file ``vectors_name``. ``rate_start`` is where the rate begins in training, ``None`` where it ends.
    """

    train_settings: dict[str, TrainSettings]
    vocabularies: dict[str, Vocabulary]
    cache_folder: Path
    sizes: dict[str, int]
    vectors: dict[str, dict[int, np.ndarray]]
    vectors_name: str | None
    rate_start: float | None

    decay = "constant"

    def training(self, task: Task) -> TrainSettings:
        return self.train_settings[task.name]

    def settings(self, cell: Cell, cache: Cache) -> dict:
        return (
            super().settings(cell, cache)
            | self.sizes
            | {
                "vocabulary": self.vocabularies[cell.task.name].fingerprint,
                "vectors": self.vectors_name,
                "pruning_rate_start": self.rate_start if cell.pruning else None,
            }
        )

    def make_model(self, cell: Cell, cache: Cache) -> PrunedLstmForSequenceClassification:
        vocabulary = self.vocabularies[cell.task.name]
        config = LstmConfig(
            vocab_size=vocabulary.size,
            pruning=cell.pruning.to_dict() if cell.pruning else None,
            num_labels=cell.task.num_labels,
            id2label=dict(enumerate(cell.task.labels)),
            label2id={name: index for index, name in enumerate(cell.task.labels)},
            **self.sizes,
        )
        model = PrunedLstmForSequenceClassification(config)
        if model.token_counts is not None:
            model.token_counts.copy_(torch.from_numpy(cache.counts))
        with torch.no_grad():
            for number, vector in self.vectors.get(cell.task.name, {}).items():
                model.embedding.weight[number] = torch.from_numpy(vector)
        return model

    def collate(self, cell: Cell) -> Collate:
        return LstmCollator(is_pair(cell.task))

    def callbacks(
        self, model: PrunedLstmForSequenceClassification, cell: Cell, cache: Cache
    ) -> Sequence[TrainerCallback]:
        if cell.pruning is None or self.rate_start is None:
            return ()
        return (RateRamp(model, self.rate_start),)

    def describe(self, model: PrunedLstmForSequenceClassification, cell: Cell, cache: Cache) -> dict:
        pruning = cell.pruning or Pruning.none(1)
        dev = [cache.splits[name] for name in cell.task.dev]
        lengths = [n for split in dev for n in sentence_lengths(split)]
        kept = keep_counts(lengths, pruning.schedule, pruning.count, pruning.padded_length)
        shape = LstmShape.of(model.config, sentences=2)
        return {
            "model": "lstm",
            "target_prune_rate": pruning.schedule[0],
            "count": pruning.count,
            "tokens": count_tokens(lengths, pruning),
            "flops": reduction(dense_flops(shape, lengths), pruned_flops(shape, lengths, kept, pruning)),
        }

    def examples(self, model: PrunedLstmForSequenceClassification, cell: Cell, cache: Cache) -> list[dict]:
        split, collate = cache.splits[cell.task.dev[0]], self.collate(cell)
        vocabulary, found = self.vocabularies[cell.task.name], []
        for row in range(min(EXAMPLES, len(split))):
            with torch.no_grad():
                output = model.eval()(**make_batch(split, [row], collate, model.device), output_tokens=True)
            sentences, kept = [], []
            parts = np.split(split.sentence(row), [split.second[row]])  # the second is empty where there is no pair
            read = output.token_positions[0].split(output.token_counts[0])
            for ids, positions in zip(parts, read, strict=False):
                words = [vocabulary.word(int(number)) for number in ids]
                sentences.append(" ".join(words))
                kept.append(shorten(words, set(positions.tolist())))
            found.append({"sentence": " / ".join(sentences), "kept": " / ".join(kept)})
        return found

    def load_kept(self, folder: Path) -> PrunedLstmForSequenceClassification:
        return PrunedLstmForSequenceClassification.from_pretrained(folder)

    def save_model(self, model: PrunedLstmForSequenceClassification, cell: Cell, folder: Path) -> None:
        """A folder that ``from_pretrained`` loads, with the vocabulary beside it, one word per line."""
        model.save_pretrained(folder)
        shutil.copyfile(vocabulary_path(self.cache_folder, cell.task.name), folder / "vocab.txt")


class RateRamp(TrainerCallback):
    """The published ramp: while training, the rate grows linearly from a start to its target at the last step."""

    def __init__(self, model: PrunedLstmForSequenceClassification, start: float) -> None:
        self.model, self.start = model, start

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        share = state.global_step / max(1, state.max_steps - 1)
        self.model.ramp_rate = self.start + (self.model.pruning.schedule[0] - self.start) * min(1.0, share)


def is_pair(task: Task) -> bool:
    return len(task.text) == 2


def sentence_lengths(split: Split) -> list[int]:
    """Words of each sentence, the two of a pair counted by themselves."""
    return [*split.second.tolist(), *(split.lengths - split.second).tolist()]
