"""The tokenizer of a BERT folder, as ``AutoTokenizer`` loads it: the one by which the model is served."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tokenizers import Tokenizer

from pruner.data.rows import read_lines
from pruner.data.task import Task
from pruner.utils.errors import SettingError, UserError, listed
from pruner.utils.files import check_regular, is_there, read_json, read_size, short

# What decides ids, whatever the class of the tokenizer; the hub is asked for these, never for weights or code.
TOKENIZER_FILES = ("*.json", "*.txt", "*.model")
# Of models: BERTs (those of ``PrunedBertForSequenceClassification`` and of ``BertLikeForSequenceClassification`` among
# them), and those that are made one when they are loaded.
KINDS = ("bert", "pruned_bert", "bert_like")
FROM_PADDING = ("roberta", "xlm-roberta", "camembert")  # count positions on from the number of the padding
OTHER_KINDS = ("distilbert", *FROM_PADDING, "electra")
ALL_KINDS = KINDS + OTHER_KINDS
MOST_PIECES = 10**7  # of any vocabulary; tables are as long as the largest id


@dataclass(frozen=True)
class PythonTokenizer:
    """Wraps a tokenizer that is no ``tokenizers.Tokenizer`` in the latter's methods; Japanese words have such ones."""

    tokenizer: Any
    max_length: int

    def encode(self, text: str, pair: str | None = None) -> SimpleNamespace:
        options = {"truncation": "longest_first", "max_length": self.max_length}
        ids = self.tokenizer(text, pair, return_token_type_ids=True, **options)
        tokens = self.tokenizer.convert_ids_to_tokens(ids["input_ids"])
        return SimpleNamespace(ids=ids["input_ids"], type_ids=ids["token_type_ids"], tokens=tokens)

    def encode_batch_fast(self, texts: Sequence[str | tuple[str, ...]]) -> Iterator[SimpleNamespace]:
        return (self.encode(*((text,) if isinstance(text, str) else text)) for text in texts)


@dataclass(frozen=True)
class BertTokenizer:
    """Gives the ids of ``stock``, what ``AutoTokenizer`` has loaded; ``fingerprint`` stands for all that decides them.

    ``tokenizer`` encodes many texts at once, truncates pairs longest first, and does not pad.
    """

    stock: Any
    tokenizer: Tokenizer | PythonTokenizer
    fingerprint: str
    size: int  # ids are below it

    @property
    def typed(self) -> bool:
        """Whether the model is told which tokens are of a second segment."""
        return "token_type_ids" in self.stock.model_input_names

    def second(self, encoding: Any) -> int:
        """Return where the second segment of an encoding begins; its end, where the model is not told of segments."""
        return len(encoding.ids) - (sum(encoding.type_ids) if self.typed else 0)

    def piece(self, number: int) -> str:
        return self.stock.convert_ids_to_tokens(number)


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
        problem = "no such folder, and the hub did not give such a model; check its name, and the network"
        raise UserError(f"{bert}: {problem} ({reason})") from None


def has_capitals(vocabulary: Iterable[str]) -> bool:
    """Whether a vocabulary is cased; special tokens such as ``[CLS]`` do not count."""
    return any(letter.isupper() for piece in vocabulary if not piece.startswith("[") for letter in piece)


def check_max_length(folder: Path, max_length: int) -> None:
    """Raise a ``UserError`` if sentences may be longer than the model has positions."""
    path = folder / "config.json"
    config = read_json(path, missing_ok=True)
    positions = read_size(config, "max_position_embeddings", path)
    if positions is not None and config.get("model_type") in FROM_PADDING:
        padding = config.get("pad_token_id", 1)
        positions -= padding + 1 if type(padding) is int else 0  # another is refused where the config is read
    if positions is not None and max_length > positions:
        problem = f"{max_length} tokens, but {path} has {positions} positions; prepare with fewer"
        raise SettingError("max_length", problem)


def model_of(kind: object) -> str:
    """Return what an error calls a model of a kind: ``"an electra model"``."""
    return f"{'an' if str(kind)[:1].lower() in 'aeiou' else 'a'} {listed([str(kind)])} model"


def check_kind(config: dict, place: object, kinds: Sequence[str] = KINDS) -> None:
    """Raise a ``UserError`` unless a config is that of a BERT of the kind that is computed here; ``place`` has it."""
    kind = config.get("model_type") or "bert"
    if kind not in kinds:
        also = f", or one of {', '.join(OTHER_KINDS)}" if OTHER_KINDS[0] in kinds else ""
        raise UserError(f"{place}: {model_of(kind)}; this project runs BERT models: choose one of them{also}")
    positions = config.get("position_embedding_type") or "absolute"
    if positions != "absolute":
        problem = f"position_embedding_type is {short(positions)}"
        raise UserError(f"{place}: {problem}; this project runs BERTs of absolute positions: choose one of them")
    for key in ("is_decoder", "add_cross_attention"):
        if config.get(key):
            problem = f"{key} is true, a decoder"
            raise UserError(f"{place}: {problem}; this project runs BERTs that are encoders: choose one of them")


