"""From texts to word-piece ids: the arrays of a BERT cache."""

import itertools

import numpy as np

from pruner.data.cache import Split
from pruner.data.glue import Rows, Task
from pruner.data.tokenizer import BertTokenizer

STEP = 5000  # texts at a time: bounds the memory that encodings take


def encode(rows: Rows, task: Task, tokenizer: BertTokenizer) -> Split:
    """Texts -> ids, end to end."""
    parts, lengths, second = [], [], []
    for start in range(0, len(rows.texts), STEP):
        texts = [text if len(text) == 2 else text[0] for text in rows.texts[start : start + STEP]]
        encodings = tokenizer.tokenizer.encode_batch_fast(texts)
        ids = [encoding.ids for encoding in encodings]
        lengths += [len(each) for each in ids]
        second += [len(each) - sum(encoding.type_ids) for each, encoding in zip(ids, encodings, strict=True)]
        parts.append(np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int32))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    labels = None
    if rows.labels is not None:
        labels = np.array(rows.labels, dtype=np.int64 if task.labels else np.float32)
    return Split(np.concatenate(parts), offsets, np.array(second, dtype=np.int32), labels)
