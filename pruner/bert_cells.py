"""The cells of RunBert4Glue.py: a pre-trained BERT, fine-tuned with and without pruning."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import BertForSequenceClassification

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.batches import BertCollator, Collate, make_batch
from pruner.cache import Cache
from pruner.errors import UserError
from pruner.evaluate import count_tokens
from pruner.flops import BertShape, baseline_flops, pruned_flops, reduction
from pruner.glue import Task
from pruner.grid import EXAMPLES, Cell, Grid, shorten
from pruner.schedule import Pruning
from pruner.select import keep_counts
from pruner.tokenizer import TOKENIZER_FILES, BertTokenizer, read_json
from pruner.train import TrainSettings

WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class BertGrid(Grid):
    """``weights`` is the fingerprint of those of ``bert``."""

    bert: str
    weights: str | None
    tokenizer: BertTokenizer
    tokenizer_folder: Path
    train_settings: TrainSettings

    latency_batches = 12

    def training(self, task: Task) -> TrainSettings:
        return self.train_settings

    def settings(self, cell: Cell, cache: Cache) -> dict:
        return super().settings(cell, cache) | {"bert": self.bert, "weights": self.weights}

    def make_model(self, cell: Cell, cache: Cache) -> BertForSequenceClassification:
        if cell.pruning is None:
            return load_model(BertForSequenceClassification, self.bert, cell.task)
        model = load_model(PrunedBertForSequenceClassification, self.bert, cell.task)
        counts = torch.zeros(model.config.vocab_size, dtype=torch.int64)
        counts[: len(cache.counts)] = torch.from_numpy(cache.counts)
        return model.set_pruning(token_counts=counts, **cell.pruning.to_dict())

    def collate(self, cell: Cell) -> Collate:
        return BertCollator(with_lengths=cell.pruning is not None)

    def latency_collates(self, cell: Cell) -> tuple[Collate, Collate]:
        return BertCollator(with_lengths=False), BertCollator(with_lengths=True)

    def describe(self, model: torch.nn.Module, cell: Cell, cache: Cache) -> dict:
        shape, pruning = BertShape.of(model.config), cell.pruning or Pruning.none(model.config.num_hidden_layers)
        lengths = [int(length) for split in cell.task.dev for length in cache.splits[split].lengths]
        counts = keep_counts(lengths, pruning.schedule, pruning.count, pruning.padded_length)
        return {
            "model": "bert",
            "schedule": list(pruning.schedule),
            "schedule_source": "hand",
            "count": pruning.count,
            "tokens": count_tokens(lengths, pruning),
            "flops": reduction(baseline_flops(shape, lengths), pruned_flops(shape, lengths, counts, pruning)),
        }

    def examples(self, model: torch.nn.Module, cell: Cell, cache: Cache) -> list[dict]:
        split, collate = cache.splits[cell.task.dev[0]], self.collate(cell)
        found = []
        for row in range(min(EXAMPLES, len(split))):
            with torch.no_grad():
                output = model.eval()(**make_batch(split, [row], collate, model.device))
            pieces = [self.tokenizer.tokenizer.id_to_token(int(token)) for token in split.sentence(row)]
            kept = set(output.token_positions[-1].tolist())
            found.append({"sentence": " ".join(pieces), "kept": shorten(pieces, kept)})
        return found

    def save_model(self, model: torch.nn.Module, cell: Cell, folder: Path) -> None:
        """A folder that ``from_pretrained`` loads, tokenizer included."""
        model.save_pretrained(folder)
        for name in TOKENIZER_FILES:
            if name != "config.json" and (self.tokenizer_folder / name).is_file():
                shutil.copyfile(self.tokenizer_folder / name, folder / name)


def weights_fingerprint(bert: str) -> str | None:
    """A hash of a local folder's weights; ``None`` for a model of the hub, which its name identifies."""
    for name in WEIGHTS:
        path = Path(bert) / name
        if path.is_file():
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return None


def check_bert(bert: str, folder: Path) -> dict:
    """The config of a BERT; an error where the folder holds no config, no weights or another kind of model."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: no config.json; copy the model's config there")
    config = read_json(path)
    if config.get("model_type", "bert") != "bert":
        raise UserError(f"{path}: a {config['model_type']} model; this project runs BERT models")
    if "num_hidden_layers" not in config:
        raise UserError(f"{path}: no num_hidden_layers; copy the model's own config.json there")
    if Path(bert).is_dir() and not any((Path(bert) / name).is_file() for name in WEIGHTS):
        raise UserError(f"{folder}: no weights; put model.safetensors or pytorch_model.bin there")
    return config


def load_model(
    model_class: type[BertForSequenceClassification], bert: str, task: Task
) -> BertForSequenceClassification:
    """A pre-trained BERT in float32, with its own classifier if that has the task's labels, else with a fresh one.

    Raises:
        UserError: weights that cannot be read, or that are not those of a BERT.
    """
    names = dict(enumerate(task.labels)) or {0: task.label}
    try:
        model, info = model_class.from_pretrained(
            bert,
            num_labels=task.num_labels,
            id2label=names,
            label2id={name: index for index, name in names.items()},
            dtype=torch.float32,  # a float16 file would otherwise be trained in float16
            ignore_mismatched_sizes=True,  # the classifier's; all others are refused below
            output_loading_info=True,
        )
    except Exception as error:  # safetensors, pickle, the hub and torch each raise their own
        raise UserError(f"{bert}: the weights cannot be loaded ({error}); copy the model again") from None
    absent = [key for key in info["missing_keys"] if not key.startswith(("classifier.", "bert.pooler.", "students."))]
    mismatched = [key for key, *_ in info["mismatched_keys"] if not key.startswith(("classifier.", "students."))]
    if mismatched:
        raise UserError(f"{bert}: {sorted(mismatched)[0]} is not of the shape that config.json says; copy it again")
    if absent:
        raise UserError(f"{bert}: {len(absent)} weights of a BERT are not in the file, {sorted(absent)[0]} among them")
    return model
