"""Backbones: plain models that are built, loaded, saved and fed. They know nothing of compression."""

import copy
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from pruner.data.cache import Split
from pruner.data.collate import BertCollator, Collate, LstmCollator
from pruner.data.task import Task
from pruner.data.tokenizer import BertTokenizer
from pruner.data.vocabulary import Vocabulary, vocabulary_path
from pruner.models.encoders import plain_class
from pruner.models.flops import BertShape, LstmShape, Shape
from pruner.models.lstm import LstmConfig, LstmForSequenceClassification
from pruner.models.packed_bert import packed
from pruner.models.pretrained import load_model


class Backbone(Protocol):
    """One kind of plain model."""

    name: ClassVar[str]  # in records and caches
    decay: ClassVar[str]  # of the learning rates: ``linear`` or ``constant``
    latency_batches: ClassVar[int | None]  # timed at most; None: all of dev

    @property
    def model_class(self) -> type[PreTrainedModel]:
        """The class of the dense model."""

    def settings(self, task: Task) -> dict:
        """Return what decides the weights that training begins with, for records and hashes."""

    def model_config(self, task: Task) -> Any:
        """Return the config of the dense model."""

    def build(self, task: Task, say: Callable[[str], None]) -> nn.Module:
        """Build the model before training; the caller has seeded the random generators.

        ``say`` is told what a user should know of it. A model with a ``trained_head`` knows the task's classes already.
        """

    def collate(self, task: Task, with_lengths: bool = False) -> Collate:
        """Return the model's collator; ``with_lengths`` adds lengths on the host for models that take them."""

    def packed(self, model: nn.Module) -> nn.Module | None:
        """Return a model of the same modules for training, which computes no padding; ``None``: it trains as it is."""
        return None

    def shape(self, task: Task, model: nn.Module | None = None) -> Shape:
        """Return the sizes of the dense model, or those that the layers of ``model`` really have."""

    def lengths(self, task: Task, splits: Sequence[Split]) -> list[int]:
        """Return the number of real tokens of each sequence that the model reads of ``splits``."""

    def words(self, task: Task, split: Split, row: int) -> list[list[str]]:
        """Return the tokens of a row as text, a list for each sequence that the model reads."""

    def save_vocabulary(self, task: Task, folder: Path) -> None:
        """Write what turns texts into the model's ids."""

    def empty(self, task: Task) -> nn.Module:
        """Build the model without numbers, on PyTorch's meta device, to know its size."""
        with torch.device("meta"):
            return self.model_class(self.model_config(task))

    def load(self, folder: Path) -> nn.Module:
        """Load a plain model from a folder that ``save`` has written."""
        return self.model_class.from_pretrained(folder)

    def save(self, model: Any, task: Task, folder: Path) -> None:
        """Save the model with all that is needed to use it; ``from_pretrained`` loads the folder."""
        model.save_pretrained(folder)
        self.save_vocabulary(task, folder)


@dataclass(frozen=True)
class BertBackbone(Backbone):
    """A pre-trained BERT: ``bert`` is a folder or a model of the hub, ``weights`` the fingerprint of its weights."""

    bert: str
    weights: str | None
    config: BertConfig
    tokenizer: BertTokenizer

    name = "bert"
    decay = "linear"
    latency_batches = 12

    @property
    def model_class(self) -> type[BertForSequenceClassification]:
        return plain_class(self.config)

    def settings(self, task: Task) -> dict:
        return {"bert": self.bert, "weights": self.weights}

    def model_config(self, task: Task) -> BertConfig:
        config = copy.deepcopy(self.config)
        config.num_labels = task.num_labels
        return config

    def build(self, task: Task, say: Callable[[str], None]) -> BertForSequenceClassification:
        return load_model(self.model_class, self.bert, task, say)

    def shape(self, task: Task, model: Any = None) -> BertShape:
        return BertShape.of(self.model_config(task)) if model is None else BertShape.of_model(model)

    def collate(self, task: Task, with_lengths: bool = False) -> Collate:
        return BertCollator(with_lengths)

    def packed(self, model: Any) -> nn.Module | None:
        return packed(model) if type(model) is self.model_class else None

    def lengths(self, task: Task, splits: Sequence[Split]) -> list[int]:
        return [int(length) for split in splits for length in split.lengths]

    def words(self, task: Task, split: Split, row: int) -> list[list[str]]:
        return [[self.tokenizer.piece(int(token)) for token in split.sentence(row)]]

    def save_vocabulary(self, task: Task, folder: Path) -> None:
        self.tokenizer.stock.save_pretrained(folder)


@dataclass(frozen=True)
class LstmBackbone(Backbone):
    """An LSTM trained from scratch."""

    cache: Path  # the folder in which the vocabularies lie
    vocabularies: Mapping[str, Vocabulary]
    sizes: Mapping[str, Any]  # named as in ``LstmConfig``
    vectors: Mapping[str, Mapping[int, np.ndarray]] = field(default_factory=dict)  # pretrained, by task and word id
    vectors_name: str | None = None  # the file that they are from

    name = "lstm"
    decay = "constant"
    latency_batches = None
    model_class = LstmForSequenceClassification

    def settings(self, task: Task) -> dict:
        fingerprint = self.vocabularies[task.name].fingerprint
        return {**self.sizes, "vocabulary": fingerprint, "vectors": self.vectors_name}

    def model_config(self, task: Task) -> LstmConfig:
        id2label = dict(enumerate(task.labels))
        labels: dict[str, Any] = {"id2label": id2label, "label2id": {label: index for index, label in id2label.items()}}
        return LstmConfig(vocab_size=self.vocabularies[task.name].size, **self.sizes, **labels)

    def build(self, task: Task, say: Callable[[str], None]) -> LstmForSequenceClassification:
        model = LstmForSequenceClassification(self.model_config(task))
        with torch.no_grad():
            for number, vector in self.vectors.get(task.name, {}).items():
                model.embedding.weight[number] = torch.from_numpy(vector)
        return model

    def collate(self, task: Task, with_lengths: bool = False) -> Collate:
        return LstmCollator(pairs=len(task.text) == 2)

    def shape(self, task: Task, model: Any = None) -> LstmShape:
        return LstmShape.of(self.model_config(task) if model is None else model.config, sentences=len(task.text))

    def lengths(self, task: Task, splits: Sequence[Split]) -> list[int]:
        """The two sentences of a pair are read one by one."""
        parts = [(split.second, split.lengths - split.second)[: len(task.text)] for split in splits]
        return [int(length) for lengths in parts for part in lengths for length in part]

    def words(self, task: Task, split: Split, row: int) -> list[list[str]]:
        vocabulary = self.vocabularies[task.name]
        parts = np.split(split.sentence(row), [split.second[row]])[: len(task.text)]
        return [[vocabulary.word(int(number)) for number in ids] for ids in parts]

    def save_vocabulary(self, task: Task, folder: Path) -> None:
        shutil.copyfile(vocabulary_path(self.cache, task.name), folder / "vocab.txt")
