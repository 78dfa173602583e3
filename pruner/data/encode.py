"""From texts to ids: the arrays of a cache."""

from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from pruner.data.cache import Split
from pruner.data.rows import Rows
from pruner.data.task import Task
from pruner.data.tokenizer import BertTokenizer
from pruner.data.vocabulary import Vocabulary

TEXTS_AT_A_TIME = 5000  # bounds the memory that encodings take


def encode(rows: Rows, task: Task, tokenizer: BertTokenizer) -> Split:
    """Encode texts, or pairs, as word pieces."""

    def sentences() -> Iterator[tuple[Sequence[int], int]]:
        for start in range(0, len(rows.texts), TEXTS_AT_A_TIME):
            texts = [text if len(text) == 2 else text[0] for text in rows.texts[start : start + TEXTS_AT_A_TIME]]
            for encoding in tokenizer.tokenizer.encode_batch_fast(texts):
                yield encoding.ids, tokenizer.second(encoding)

    return pack(sentences(), rows.labels, "int64" if task.labels else "float32")


def encode_words(rows: Rows, vocabulary: Vocabulary, max_length: int) -> Split:
    """Encode texts of one or two sentences as words, each sentence cut to ``max_length`` of them."""

    def sentences() -> Iterator[tuple[Sequence[int], int]]:
        for first, *second in rows.texts:
            ids = vocabulary.to_ids(first)[:max_length]
            yield ids + [number for text in second for number in vocabulary.to_ids(text)[:max_length]], len(ids)

    return pack(sentences(), rows.labels, "int64")


def pack(sentences: Iterable[tuple[Sequence[int], int]], labels: Sequence[float] | None, dtype: str) -> Split:
    """Lay sentences end to end, each given by its ids and by where its second segment starts."""
    tokens, offsets, second = array("i"), array("q", [0]), array("i")
    for ids, start in sentences:
        tokens.extend(ids)
        offsets.append(len(tokens))
        second.append(start)
    return Split(
        np.array(tokens, dtype=np.int32),
        np.array(offsets, dtype=np.int64),
        np.array(second, dtype=np.int32),
        None if labels is None else np.array(labels, dtype=dtype),
    )
