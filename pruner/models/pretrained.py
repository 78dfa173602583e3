"""Load a pretrained BERT; check its config and weights."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import BertConfig
from transformers.activations import ACT2FN

from pruner.data.task import Task
from pruner.data.tokenizer import ALL_KINDS, bert_folder, check_kind
from pruner.models.classes import explain, match_classes
from pruner.models.config import WEIGHTS, read_config
from pruner.models.encoders import like_bert, plain_class
from pruner.models.load_encoder import is_other_kind, load_encoder, read_encoder
from pruner.utils.errors import UserError
from pruner.utils.files import is_there, read_json, read_size, short
from pruner.utils.folders import SUMS, check_sums


def weight_files(folder: Path) -> list[Path]:
    """List what ``from_pretrained`` reads in a folder: one file, an index and its shards beside it, or nothing."""
    paths = [folder / name for name in WEIGHTS if os.path.isfile(folder / name)][:1]
    if not paths or paths[0].suffix != ".json":
        return paths
    places = read_json(paths[0]).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UserError(f"{paths[0]}: no weight_map; copy the file again")
    for name in places.values():
        if not isinstance(name, str) or Path(name).name != name or not os.path.isfile(folder / name):
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


def check_size(folder: Path, files: Sequence[Path], parameters: int) -> None:
    """Refuse a config that tells of more parameters than the weights can be, before a model of that size is made."""
    size = sum(path.stat().st_size for path in files)
    if parameters > size:  # each takes a byte at least
        what = f"{size} bytes for {parameters:.3g} parameters by config.json"
        raise UserError(f"{folder}: the weights cannot be loaded ({what}); copy the model again")


def check_finite(model: nn.Module, place: str | Path) -> None:
    """Refuse weights that are no numbers: no training mends them."""
    for name, weights in model.state_dict().items():
        if not bool(weights.isfinite().all()):
            raise UserError(f"{place}: {name} holds numbers that are not finite; copy the model again")


def check_bert(bert: str, folder: Path, smaller: bool = False) -> BertConfig:
    """Read a BERT's config; a ``UserError`` if the folder has none, no weights or another kind of model.

    With ``smaller``, heads or layers may have been removed; the config is then that of the dense model's layers.
    """
    path = folder / "config.json"
    if Path(bert).is_dir():
        check_sums(folder, f"copy the model again, or remove {SUMS} if you have changed it yourself")
    if not is_there(path):
        raise UserError(f"{folder}: no config.json; copy the model's config there")
    raw = read_json(path)
    check_kind(raw, path, ALL_KINDS)
    if is_other_kind(raw):
        config: Any = like_bert(read_encoder(path))
    else:
        settings = read_config(path, smaller)
        config_class: Any = plain_class(BertConfig(**settings)).config_class
        config = config_class(**settings)
    if config.hidden_act not in ACT2FN:
        act = short(config.hidden_act)
        raise UserError(f"{path}: hidden_act is {act}, unknown to transformers; use for example gelu")
    if Path(bert).is_dir():
        files = weight_files(folder)
        if not files:
            raise UserError(f"{folder}: no weights; put model.safetensors or pytorch_model.bin there")
        d = config.hidden_size
        rows = config.vocab_size + config.max_position_embeddings + config.type_vocab_size
        layer = d * (4 * d + 2 * config.intermediate_size)
        if raw.get("compression"):  # a head of each layer is left at least
            layer = max(4 * d * (d // config.num_attention_heads), config.intermediate_size)
        if "nonzeros" in (raw.get("precision") or ()):  # of as many weights as there are, zeros are left out
            layer = 0
        rank = min(d, read_size(raw, "embedding_rank", path) or getattr(config, "embedding_width", None) or d)
        check_size(folder, files, rank * rows + config.num_hidden_layers * layer)
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


def own_classes(names: Any, rows: int) -> list[str]:
    """Return the classes of a classifier's ``rows`` by a config's ``id2label``; ``LABEL_k`` where that is none."""
    try:
        by_number = {int(number): str(name) for number, name in names.items()}
    except (AttributeError, TypeError, ValueError):
        by_number = {}
    if sorted(by_number) == list(range(rows)):
        return [by_number[number] for number in range(rows)]
    return [f"LABEL_{number}" for number in range(rows)]


def load_model(model_class: Any, bert: str, task: Task, say: Callable[[str], None] = print) -> Any:
    """Load a BERT in float32, with its own classifier if that has the task's classes, else with a fresh one.

    Classes are matched by name, and the classifier's rows put into the task's order. ``say`` is told of a classifier
    that is not taken, or whose classes have no names. The model's ``trained_head`` says whether it has its own.

    Raises:
        UserError: weights that cannot be read, or that are not those of a BERT.
    """
    folder = bert_folder(bert)
    config = check_bert(bert, folder)
    config.id2label = dict(enumerate(task.labels)) or {0: task.label}
    config.label2id = {name: index for index, name in config.id2label.items()}
    own_config = read_json(folder / "config.json")  # of which ``config`` has but the sizes
    how = {
        "dtype": torch.float32,  # a float16 file would otherwise be trained in float16
        "ignore_mismatched_sizes": True,  # the classifier's; all others are refused below
        "output_loading_info": True,
    }
    try:
        check_dtypes(weight_files(Path(bert)))
        if is_other_kind(own_config):
            model, info = load_encoder(bert, folder / "config.json", config.id2label, **how)
            model = model if isinstance(model, model_class) else model_class.from_unpruned(model)
        else:
            model, info = model_class.from_pretrained(bert, config=config, **how)
    except Exception as error:  # safetensors, pickle, the hub and torch each raise their own
        raise UserError(f"{bert}: the weights cannot be loaded ({error}); copy the model again") from None
    absent = [key for key in info["missing_keys"] if not key.startswith(("classifier.", "bert.pooler."))]
    shapes = {key: shape for key, shape, *_ in info["mismatched_keys"]}
    mismatched = [key for key in shapes if not key.startswith("classifier.")]
    if mismatched:
        raise UserError(f"{bert}: {sorted(mismatched)[0]} is not of the shape that config.json says; copy it again")
    if absent:
        what = f"{len(absent)} weights of a BERT are not in the file, {sorted(absent)[0]} among them"
        raise UserError(f"{bert}: {what}; copy all files of a BERT there")
    check_finite(model, bert)
    pruning = own_config.get("pruning")
    if isinstance(pruning, dict) and any(pruning.get("schedule") or ()):
        say(f"{bert}: a pruned model; its weights are taken, its schedule is not")
    model.trained_head = False
    if not any(key.startswith("classifier.") for key in info["missing_keys"]):
        rows = shapes.get("classifier.weight", model.classifier.weight.shape)[0]
        own = own_classes(own_config.get("id2label"), rows)
        take_head(model, bert, own, task, say)
    return model


def take_head(model: Any, bert: str, own: Sequence[str], task: Task, say: Callable[[str], None]) -> None:
    """Put the rows of a classifier for the classes ``own`` into the task's order, or make a fresh classifier."""
    order = match_classes(own, task)
    if line := explain(bert, own, task, order):
        say(line)
    head = model.classifier
    model.trained_head = order is not None
    with torch.no_grad():
        if order is not None:
            head.weight.copy_(head.weight[order])
            head.bias.copy_(head.bias[order])
        else:
            head.weight.normal_(std=model.config.initializer_range)
            head.bias.zero_()
