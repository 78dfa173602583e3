"""From texts to word-piece ids: the arrays of a BERT cache."""

import numpy as np

from pruner.cache import Split
from pruner.glue import Rows, Task
from pruner.tokenizer import BertTokenizer


def encode(rows: Rows, task: Task, tokenizer: BertTokenizer) -> Split:
    """Texts -> ids, end to end."""
    tokens, lengths, second = [], [], []
    for start in range(0, len(rows.texts), 10_000):  # bounds the memory that encodings take
        texts = rows.texts[start : start + 10_000]
        for encoding in tokenizer.tokenizer.encode_batch([text if len(text) == 2 else text[0] for text in texts]):
            ids = encoding.ids
            tokens.append(np.array(ids, dtype=np.int32))
            lengths.append(len(ids))
            second.append(len(ids) - sum(encoding.type_ids))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    labels = None
    if rows.labels is not None:
        labels = np.array(rows.labels, dtype=np.int64 if task.labels else np.float32)
    return Split(np.concatenate(tokens), offsets, np.array(second, dtype=np.int32), labels)
