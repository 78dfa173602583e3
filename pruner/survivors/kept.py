"""Models that runs have kept, and which words of a sentence each of their layers computes."""

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
from pruner.data.rows import read_lines
from pruner.data.tokenizer import load_tokenizer
from pruner.data.vocabulary import Vocabulary
from pruner.utils.errors import UserError
from pruner.utils.files import read_json

BETWEEN = "/"  # stands between the two sentences of an LSTM's pair

Word = tuple[str, Sequence[int]]  # its text, and the positions of its pieces: none for what is no word


@dataclass(frozen=True)
class Sentence:
    """A sentence or pair: the ids of its ``tokens`` [L], where the ``second`` of a pair begins, and its words."""

    tokens: np.ndarray
    second: int
    words: Sequence[Word]


@dataclass(frozen=True)
class Survivors:
    """What becomes of a sentence's words: ``kept[layer][word]`` is the share of its pieces that the layer computes.

    ``before`` and ``after`` are the predictions of the same weights unpruned and pruned; ``label`` is the true one,
    where it is known.
    """

    words: Sequence[str]
    layers: Sequence[str]
    kept: Sequence[Sequence[float]]
    before: str
    after: str
    label: str | None = None


class KeptModel(ABC):
    """A model that a run has kept, on the CPU, with the same weights unpruned and what makes ids of texts."""

    kind: ClassVar[str]  # of caches
    prepare: ClassVar[str]  # the script that makes them
    layers: Sequence[str]
    fingerprint: str  # of what makes ids, as caches have it
    collates: tuple[Collate, Collate]  # of the unpruned model and of the pruned one

    def __init__(self, model: Any) -> None:
        self.model: Any = model.float().eval()
        self.unpruned: nn.Module = self.model.unpruned_twin()

    @abstractmethod
    def read(self, text: str, second: str | None = None) -> Sentence:
        """Read a sentence, or a pair, as the user has written it."""

    @abstractmethod
    def prepared(self, split: Split, row: int) -> Sentence:
        """Read a row of a cache."""

    @abstractmethod
    def positions(self, output: Any, sentence: Sentence) -> list[set[int]]:
        """List which of the sentence's tokens each layer has computed."""

    @torch.no_grad()
    def survivors(self, sentence: Sentence, label: float | None = None) -> Survivors:
        """Find what becomes of the words; ``label`` is the sentence's true class, or its score."""
        row = {"tokens": sentence.tokens, "second": sentence.second}
        before, after = (
            model(**collate([row]), **getattr(model, "evaluation_options", {}))
            for model, collate in zip((self.unpruned, self.model), self.collates, strict=True)
        )
        kept = [
            [sum(at in computed for at in pieces) / len(pieces) if pieces else 1.0 for _, pieces in sentence.words]
            for computed in self.positions(after, sentence)
        ]
        words, true_label = [word for word, _ in sentence.words], None if label is None else self.label_name(label)
        answers = self.answer(before.logits[0]), self.answer(after.logits[0])
        return Survivors(words, self.layers, kept, *answers, true_label)

    def label_name(self, label: float) -> str:
        return f"{label:.2f}" if self.model.config.num_labels == 1 else str(self.model.config.id2label[int(label)])

    def answer(self, logits: Tensor) -> str:
        """Name the likeliest class with its probability, or the score. [labels] -> text"""
        if len(logits) == 1:
            return self.label_name(logits.item())
        probabilities = logits.softmax(dim=0)
        return f"{self.label_name(int(probabilities.argmax()))} ({probabilities.max().item():.1%})"


class KeptBert(KeptModel):
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
        pieces_of: dict[tuple, list[int]] = {}
        for at, (part, word) in enumerate(zip(encoding.sequence_ids, encoding.word_ids, strict=True)):
            pieces_of.setdefault((at,) if word is None else (part, word), []).append(at)
        words: list[Word] = []
        for key, pieces in pieces_of.items():
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


class KeptLstm(KeptModel):
    kind, prepare = "lstm", "PrepareGlue4Lstm.py"
    layers = ("LSTM",)
    collates = (LstmCollator(pairs=True),) * 2  # of what is no pair, the second sentence is empty

    def __init__(self, folder: Path, max_length: int | None) -> None:
        super().__init__(PrunedLstmForSequenceClassification.from_pretrained(folder))
        self.vocabulary, self.max_length = Vocabulary(tuple(read_lines(folder / "vocab.txt"))), max_length
        self.fingerprint = self.vocabulary.fingerprint

    def read(self, text: str, second: str | None = None) -> Sentence:
        parts = []
        for part in (text, second or ""):
            words = re.findall(r"\S+", part, flags=re.ASCII)
            ids = [(word, number) for word in words for number in self.vocabulary.to_ids(word)]
            parts.append(ids[: self.max_length])
        return _pair(*parts)

    def prepared(self, split: Split, row: int) -> Sentence:
        words = [(self.vocabulary.word(int(number)), int(number)) for number in split.sentence(row)]
        return _pair(words[: split.second[row]], words[split.second[row] :])

    def positions(self, output: Any, sentence: Sentence) -> list[set[int]]:
        first, second = output.token_positions[0].split(output.token_counts[0])
        return [set(first.tolist()) | {sentence.second + at for at in second.tolist()}]


def _pair(first: list[tuple[str, int]], second: list[tuple[str, int]]) -> Sentence:
    """Make a sentence of two of words and their ids, the second of which may be empty."""
    words: list[Word] = [(word, [at]) for at, (word, _) in enumerate(first + second)]
    if second:
        words.insert(len(first), (BETWEEN, ()))
    return Sentence(np.array([number for _, number in first + second], dtype=np.int64), len(first), words)


def load_kept(folder: Path, max_length: int | None) -> KeptModel:
    """Load a kept model; texts are cut to ``max_length`` tokens.

    Raises:
        UserError: there is no such model.
    """
    # An LSTM was a ``pruned_lstm`` in older versions.
    kinds: dict[str, type[KeptBert | KeptLstm]] = {"bert": KeptBert, "lstm": KeptLstm, "pruned_lstm": KeptLstm}
    kind = read_json(folder / "config.json").get("model_type", "")
    if kind not in kinds:
        raise UserError(f"{folder}: not a model that a run has kept; name one of its folders, or a record's")
    try:
        return kinds[kind](folder, max_length)
    except UserError:
        raise
    except Exception as error:  # safetensors, pickle, JSON and torch each raise their own
        raise UserError(f"{folder}: the model cannot be loaded ({error}); run it again with --force") from None
