"""Backbones: plain models that are built, loaded, saved and fed. They know nothing of compression."""

import copy
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from pruner.data.cache import Split
from pruner.data.collate import BertCollator, Collate, LstmCollator
from pruner.data.task import Task
from pruner.data.tokenizer import TOKENIZER_FILES, BertTokenizer
from pruner.data.vocabulary import Vocabulary, vocabulary_path
from pruner.models.flops import BertShape, LstmShape, Shape
from pruner.models.lstm import LstmConfig, LstmForSequenceClassification
from pruner.models.pretrained import load_model


class Backbone(ABC):
    """One kind of plain model."""

    name: ClassVar[str]  # in records and caches
    decay: ClassVar[str]  # of the learning rates: ``linear`` or ``constant``
    latency_batches: ClassVar[int | None]  # timed at most; None: all of dev

    @abstractmethod
    def settings(self, task: Task) -> dict:
        """Return what decides the weights that training begins with, for records and hashes."""

    @abstractmethod
    def build(self, task: Task) -> nn.Module:
        """Build the model before training; the caller has seeded the random generators."""

    @abstractmethod
    def collate(self, task: Task, with_lengths: bool = False) -> Collate:
        """Return the model's collator; ``with_lengths`` adds lengths on the host for models that take them."""

    @abstractmethod
    def shape(self, task: Task, model: nn.Module | None = None) -> Shape:
        """Return the sizes of the dense model, or those that the layers of ``model`` really have."""

    @abstractmethod
    def empty(self, task: Task) -> nn.Module:
        """Build the model without numbers, on PyTorch's meta device, to know its size."""

    @abstractmethod
    def lengths(self, task: Task, splits: Sequence[Split]) -> list[int]:
        """Return the number of real tokens of each sequence that the model reads of ``splits``."""

    @abstractmethod
    def words(self, task: Task, split: Split, row: int) -> list[list[str]]:
        """Return the tokens of a row as text, a list for each sequence that the model reads."""

    @abstractmethod
    def load(self, folder: Path) -> nn.Module:
        """Load a plain model from a folder that ``save`` has written."""

    @abstractmethod
    def save(self, model: nn.Module, task: Task, folder: Path) -> None:
        """Save the model with all that is needed to use it; ``from_pretrained`` loads the folder."""


@dataclass(frozen=True)
class BertBackbone(Backbone):
    """A pre-trained BERT: ``bert`` is a folder or a model of the hub, ``weights`` the fingerprint of its weights."""

    bert: str
    weights: str | None
    config: BertConfig
    tokenizer: BertTokenizer
    tokenizer_folder: Path

    name = "bert"
    decay = "linear"
    latency_batches = 12

    def settings(self, task: Task) -> dict:
        return {"bert": self.bert, "weights": self.weights}

    def build(self, task: Task) -> BertForSequenceClassification:
        return load_model(BertForSequenceClassification, self.bert, task)

    def shape(self, task: Task, model: Any = None) -> BertShape:
        return (
            replace(BertShape.of(self.config), labels=task.num_labels) if model is None else BertShape.of_model(model)
        )

    def empty(self, task: Task) -> nn.Module:
        config = copy.deepcopy(self.config)
        config.num_labels = task.num_labels
        with torch.device("meta"):
            return BertForSequenceClassification(config)

    def collate(self, task: Task, with_lengths: bool = False) -> Collate:
        return BertCollator(with_lengths)

    def lengths(self, task: Task, splits: Sequence[Split]) -> list[int]:
        return [int(length) for split in splits for length in split.lengths]

    def words(self, task: Task, split: Split, row: int) -> list[list[str]]:
        return [[self.tokenizer.piece(int(token)) for token in split.sentence(row)]]

    def load(self, folder: Path) -> BertForSequenceClassification:
        return BertForSequenceClassification.from_pretrained(folder, attn_implementation="sdpa")

    def save(self, model: nn.Module, task: Task, folder: Path) -> None:
        model.save_pretrained(folder)  # type: ignore[operator]  # of a PreTrainedModel
        for name in TOKENIZER_FILES:
            if name != "config.json" and (self.tokenizer_folder / name).is_file():
                shutil.copyfile(self.tokenizer_folder / name, folder / name)


@dataclass(frozen=True)
class LstmBackbone(Backbone):
    """An LSTM trained from scratch.

    ``sizes`` are named as in ``LstmConfig``. ``vectors`` are pretrained word vectors by task and word id, from the file
    ``vectors_name``. ``cache`` is the folder in which the vocabularies lie.
    """

    cache: Path
    vocabularies: Mapping[str, Vocabulary]
    sizes: Mapping[str, int]
    vectors: Mapping[str, Mapping[int, np.ndarray]] = field(default_factory=dict)
    vectors_name: str | None = None

    name = "lstm"
    decay = "constant"
    latency_batches = None

    def settings(self, task: Task) -> dict:
        fingerprint = self.vocabularies[task.name].fingerprint
        return {**self.sizes, "vocabulary": fingerprint, "vectors": self.vectors_name}

    def config(self, task: Task) -> LstmConfig:
        return LstmConfig(
            vocab_size=self.vocabularies[task.name].size,
            num_labels=task.num_labels,
            id2label=dict(enumerate(task.labels)),
            label2id={label: index for index, label in enumerate(task.labels)},
            **self.sizes,
        )

    def build(self, task: Task) -> LstmForSequenceClassification:
        model = LstmForSequenceClassification(self.config(task))
        with torch.no_grad():
            for number, vector in self.vectors.get(task.name, {}).items():
                model.embedding.weight[number] = torch.from_numpy(vector)
        return model

    def collate(self, task: Task, with_lengths: bool = False) -> Collate:
        return LstmCollator(pairs=len(task.text) == 2)

    def shape(self, task: Task, model: Any = None) -> LstmShape:
        return LstmShape.of(self.config(task) if model is None else model.config, sentences=len(task.text))

    def empty(self, task: Task) -> nn.Module:
        with torch.device("meta"):
            return LstmForSequenceClassification(self.config(task))

    def lengths(self, task: Task, splits: Sequence[Split]) -> list[int]:
        """The two sentences of a pair are read one by one."""
        parts = [(split.second, split.lengths - split.second)[: len(task.text)] for split in splits]
        return [int(length) for lengths in parts for part in lengths for length in part]

    def words(self, task: Task, split: Split, row: int) -> list[list[str]]:
        vocabulary = self.vocabularies[task.name]
        parts = np.split(split.sentence(row), [split.second[row]])[: len(task.text)]
        return [[vocabulary.word(int(number)) for number in ids] for ids in parts]

    def load(self, folder: Path) -> LstmForSequenceClassification:
        return LstmForSequenceClassification.from_pretrained(folder)

    def save(self, model: nn.Module, task: Task, folder: Path) -> None:
        model.save_pretrained(folder)  # type: ignore[operator]  # of a PreTrainedModel
        shutil.copyfile(vocabulary_path(self.cache, task.name), folder / "vocab.txt")
