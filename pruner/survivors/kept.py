"""Models that runs have kept, and which words of a sentence each of their layers computes."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.structure.shrink import Structure
from pruner.compress.tokens.lstm import PrunedLstmConfig, PrunedLstmForSequenceClassification
from pruner.data.cache import Split
from pruner.data.collate import BertCollator, Collate, LstmCollator
from pruner.data.rows import read_lines
from pruner.data.tokenizer import BertTokenizer, load_tokenizer
from pruner.data.vocabulary import Vocabulary
from pruner.models.pretrained import check_bert, check_finite, check_size, weight_files
from pruner.utils.errors import UserError
from pruner.utils.files import read_json, read_size
from pruner.utils.folders import check_sums

Word = tuple[str, Sequence[int]]  # its text, and the positions of its pieces


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
    where it is known, and ``second`` the place of the first word of a pair's second sentence.
    """

    words: Sequence[str]
    layers: Sequence[str]
    kept: Sequence[Sequence[float]]
    before: str
    after: str
    label: str | None = None
    second: int | None = None


class KeptModel(ABC):
    """A model that a run has kept, on the CPU, with the same weights unpruned and what makes ids of texts."""

    layers: Sequence[str]
    tokenizer: BertTokenizer | Vocabulary
    collates: tuple[Collate, Collate]  # of the unpruned model and of the pruned one

    def __init__(self, model: Any, folder: Path) -> None:
        check_finite(model, folder)
        self.model = model.float().eval()
        self.unpruned = self.model.unpruned_twin()

    @abstractmethod
    def read(self, text: str, second: str | None = None) -> Sentence:
        """Read a sentence, or a pair, as the user has written it."""

    @abstractmethod
    def prepared(self, split: Split, row: int) -> Sentence:
        """Read a row of a cache."""

    @torch.no_grad()
    def survivors(self, sentence: Sentence, label: float | None = None) -> Survivors:
        """Find what becomes of the words; ``label`` is the sentence's true class, or its score."""
        row = {"tokens": sentence.tokens, "second": sentence.second}
        batches = [collate([row]) for collate in self.collates]
        before, after = self.unpruned(**batches[0]), self.model(**batches[1])
        kept = []
        for positions, counts in zip(after.token_positions, after.token_counts, strict=True):
            first, *second = positions.split(counts)  # an LSTM reads the second sentence of a pair by itself
            computed = {*first.tolist(), *(sentence.second + at for part in second for at in part.tolist())}
            kept.append([sum(at in computed for at in pieces) / len(pieces) for _, pieces in sentence.words])
        words, true_label = [word for word, _ in sentence.words], None if label is None else self.label_name(label)
        second = next((n for n, (_, pieces) in enumerate(sentence.words) if pieces[0] >= sentence.second), None)
        return Survivors(words, self.layers, kept, self.answer(before), self.answer(after), true_label, second or None)

    def label_name(self, label: float) -> str:
        return f"{label:.2f}" if self.model.config.num_labels == 1 else str(self.model.config.id2label[int(label)])

    def answer(self, output: Any) -> str:
        """Name the likeliest class of a sentence with its probability, or its score."""
        if output.logits.shape[1] == 1:
            return self.label_name(output.logits.item())
        share, label = output.logits[0].softmax(dim=0).max(dim=0)
        return f"{self.label_name(label.item())} ({share.item():.1%})"


