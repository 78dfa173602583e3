"""Load a pretrained BERT; check its config and weights."""

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import BertConfig
from transformers.activations import ACT2FN

from pruner.data.task import Task
from pruner.data.tokenizer import bert_folder
from pruner.models.config import WEIGHTS, read_config
from pruner.utils.errors import UserError
from pruner.utils.files import read_json, short


def weight_files(folder: Path) -> list[Path]:
    """List what ``from_pretrained`` reads in a folder: one file, an index and its shards beside it, or nothing."""
    paths = [folder / name for name in WEIGHTS if (folder / name).is_file()][:1]
    if not paths or paths[0].suffix != ".json":
        return paths
    places = read_json(paths[0]).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UserError(f"{paths[0]}: no weight_map; copy the file again")
    for name in places.values():
        if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
            raise UserError(f"{paths[0]}: names {short(name)}, no file of the folder; copy all of the model's files")
    return paths + [folder / name for name in sorted(set(places.values()))]


def weights_fingerprint(bert: str) -> str | None:
    """Hash a local folder's weights; ``None`` for a model of the hub, which its name identifies."""
    files = weight_files(Path(bert))
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()[:16] if files else None


def check_bert(bert: str, folder: Path) -> BertConfig:
    """Read a BERT's config; a ``UserError`` if the folder has none, no weights or another kind of model."""
    path = folder / "config.json"
    if not os.path.lexists(path):
        raise UserError(f"{folder}: no config.json; copy the model's config there")
    config = BertConfig(**read_config(path))
    if config.hidden_act not in ACT2FN:
        act = short(config.hidden_act)
        raise UserError(f"{path}: hidden_act is {act}, unknown to transformers; use for example gelu")
    if Path(bert).is_dir():
        files = weight_files(folder)
        if not files:
            raise UserError(f"{folder}: no weights; put model.safetensors or pytorch_model.bin there")
        # Before a model of that size is made: each parameter takes a byte at least.
        d, size = config.hidden_size, sum(path.stat().st_size for path in files)
        rows = config.vocab_size + config.max_position_embeddings + config.type_vocab_size
        parameters = d * rows + config.num_hidden_layers * d * (4 * d + 2 * config.intermediate_size)
        if parameters > size:
            what = f"{size} bytes for {parameters} parameters by config.json"
            raise UserError(f"{folder}: the weights cannot be loaded ({what}); copy the model again")
    return config


def check_dtypes(files: list[Path]) -> None:
    """Refuse whole numbers for weights: they would be read as they are, without what they were scaled by."""
    for path in files:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118
                    dtype = file.get_slice(name).get_dtype()
                    if name.endswith((".weight", ".bias")) and not dtype.startswith(("F", "BF")):
                        raise ValueError(f"{name} is of type {dtype}")


def load_model(model_class: Any, bert: str, task: Task) -> Any:
    """Load a BERT in float32, with its own classifier if that has the task's labels, else with a fresh one.

    Raises:
        UserError: weights that cannot be read, or that are not those of a BERT.
    """
    config = check_bert(bert, bert_folder(bert))
    config.id2label = dict(enumerate(task.labels)) or {0: task.label}
    config.label2id = {name: index for index, name in config.id2label.items()}
    try:
        check_dtypes(weight_files(Path(bert)))
        model, info = model_class.from_pretrained(
            bert,
            config=config,
            dtype=torch.float32,  # a float16 file would otherwise be trained in float16
            ignore_mismatched_sizes=True,  # the classifier's; all others are refused below
            output_loading_info=True,
        )
    except Exception as error:  # safetensors, pickle, the hub and torch each raise their own
        raise UserError(f"{bert}: the weights cannot be loaded ({error}); copy the model again") from None
    absent = [key for key in info["missing_keys"] if not key.startswith(("classifier.", "bert.pooler."))]
    mismatched = [key for key, *_ in info["mismatched_keys"] if not key.startswith("classifier.")]
    if mismatched:
        raise UserError(f"{bert}: {sorted(mismatched)[0]} is not of the shape that config.json says; copy it again")
    if absent:
        raise UserError(f"{bert}: {len(absent)} weights of a BERT are not in the file, {sorted(absent)[0]} among them")
    return model
