"""Words for the LSTM: the vocabulary that TensorFlow's ``TextVectorization`` learns, kept as text, and ids of texts."""

import hashlib
import math
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pruner.data.cache import Cache, Split, make_cache, write_cache
from pruner.data.glue import Rows, Task, read_lines
from pruner.utils.errors import UserError
from pruner.utils.files import write_whole
from pruner.utils.tensorflow import import_tensorflow

# Ids: UNKNOWN stands for all words outside the vocabulary, FIRST_WORD is the commonest.
PADDING, UNKNOWN, FIRST_WORD = 0, 1, 2

# ``TextVectorization`` makes ASCII letters small, and no others.
AS_READ = str.maketrans(string.ascii_uppercase, string.ascii_lowercase, string.punctuation)

STEP = 8192  # texts at a time: bounds the memory that their words take

ToIds = Callable[[Sequence[str]], list[np.ndarray]]  # texts -> the ids of their words


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

    def word(self, number: int) -> str:
        return self.words[number - FIRST_WORD] if number >= FIRST_WORD else "[UNK]"

    def numbers(self) -> dict[str, int]:
        """The id of each word."""
        return {word: index for index, word in enumerate(self.words, start=FIRST_WORD)}

    def to_ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """For texts that are lower-case words between spaces already; ``learn_vocabulary`` has TensorFlow's way."""
        number = self.numbers()
        return [np.array([number.get(word, UNKNOWN) for word in text.split()], dtype=np.int32) for text in texts]


def lower_and_strip(word: str) -> str:
    """What ``TextVectorization`` reads of a word, a text without ASCII white space; nothing of mere punctuation."""
    return word.translate(AS_READ)


def learn_vocabulary(texts: Sequence[str], size: int) -> tuple[Vocabulary, ToIds]:
    """The commonest words of ``texts``, at most ``size`` with padding and unknown, and TensorFlow's way to their ids.

    Words are lower-case and without punctuation, by ``TextVectorization``'s own rules.

    Raises:
        UserError: TensorFlow is not installed.
    """
    tf = import_tensorflow("makes words as published")
    layer = tf.keras.layers.TextVectorization(max_tokens=size, ragged=True)
    layer.adapt(
        tf.data.Dataset.from_generator(
            lambda: (list(texts[start : start + STEP]) for start in range(0, len(texts), STEP)),
            output_signature=tf.TensorSpec([None], tf.string),
        )
    )

    def to_ids(texts: Sequence[str]) -> list[np.ndarray]:
        ragged = layer(tf.constant(list(texts)))
        return np.split(ragged.values.numpy().astype(np.int32), ragged.row_splits.numpy()[1:-1])

    return Vocabulary(tuple(str(word) for word in layer.get_vocabulary()[FIRST_WORD:])), to_ids


def encode_words(rows: Rows, to_ids: ToIds, max_length: int) -> Split:
    """Texts of one or two sentences -> ids, end to end, each sentence cut to ``max_length`` words."""
    parts, lengths, second = [], [], []
    for start in range(0, len(rows.texts), STEP):
        texts = zip(*rows.texts[start : start + STEP], strict=True)
        columns = [[ids[:max_length] for ids in to_ids(column)] for column in texts]
        second += [len(ids) for ids in columns[0]]
        lengths += [sum(map(len, sentences)) for sentences in zip(*columns, strict=True)]
        parts += [np.concatenate([ids for sentences in zip(*columns, strict=True) for ids in sentences])]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    labels = None if rows.labels is None else np.array(rows.labels, dtype=np.int64)
    return Split(np.concatenate(parts).astype(np.int32), offsets, np.array(second, dtype=np.int32), labels)


def vocabulary_path(folder: Path, task: str) -> Path:
    return folder / f"{task}.txt"


def write_vocabulary(folder: Path, task: str, vocabulary: Vocabulary) -> Path:
    """One word per line."""
    path = vocabulary_path(folder, task)
    write_whole(path, "".join(f"{word}\n" for word in vocabulary.words).encode())
    return path


def write_words(
    folder: Path, task: Task, splits: dict[str, Split], vocabulary: Vocabulary, max_length: int
) -> tuple[Cache, Path]:
    """Write a task's vocabulary and its cache, with the word counts of the training split.

    The vocabulary comes first: a cache that was made with another one is refused when it is read.
    """
    cache = make_cache(task, splits, vocabulary.size, max_length)
    write_vocabulary(folder, task.name, vocabulary)
    return cache, write_cache(folder, cache, "lstm", vocabulary.fingerprint)


def read_vocabulary(folder: Path, task: str, prepare: str) -> Vocabulary:
    """What ``write_vocabulary`` wrote; ``prepare`` is the command that makes it again."""
    path = vocabulary_path(folder, task)
    if not path.is_file():
        raise UserError(f"{path}: no such file; run {prepare} first")
    return Vocabulary(tuple(read_lines(path)))


def read_vectors(path: Path, vocabulary: Vocabulary, width: int) -> dict[int, np.ndarray]:
    """Pretrained vectors in GloVe's text format, a word and ``width`` numbers per line -> vectors by word id.

    Raises:
        UserError: no such file, a line of another width or with something that is no number, none of the words in it.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; download vectors in GloVe's text format, or set vectors to None")
    number = vocabulary.numbers()
    found: dict[int, np.ndarray] = {}
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for line, text in enumerate(file, start=1):
            parts = text.rstrip().split(" ")
            if line == 1 and len(parts) == 2:
                continue  # word2vec's text format begins with its sizes
            word = " ".join(parts[:-width])  # a few of GloVe's words have spaces in them
            if len(parts) <= width or (line <= 2 and len(parts) != width + 1):
                raise UserError(f"{path}:{line}: {len(parts) - 1} numbers; set embedding_size to the vectors' width")
            if word in number:
                try:
                    vector = np.array(parts[-width:], dtype=np.float32)
                except ValueError:
                    raise UserError(f"{path}:{line}: not a word and {width} numbers; download the file again") from None
                if not math.isfinite(float(vector.sum())):
                    raise UserError(f"{path}:{line}: a number is not finite; download the file again")
                found[number[word]] = vector
    if not found:
        raise UserError(f"{path}: none of the vocabulary's {len(vocabulary.words)} words is in it; is this the file?")
    return found