class KeptBert(KeptModel):
    collates = BertCollator(with_lengths=False), BertCollator(with_lengths=True)
    tokenizer: BertTokenizer

    def __init__(self, folder: Path, max_length: int | None) -> None:
        check_bert(str(folder), folder, smaller=True)
        model = PrunedBertForSequenceClassification.from_pretrained(folder, attn_implementation="sdpa")
        super().__init__(model, folder)
        positions = self.model.config.max_position_embeddings
        self.tokenizer = load_tokenizer(folder, min(max_length or positions, positions))
        self.layers = [f"layer {number + 1}" for number in Structure.of(self.model.config).layers]

    def read(self, text: str, second: str | None = None) -> Sentence:
        encoding = self.tokenizer.tokenizer.encode(text, second)
        if not self.tokenizer.stock.is_fast:  # it does not tell where in the text a piece is from
            return self.joined(np.array(encoding.ids), self.tokenizer.second(encoding))
        keys = list(zip(encoding.sequence_ids, encoding.word_ids, strict=True))
        starts = [at for at, (_, word) in enumerate(keys) if word is None or keys[at] != keys[at - 1]]
        words = []
        for start, end in pairwise([*starts, len(keys)]):
            written = (text, second or "")[keys[start][0] or 0]
            word = written[encoding.offsets[start][0] : encoding.offsets[end - 1][1]]
            words.append((word or encoding.tokens[start], range(start, end)))  # [CLS] and [SEP] are not in the text
        return Sentence(np.array(encoding.ids), self.tokenizer.second(encoding), words)

    def prepared(self, split: Split, row: int) -> Sentence:
        return self.joined(split.sentence(row), int(split.second[row]))

    def joined(self, tokens: np.ndarray, second: int) -> Sentence:
        """Join the pieces of words that were split."""
        pieces = [self.tokenizer.piece(int(token)) for token in tokens]
        starts = [at for at, piece in enumerate(pieces) if at == 0 or not re.match("##.", piece)]
        spans = pairwise([*starts, len(pieces)])
        words = [("".join([pieces[a], *(piece[2:] for piece in pieces[a + 1 : b])]), range(a, b)) for a, b in spans]
        return Sentence(tokens, second, words)


class KeptLstm(KeptModel):
    layers = ("LSTM",)
    collates = (LstmCollator(pairs=True),) * 2  # of what is no pair, the second sentence is empty
    tokenizer: Vocabulary

    def __init__(self, folder: Path, max_length: int | None) -> None:
        config = PrunedLstmConfig.from_pretrained(folder)
        recurrent, head = config.num_layers * 4 * config.hidden_size**2, config.hidden_size * config.head_size
        weights = config.vocab_size * config.embedding_size + recurrent + head
        check_size(folder, weight_files(folder), weights)
        super().__init__(PrunedLstmForSequenceClassification.from_pretrained(folder), folder)
        self.tokenizer, self.max_length = Vocabulary(tuple(read_lines(folder / "vocab.txt"))), max_length

    def read(self, text: str, second: str | None = None) -> Sentence:
        words = [re.findall(r"\S+", part, flags=re.ASCII) for part in (text, second or "")]
        parts = [[(word, number) for word in part for number in self.tokenizer.to_ids(word)] for part in words]
        first, after = (part[: self.max_length] for part in parts)
        return _pair(first + after, len(first))

    def prepared(self, split: Split, row: int) -> Sentence:
        words = [(self.tokenizer.word(int(number)), int(number)) for number in split.sentence(row)]
        return _pair(words, int(split.second[row]))


def _pair(words: list[tuple[str, int]], second: int) -> Sentence:
    """Make a sentence of words and their ids, or a pair, whose ``second`` begins among them."""
    ids = np.array([number for _, number in words], dtype=np.int64)
    return Sentence(ids, second, [(word, [at]) for at, (word, _) in enumerate(words)])


def load_kept(folder: Path, max_length: int | None) -> KeptModel:
    """Load a kept model, which cuts texts to ``max_length`` tokens; raise a UserError if there is none."""
    # Pruned models were of the plain ones' types in older versions.
    kinds: dict[str, type[KeptBert | KeptLstm]] = dict.fromkeys(("bert", "pruned_bert"), KeptBert)
    kinds |= dict.fromkeys(("lstm", "pruned_lstm"), KeptLstm)
    check_sums(folder, "run it again with --force")
    config = read_json(folder / "config.json")
    kind = config.get("model_type", "")
    if kind not in kinds:
        raise UserError(f"{folder}: not a model that a run has kept; name one of its folders, or a record's")
    try:
        # As many names of classes would be made.
        check_size(folder, weight_files(folder), read_size(config, "num_labels", folder / "config.json") or 1)
        return kinds[kind](folder, max_length)
    except UserError:
        raise
    except Exception as error:  # safetensors, pickle, JSON and torch each raise their own
        raise UserError(f"{folder}: the model cannot be loaded ({error}); run it again with --force") from None
