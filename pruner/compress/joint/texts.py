"""A user's unlabelled texts as the rows of a split."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pruner.data.cache import Split
from pruner.utils.errors import UserError

FEWEST = 8  # texts: fewer tell nothing of a model


def encode_texts(texts: Sequence[str | Sequence[str]], tokenizer: Any, longest: int, vocabulary: int) -> Split:
    """Encode texts, or pairs of them, as the tokenizer does for a model that reads ``longest`` tokens at most.

    Raises:
        UserError: too few texts, something that is no text, or a tokenizer of another model.
    """
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise UserError(f"texts: {type(texts).__name__} is no list; give a list of texts, or of pairs of texts")
    if len(texts) < FEWEST:
        raise UserError(f"texts: {len(texts)} are too few; give a few hundred like those that the model will read")
    rows = [_encode(text, number, tokenizer, longest) for number, text in enumerate(texts)]
    ids = np.concatenate([row for row, _ in rows])
    if ids.max() >= vocabulary:
        problem = f"knows {ids.max() + 1} words at least, the model {vocabulary}"
        raise UserError(f"tokenizer: {problem}; give the tokenizer that the model was trained with")
    offsets = np.concatenate([[0], np.cumsum([len(row) for row, _ in rows])])
    return Split(ids, offsets.astype(np.int64), np.array([second for _, second in rows], np.int32), None)


def _encode(text: str | Sequence[str], number: int, tokenizer: Any, longest: int) -> tuple[np.ndarray, int]:
    """Return a text's ids, and where its second segment begins."""
    pair = [text] if isinstance(text, str) else list(text) if isinstance(text, list | tuple) else []
    if len(pair) not in (1, 2) or not all(isinstance(part, str) for part in pair):
        raise UserError(f"texts: number {number} is {text!r:.60}, not a text or a pair of texts")
    encoded = tokenizer(*pair, truncation=True, max_length=longest, return_token_type_ids=True)
    ids, types = encoded["input_ids"], encoded["token_type_ids"]
    return np.array(ids, np.int32), types.index(1) if 1 in types else len(ids)
