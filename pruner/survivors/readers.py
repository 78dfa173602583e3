"""Models that runs have kept, and sentences as they read them: the words that each layer computes, and the answer."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.tokens.lstm import PrunedLstmForSequenceClassification
from pruner.data.cache import Split
from pruner.data.collate import BertCollator, Collate, LstmCollator
from pruner.data.glue import read_lines
from pruner.data.tokenizer import load_tokenizer
from pruner.data.vocabulary import UNKNOWN, Vocabulary, lower_and_strip
from pruner.utils.errors import UserError
from pruner.utils.files import read_json

BETWEEN = "/"  # stands between the two sentences of an LSTM's pair


@dataclass(frozen=True)
class Sentence:
    """``tokens`` [L] are its ids, ``second`` says where the second of a pair begins. ``words`` are their texts, each
    with the positions of its pieces, none for what is no word.
    """

    tokens: np.ndarray
    second: int
    words: Sequence[tuple[str, Sequence[int]]]


@dataclass(frozen=True)
class Survivors:
    """What becomes of a sentence's words: ``kept[layer][word]`` is the share of the word's pieces that the layer
    computes. ``before`` and ``after`` are the predictions of the same weights unpruned and pruned; ``label`` is the
    true one, where it is known.
    """

    words: Sequence[str]
    layers: Sequence[str]
    kept: Sequence[Sequence[float]]
    before: str
    after: str
    label: str | None = None


class Reader(ABC):
    """A model that a run has kept, on the CPU, with the same weights unpruned and what makes ids of texts."""

    kind: ClassVar[str]  # of caches
    prepare: ClassVar[str]  # the script that makes them
    layers: Sequence[str]
    fingerprint: str  # of what makes ids, as caches have it
    collates: tuple[Collate, Collate]  # of the unpruned twin and of the model

    def __init__(self, model: Any) -> None:
        self.model: Any = model.float().eval()
        self.twin: nn.Module = self.model.unpruned_twin()

    @abstractmethod
    def read(self, text: str, second: str | None = None) -> Sentence:
        """A sentence, or a pair, as the user has it."""

    @abstractmethod
    def prepared(self, split: Split, row: int) -> Sentence:
        """A prepared sentence."""

    @abstractmethod
    def positions(self, output: Any, sentence: Sentence) -> list[set[int]]:
        """Which of the sentence's tokens each layer has computed."""

    def survivors(self, sentence: Sentence, label: float | None = None) -> Survivors:
        """What becomes of its words; ``label`` is its true class, or its score."""
        row = {"tokens": sentence.tokens, "second": sentence.second}
        with torch.no_grad():
            before = self.twin(**self.collates[0]([row]))
            after = self.model(**self.collates[1]([row]), output_tokens=True)
        kept = [
            [sum(at in there for at in pieces) / len(pieces) if pieces else 1.0 for _, pieces in sentence.words]
            for there in self.positions(after, sentence)
        ]
        words = [word for word, _ in sentence.words]
        said = None if label is None else self.name(label)
        return Survivors(words, self.layers, kept, self.answer(before.logits[0]), self.answer(after.logits[0]), said)

    def name(self, label: float) -> str:
        if self.model.config.num_labels == 1:
            return f"{label:.2f}"
        return str(self.model.config.id2label[int(label)])

    def answer(self, logits: Tensor) -> str:
        """The likeliest class and its probability, or the score. [labels] -> text"""
        if len(logits) == 1:
            return self.name(logits.item())
        shares = logits.softmax(dim=0)
        return f"{self.name(int(shares.argmax()))} ({shares.max().item():.1%})"


