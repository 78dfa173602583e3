"""Words for the LSTM, as TensorFlow's ``TextVectorization`` reads them: the vocabulary, kept as text, and word ids."""

import hashlib
import string
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pruner.data.cache import Cache, Split, make_cache, write_cache
from pruner.data.rows import read_lines
from pruner.data.task import Task
from pruner.utils.errors import UserError
from pruner.utils.files import cannot_read, check_regular, is_there, whole

# Ids: UNKNOWN stands for all words outside the vocabulary, FIRST_WORD is the commonest.
PADDING, UNKNOWN, FIRST_WORD = 0, 1, 2
PUNCTUATION = string.punctuation.encode()


def split_words(text: str) -> list[str]:
    """Split a text at ASCII white space into words, with ASCII letters in lower case and without ASCII punctuation."""
    # Methods of bytes know ASCII alone, as TensorFlow does; those of str would also lower and split what is beyond.
    return [word.decode() for word in text.encode().lower().translate(None, PUNCTUATION).split()]


@dataclass(frozen=True)
class Vocabulary:
    """``words[i]`` has the id ``i + FIRST_WORD``; the commonest come first."""

    words: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(self.words) + FIRST_WORD

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256("\n".join(self.words).encode()).hexdigest()[:16]

    @cached_property
    def ids(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words, start=FIRST_WORD)}

    def word(self, number: int) -> str:
        return self.words[number - FIRST_WORD] if number >= FIRST_WORD else "[UNK]"

    def to_ids(self, text: str) -> list[int]:
        return [self.ids.get(word, UNKNOWN) for word in split_words(text)]


def learn_vocabulary(texts: Iterable[str], size: int) -> Vocabulary:
    """Take the commonest words of ``texts``, at most ``size`` with padding and unknown."""
    # Of words that occur equally often, the last in the order of code points comes first, as TensorFlow has it.
    occurrences = Counter(word for text in texts for word in split_words(text))
    commonest = sorted(occurrences, key=lambda word: (occurrences[word], word), reverse=True)
    return Vocabulary(tuple(commonest[: size - FIRST_WORD]))


def vocabulary_path(folder: Path, task: str) -> Path:
    return folder / f"{task}.txt"


def write_words(
    folder: Path, task: Task, splits: dict[str, Split], vocabulary: Vocabulary, max_length: int
) -> tuple[Cache, Path]:
    """Write a task's cache and vocabulary, both or none: a cache of another vocabulary is refused when it is read."""
    cache = make_cache(task, splits, vocabulary.size, max_length)
    with whole(vocabulary_path(folder, task.name)) as path:
        path.write_bytes("".join(f"{word}\n" for word in vocabulary.words).encode())
        return cache, write_cache(folder, cache, "lstm", vocabulary.fingerprint)


def read_vocabulary(folder: Path, task: str, prepare: str) -> Vocabulary:
    """Read a task's vocabulary; ``prepare`` is the command that makes it again."""
    path = vocabulary_path(folder, task)
    if not is_there(path):
        raise UserError(f"{path}: no such file; run {prepare} first")
    return Vocabulary(tuple(read_lines(path)))


def read_vectors(path: Path, vocabulary: Vocabulary, width: int) -> dict[int, np.ndarray]:
    """Read pretrained vectors in GloVe's text format, a word and ``width`` numbers per line -> vectors by word id."""
    if not is_there(path):
        raise UserError(f"{path}: no such file; download vectors in GloVe's text format, or set vectors to None")
    check_regular(path)
    try:
        opened = path.open(encoding="utf-8", errors="replace", newline="\n")
    except OSError as error:
        raise cannot_read(path, error) from None
    vectors: dict[int, np.ndarray] = {}
    with opened as file:
        for line, text in enumerate(file, start=1):
            parts = text.rstrip().split(" ")
            if line == 1 and len(parts) == 2:
                continue  # word2vec's text format begins with its sizes
            word = " ".join(parts[:-width])  # a few of GloVe's words have spaces in them
            if len(parts) <= width or (line <= 2 and len(parts) != width + 1):
                raise UserError(f"{path}:{line}: {len(parts) - 1} numbers; set embedding_size to the vectors' width")
            if word in vocabulary.ids:
                try:
                    vector = np.array(parts[-width:], dtype=np.float32)
                except ValueError:
                    raise UserError(f"{path}:{line}: not a word and {width} numbers; download the file again") from None
                if not np.isfinite(vector).all():
                    raise UserError(f"{path}:{line}: a number is not finite; download the file again")
                vectors[vocabulary.ids[word]] = vector
    if not vectors:
        raise UserError(f"{path}: none of the vocabulary's {len(vocabulary.words)} words is in it; name another file")
    return vectors
