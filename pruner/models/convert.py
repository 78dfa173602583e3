"""Turns Google's checkpoints into folders that transformers loads: what ConvertBert4Torch.py does."""

import argparse
import json
import math
import os
import re
from contextlib import ExitStack
from pathlib import Path

from pruner.data.rows import read_lines
from pruner.data.tokenizer import has_capitals
from pruner.models.config import WEIGHTS, read_config
from pruner.models.google import GELU, SQUAD, TF2, Weight, is_training_state, match, padded_rows
from pruner.utils.errors import UserError
from pruner.utils.files import check_writable, whole
from pruner.utils.progress import Progress

OF_GOOGLE = (
    "this reads what google-research/bert (TF1) writes: give the prefix of such a checkpoint, as bert/bert_model.ckpt, "
    "or let the code that wrote this one export it for transformers"
)
CONFIG_KEYS = (
    "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act hidden_dropout_prob "
    "attention_probs_dropout_prob max_position_embeddings type_vocab_size initializer_range"
).split()


def google_config(path: Path) -> dict:
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file; give the checkpoint's bert_config.json")
    config = read_config(path)
    for key in CONFIG_KEYS:
        if key not in config:
            raise UserError(f"{path}: no {key}; give the bert_config.json that came with the checkpoint")
    return {key: config[key] for key in CONFIG_KEYS}


def data_files(prefix: Path) -> list[Path]:
    """Return the paths of the checkpoint's data files, all of which exist."""
    if prefix.name == "saved_model.pb" or os.path.isfile(prefix / "saved_model.pb"):
        raise UserError(f"{prefix}: a SavedModel; {OF_GOOGLE}")
    if not prefix.name or not os.path.isfile(f"{prefix}.index"):
        raise UserError(f"{prefix}.index: no such file; give the checkpoint's prefix, as bert/bert_model.ckpt")
    shard_name = re.compile(re.escape(prefix.name) + r"\.data-\d{5}-of-(\d{5})")
    names = (shard_name.fullmatch(path.name) for path in sorted(prefix.parent.iterdir()))
    number = next((int(name[1]) for name in names if name), 1)
    paths = [prefix.with_name(f"{prefix.name}.data-{shard:05}-of-{number:05}") for shard in range(max(1, number))]
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: no such file; copy the whole checkpoint, .index and .data files")
    return paths


def hub_config(config: dict, heads: list[str], labels: int, gelu: str) -> dict:
    """Make ``config.json`` as transformers has it."""
    pretraining = {
        ("masked-LM head", "next-sentence head"): "BertForPreTraining",
        ("masked-LM head",): "BertForMaskedLM",
        ("next-sentence head",): "BertForNextSentencePrediction",
        (): "BertModel",
    }
    hub = config | {
        "hidden_act": GELU[gelu] if config["hidden_act"] == "gelu" else config["hidden_act"],
        "model_type": "bert",
        "layer_norm_eps": 1e-12,  # in Google's code, and in none of its files
        "pad_token_id": 0,
        "architectures": [pretraining.get(tuple(heads), "BertForSequenceClassification")],
    }
    if "classifier" in heads:
        hub["id2label"] = {str(label): f"LABEL_{label}" for label in range(labels)}
        hub["label2id"] = {f"LABEL_{label}": label for label in range(labels)}
    return hub


