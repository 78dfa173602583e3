"""A pre-trained BERT: its config, its weights, and what they are complained about for."""

import hashlib
from pathlib import Path

import torch
from transformers import BertForSequenceClassification

from pruner.errors import UserError
from pruner.glue import Task
from pruner.tokenizer import read_json

WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")


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