def check_pairs(folder: Path, tokenizer: BertTokenizer, task: Task) -> None:
    """Raise a ``UserError`` if a task has pairs of sentences, and the model cannot tell the first from the second."""
    path = folder / "config.json"
    types = read_size(read_json(path, missing_ok=True), "type_vocab_size", path)
    if types == 1 and tokenizer.typed and len(task.text) == 2:
        problem = f"{task.name} has pairs of sentences, and type_vocab_size is 1"
        raise UserError(f"{path}: {problem}; choose tasks of single sentences with --tasks, or another BERT")


def load_tokenizer(folder: Path, max_length: int) -> BertTokenizer:
    """Load the tokenizer of a BERT folder, whatever its class.

    Raises:
        UserError: it cannot be loaded, a package that it needs is missing, its vocabulary is not the model's, or it
            would lower the case of a vocabulary with capitals without having been told to.
    """
    from transformers import AutoTokenizer, BertConfig

    config = read_json(folder / "config.json", missing_ok=True)
    check_kind(config, folder / "config.json", ALL_KINDS)
    settings, pieces = check_files(folder)
    # A folder without a model type is a BERT's: config files were written without one until 2020.
    options = {} if "model_type" in config else {"config": BertConfig()}
    try:
        stock: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
        vocabulary = stock.get_vocab()
    except Exception as error:  # tokenizers, transformers and the packages of other languages raise their own
        named = settings.get("tokenizer_class") or "the tokenizer"
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        problem = f"{named} cannot be loaded ({reason}); install what it needs, or copy the model's tokenizer again"
        raise UserError(f"{folder}: {problem}") from None
    check_vocabulary(folder, stock, vocabulary, pieces, read_size(config, "vocab_size", folder / "config.json"))
    if pieces and "do_lower_case" not in settings and getattr(stock, "do_lower_case", False) and has_capitals(pieces):
        raise UserError(
            f"{folder}: word pieces have capitals, but texts would be put into lower case; say which is right in "
            'tokenizer_config.json: {"do_lower_case": false}, or true'
        )
    if stock.is_fast:
        # A copy, since ``stock`` sets truncation and padding anew with every call.
        tokenizer: Any = Tokenizer.from_str(stock.backend_tokenizer.to_str())
        tokenizer.no_padding()
        tokenizer.no_truncation()
        identity = tokenizer.to_str()
        tokenizer.enable_truncation(max_length, strategy="longest_first", direction=stock.truncation_side)
    else:
        tokenizer = PythonTokenizer(stock, max_length)
        identity = json.dumps([type(stock).__name__, sorted(vocabulary.items()), settings], sort_keys=True)
    identity += json.dumps([stock.truncation_side, stock.model_input_names])
    fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return BertTokenizer(stock, tokenizer, fingerprint, max(vocabulary.values()) + 1)


def check_files(folder: Path) -> tuple[dict, list[str]]:
    """Read ``tokenizer_config.json`` and, where ``vocab.txt`` alone is the vocabulary, its pieces; check both."""
    config_path, whole, lines = (folder / name for name in ("tokenizer_config.json", "tokenizer.json", "vocab.txt"))
    for pattern in TOKENIZER_FILES:
        for path in folder.glob(pattern):
            check_regular(path)
    settings = read_json(config_path, missing_ok=True)
    for key in ("do_lower_case", "strip_accents", "tokenize_chinese_chars"):
        if not isinstance(settings.get(key), bool | None):
            raise UserError(f"{config_path}: {key} is {short(settings[key])}; use true, false or null")
    if is_there(whole):
        read_json(whole)
        return settings, []
    if is_there(lines):
        return settings, list(read_lines(lines))
    if not any(folder.glob("*.model")) and not is_there(folder / "merges.txt"):  # of SentencePiece, of byte pairs
        raise UserError(f"{folder}: no vocab.txt and no tokenizer.json; copy the model's vocabulary there")
    return settings, []


def check_vocabulary(
    folder: Path, stock: Any, vocabulary: Mapping[str, int], pieces: Sequence[str], rows: int | None
) -> None:
    """Raise a ``UserError`` if special tokens are missing, or ids are beyond the model's ``rows`` of embeddings."""
    for name in ("pad", "unk", "cls", "sep"):
        token = getattr(stock, f"{name}_token", None)
        # ``AutoTokenizer`` numbers what vocab.txt lacks after its last line.
        if token is None or (pieces and token not in pieces and not (folder / "added_tokens.json").is_file()):
            token = token or f"{name}_token"
            raise UserError(f"{folder}: no {token} in the vocabulary; copy the vocabulary of a BERT there")
    low, high = min(vocabulary.values()), max(vocabulary.values())
    if low < 0 or high >= MOST_PIECES:
        raise UserError(f"{folder}: ids from {low} to {high} in the vocabulary; copy the model's tokenizer again")
    beyond = [piece for piece, number in vocabulary.items() if rows is not None and number >= rows]
    if beyond:
        raise UserError(
            f"{folder}: {high + 1} word pieces in the vocabulary, but vocab_size in config.json is {rows}; vocabulary "
            f"and weights are of different models, or tokens were added without resize_token_embeddings, as "
            f"{listed(beyond, 3)}: copy both from one model, or save it after that call"
        )