def open_checkpoint(prefix: Path):
    """Open the checkpoint by TensorFlow, without the pages that this prints while starting."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Its first lines are written before it has read that variable, past Python's own stderr.
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import tensorflow
    except ImportError:
        problem = "tensorflow is not installed, and only it reads Google's files; pip install tensorflow"
        raise UserError(problem) from None
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
    try:
        return tensorflow.train.load_checkpoint(str(prefix))
    except Exception as error:  # TensorFlow raises several kinds
        raise UserError(f"{prefix}.index: not a checkpoint's index ({first_line(error)}); copy it again") from None


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def read_weights(reader, weights: dict[str, Weight], prefix: Path) -> dict:
    """Read the weights one variable at a time, so that memory holds them once and one variable more."""
    import torch

    state = {}
    for variable, weight in Progress(sorted(weights.items()), unit="variable"):
        try:
            tensor = torch.from_numpy(reader.get_tensor(variable))
        except Exception as error:
            raise UserError(f"{prefix}: {variable} cannot be read ({first_line(error)}); copy the data again") from None
        state[weight.name] = tensor.T.contiguous() if weight.transpose else tensor
    return state


def write_outputs(state: dict, texts: dict[Path, str], dump: Path) -> None:
    """Write all files, then name them, so that weights never lie beside files of other ones."""
    import torch
    from safetensors.torch import save_file

    with ExitStack() as stack:  # it names in reverse order: the weights last
        new = stack.enter_context(whole(dump))
        try:
            if dump.suffix == ".safetensors":
                save_file(state, new, metadata={"format": "pt"})
            else:
                with new.open("wb") as file:  # by its name it would write that too, and it is another each time
                    torch.save(state, file)
        except Exception as error:  # safetensors' and torch's own
            raise OSError(first_line(error)) from None
        for path, text in texts.items():
            stack.enter_context(whole(path)).write_bytes(text.encode())
        dump.unlink(missing_ok=True)


def check_outputs(texts: dict[Path, str], dump: Path, force: bool) -> None:
    """Raise if other files would be replaced without ``force``; a killed conversion has left some of its own."""
    if dump in texts:
        raise UserError(f"{dump}: is for another of the model's files; name the weights, as pytorch_model.bin")
    for path in (dump, *texts):
        if os.path.exists(path) and not os.path.isfile(path):
            what = "a folder" if path.is_dir() else "a pipe, socket or device"
            raise UserError(f"{path}: is {what}; remove it, or name another place")
        same = path in texts and path.is_file() and path.read_bytes() == texts[path].encode()
        if os.path.lexists(path) and not same and not force:
            raise UserError(f"{path}: is there already; replace it with --force")
    for other in (dump.with_name(name) for name in WEIGHTS if name != dump.name):
        if other.exists():
            raise UserError(f"{other}: from_pretrained may load it instead of {dump.name}; remove it first")


def convert(args: argparse.Namespace) -> None:
    """Read the checkpoint that the flags name, and write config, vocabulary and weights where they say."""
    prefix, config_path, dump = args.tf_checkpoint_path, args.bert_config_file, args.pytorch_dump_path
    if not dump.name:
        raise UserError(f"--pytorch_dump_path: {dump} names no file; name one, as bert/pytorch_model.bin")
    data, config = data_files(prefix), google_config(config_path)  # in this order: a SavedModel has no config
    vocabulary_path = config_path.parent / "vocab.txt"
    if not vocabulary_path.is_file():
        raise UserError(f"{vocabulary_path}: no such file; put the checkpoint's vocab.txt beside its config")
    vocabulary = list(read_lines(vocabulary_path))
    for piece in ("[PAD]", "[UNK]", "[CLS]", "[SEP]"):
        if piece not in vocabulary:
            raise UserError(f"{vocabulary_path}: no {piece} in the vocabulary; copy the vocabulary of a BERT there")
    reader = open_checkpoint(prefix)
    everything = {name: tuple(shape) for name, shape in reader.get_variable_to_shape_map().items()}
    sizes = reader.get_variable_to_dtype_map()
    needed_bytes = sum(math.prod(shape) * sizes[name].size for name, shape in everything.items())
    actual_bytes = sum(path.stat().st_size for path in data)
    if actual_bytes < needed_bytes:
        raise UserError(f"{data[-1]}: cut short, {actual_bytes} of {needed_bytes} bytes; copy the data again")
    if any(map(TF2.search, everything)):
        raise UserError(f"{prefix}: a checkpoint of TF2 (Keras); {OF_GOOGLE}")
    trained = {name: shape for name, shape in everything.items() if not is_training_state(name, everything)}
    squad = sorted(filter(SQUAD.match, trained))
    shapes = {name: shape for name, shape in trained.items() if name not in squad}
    rows = padded_rows(shapes, config, len(vocabulary))
    if rows is None and len(vocabulary) != config["vocab_size"]:
        raise UserError(
            f"{vocabulary_path}: {len(vocabulary)} word pieces, but vocab_size in {config_path} is "
            f"{config['vocab_size']}; take both from the same archive"
        )
    config["vocab_size"] = rows or config["vocab_size"]
    weights, heads = match(shapes, config, config_path)
    labels = shapes.get("output_weights", (0,))[0]
    tokenizer = {
        "do_lower_case": not has_capitals(vocabulary),
        "tokenizer_class": "BertTokenizer",
        "model_max_length": config["max_position_embeddings"],  # where ``truncation=True`` cuts
    }
    texts = {
        dump.parent / "config.json": json.dumps(hub_config(config, heads, labels, args.gelu), indent=2) + "\n",
        dump.parent / "tokenizer_config.json": json.dumps(tokenizer, indent=2) + "\n",
    }
    vocabulary_copy = dump.parent / "vocab.txt"
    if not (vocabulary_copy.exists() and vocabulary_copy.samefile(vocabulary_path)):
        texts[vocabulary_copy] = vocabulary_path.read_text(encoding="utf-8")
    check_outputs(texts, dump, args.force)
    check_writable(dump.parent)
    state = read_weights(reader, weights, prefix)
    write_outputs(state, texts, dump)
    parameters = sum(tensor.numel() for tensor in state.values())
    print(
        f"{len(everything)} variables: {len(state)} written ({parameters:,} parameters, "
        f"{dump.stat().st_size / 1e6:.1f} MB; heads: {', '.join(heads) or 'none'}), "
        f"{len(everything) - len(trained)} of the optimizer left out -> {dump}"
    )
    if squad:
        print(f"a head for SQuAD's questions left out ({', '.join(squad)}): the model begins with a fresh classifier")
    if rows:
        print(f"{rows} rows of embeddings kept for {len(vocabulary)} word pieces: the table was padded")
    if repeated := len(vocabulary) - len({*vocabulary}):
        print(f"{vocabulary_path}: {repeated} lines repeat a word piece; the last one of each is used")