class BertReader(Reader):
    kind, prepare = "bert", "PrepareGlue4Bert.py"
    collates = BertCollator(with_lengths=False), BertCollator(with_lengths=True)

    def __init__(self, folder: Path, max_length: int | None) -> None:
        super().__init__(PrunedBertForSequenceClassification.from_pretrained(folder, attn_implementation="sdpa"))
        positions = self.model.config.max_position_embeddings
        self.tokenizer = load_tokenizer(folder, min(max_length or positions, positions))
        self.fingerprint = self.tokenizer.fingerprint
        self.layers = [f"layer {number}" for number in range(1, self.model.config.num_hidden_layers + 1)]

    def read(self, text: str, second: str | None = None) -> Sentence:
        texts = [text] if second is None else [text, second]
        encoding = self.tokenizer.tokenizer.encode(text, second)
        places: dict[tuple, list[int]] = {}
        for at, (part, word) in enumerate(zip(encoding.sequence_ids, encoding.word_ids, strict=True)):
            places.setdefault((at,) if word is None else (part, word), []).append(at)
        words = []
        for key, pieces in places.items():
            if len(key) == 1:  # [CLS] and [SEP]
                words.append((encoding.tokens[pieces[0]], pieces))
            else:
                start, end = encoding.offsets[pieces[0]][0], encoding.offsets[pieces[-1]][1]
                words.append((texts[key[0]][start:end], pieces))
        return Sentence(np.array(encoding.ids), len(encoding) - sum(encoding.type_ids), words)

    def prepared(self, split: Split, row: int) -> Sentence:
        tokens = split.sentence(row)
        words: list[tuple[str, list[int]]] = []
        for at, token in enumerate(tokens):
            piece = self.tokenizer.piece(int(token))
            if piece.startswith("##") and len(piece) > 2 and words:
                text, pieces = words[-1]
                words[-1] = (text + piece[2:], [*pieces, at])
            else:
                words.append((piece, [at]))
        return Sentence(tokens, int(split.second[row]), words)

    def positions(self, output: Any, sentence: Sentence) -> list[set[int]]:
        return [set(layer.tolist()) for layer in output.token_positions]


class LstmReader(Reader):
    kind, prepare = "lstm", "PrepareGlue4Lstm.py"
    layers = ("LSTM",)

    def __init__(self, folder: Path, max_length: int | None) -> None:
        super().__init__(PrunedLstmForSequenceClassification.from_pretrained(folder))
        self.vocabulary, self.max_length = Vocabulary(tuple(read_lines(folder / "vocab.txt"))), max_length
        self.numbers, self.fingerprint = self.vocabulary.numbers(), self.vocabulary.fingerprint
        self.collates = (LstmCollator(pairs=True),) * 2  # of what is no pair, the second sentence is empty

    def read(self, text: str, second: str | None = None) -> Sentence:
        parts = []
        for each in (text, second or ""):
            found = [(word, lower_and_strip(word)) for word in re.findall(r"\S+", each, flags=re.ASCII)]
            ids = [(word, self.numbers.get(stripped, UNKNOWN)) for word, stripped in found if stripped]
            parts.append(ids[: self.max_length])
        return _pair(*parts)

    def prepared(self, split: Split, row: int) -> Sentence:
        words = [(self.vocabulary.word(int(number)), int(number)) for number in split.sentence(row)]
        return _pair(words[: split.second[row]], words[split.second[row] :])

    def positions(self, output: Any, sentence: Sentence) -> list[set[int]]:
        first, second = output.token_positions[0].split(output.token_counts[0])
        return [set(first.tolist()) | {sentence.second + at for at in second.tolist()}]


def _pair(first: list[tuple[str, int]], second: list[tuple[str, int]]) -> Sentence:
    """Two sentences of words and their ids, the second of which may be empty."""
    words: list[tuple[str, Sequence[int]]] = [(word, [at]) for at, (word, _) in enumerate(first + second)]
    if second:
        words.insert(len(first), (BETWEEN, ()))
    return Sentence(np.array([number for _, number in first + second], dtype=np.int64), len(first), words)


def load_reader(folder: Path, max_length: int | None) -> Reader:
    """The reader of a kept model; texts are cut to ``max_length`` tokens.

    Raises:
        UserError: there is no such model.
    """
    kinds: dict[str, type[BertReader] | type[LstmReader]]
    kinds = {"bert": BertReader, "lstm": LstmReader, "pruned_lstm": LstmReader}
    kind = read_json(folder / "config.json").get("model_type")
    if kind not in kinds:
        raise UserError(f"{folder}: not a model that a run has kept; name one of its folders, or a record's")
    try:
        return kinds[kind](folder, max_length)
    except UserError:
        raise
    except Exception as error:  # safetensors, pickle, JSON and torch each raise their own
        raise UserError(f"{folder}: the model cannot be loaded ({error}); run it again with --force") from None
