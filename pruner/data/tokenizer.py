"""The fast tokenizer of a BERT folder: that of ``transformers``, without the seconds that importing ``torch`` takes."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from pruner.data.rows import read_lines
from pruner.utils.errors import SettingError, UserError
from pruner.utils.files import read_json, read_size, short

TOKENIZER_FILES = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "config.json")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # all but the last are needed
MOST_PIECES = 10**7  # of any vocabulary; tables are as long as the largest id


@dataclass(frozen=True)
class BertTokenizer:
    """``tokenizer`` truncates pairs longest first and does not pad; ``fingerprint`` stands for all that decides ids."""

    tokenizer: Tokenizer
    lower_case: bool
    fingerprint: str

    @property
    def size(self) -> int:
        return self.tokenizer.get_vocab_size()

    def piece(self, number: int) -> str:
        piece = self.tokenizer.id_to_token(number)
        assert piece is not None  # prepared sentences hold the ids of this vocabulary alone
        return piece


def bert_folder(bert: str) -> Path:
    """Return a local folder as it is, or that of a hub model's tokenizer and config files in the hub's cache."""
    folder = Path(bert)
    if folder.is_dir():
        return folder
    if bert.endswith("/") or bert.startswith((".", "/", "~")) or bert == "bert":
        raise UserError(
            f"{bert}: no such folder; put a BERT there (config.json, vocab.txt, model.safetensors) or name another "
            "with --bert, a folder or a model of the hub such as google-bert/bert-base-uncased"
        )
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(bert, allow_patterns=list(TOKENIZER_FILES)))
    except Exception as error:  # the hub's client raises its own, httpx's and OSError
        reason = str(error).split("\n")[0]
        raise UserError(f"{bert}: no such folder, and the hub did not give such a model ({reason})") from None


def read_vocabulary(folder: Path) -> dict[str, int]:
    """Word pieces and their ids, from ``vocab.txt`` or else ``tokenizer.json``."""
    path = folder / "vocab.txt"
    if os.path.lexists(path):
        vocabulary: Any = {piece: index for index, piece in enumerate(read_lines(path))}
    else:
        path = folder / "tokenizer.json"
        if not os.path.lexists(path):
            raise UserError(f"{folder}: no vocab.txt and no tokenizer.json; copy the model's vocabulary there")
        model = read_json(path).get("model")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        if not isinstance(vocabulary, dict):
            raise UserError(f"{path}: not a word-piece vocabulary; this project runs BERT models")
        for piece, index in vocabulary.items():
            if type(index) is not int or not 0 <= index < MOST_PIECES:
                raise UserError(f"{path}: the id of {short(piece)} is {short(index)}; copy the file again")
    for piece in SPECIAL[:4]:
        if piece not in vocabulary:
            raise UserError(f"{path}: no {piece} in the vocabulary; is this the vocabulary of a BERT?")
    return vocabulary


def has_capitals(vocabulary: Iterable[str]) -> bool:
    """Whether a vocabulary is cased; special tokens such as ``[CLS]`` do not count."""
    return any(letter.isupper() for piece in vocabulary if not piece.startswith("[") for letter in piece)


def check_max_length(folder: Path, max_length: int) -> None:
    """Raise a ``UserError`` if sentences may be longer than the model has positions."""
    path = folder / "config.json"
    positions = read_size(read_json(path, missing_ok=True), "max_position_embeddings", path)
    if positions is not None and max_length > positions:
        problem = f"{max_length} tokens, but {path} has {positions} positions; prepare with fewer"
        raise SettingError("max_length", problem)


def load_tokenizer(folder: Path, max_length: int) -> BertTokenizer:
    """Load the tokenizer of a BERT folder; without ``do_lower_case``, a vocabulary that holds capitals is cased."""
    vocabulary = read_vocabulary(folder)
    config_path, model_path = folder / "tokenizer_config.json", folder / "config.json"
    config = read_json(config_path, missing_ok=True)
    for key in ("do_lower_case", "strip_accents", "tokenize_chinese_chars"):
        if not isinstance(config.get(key), bool | None):
            raise UserError(f"{config_path}: {key} is {short(config[key])}; use true, false or null")
    rows = read_size(read_json(model_path, missing_ok=True), "vocab_size", model_path)
    size = max(vocabulary.values()) + 1
    if rows is not None and size > rows:
        raise UserError(
            f"{folder}: {size} word pieces in the vocabulary, but vocab_size in config.json is {rows}; vocabulary and "
            "weights are of different models"
        )
    lower_case = config.get("do_lower_case")
    settings: dict[str, Any] = {
        "lowercase": not has_capitals(vocabulary) if lower_case is None else lower_case,
        "strip_accents": config.get("strip_accents"),
        "handle_chinese_chars": bool(config.get("tokenize_chinese_chars", True)),
    }
    try:
        tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    except Exception as error:  # a piece that is no text: the library raises several kinds
        raise UserError(f"{folder}: the vocabulary cannot be used ({error}); copy the file again") from None
    tokenizer.normalizer = normalizers.BertNormalizer(clean_text=True, **settings)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    tokenizer.add_special_tokens([piece for piece in SPECIAL if piece in vocabulary])
    tokenizer.enable_truncation(max_length, strategy="longest_first")
    identity = json.dumps([sorted(vocabulary.items()), settings])
    return BertTokenizer(tokenizer, settings["lowercase"], hashlib.sha256(identity.encode()).hexdigest()[:16])
