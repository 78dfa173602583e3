"""Bad input gets one line that says what is wrong, where, and what to do; exit code 2; nothing half-written."""

import importlib
import io
import json
import os
import pickle
import re
import shutil
import sys
from functools import partial

import pytest
import torch
from conftest import VOCABULARY, small_bert, write_agnews, write_mrpc
from safetensors import safe_open
from safetensors.numpy import save
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification

from pruner.data.encode import encode_words
from pruner.data.task import TASKS
from pruner.data.tokenizer import load_tokenizer
from pruner.data.vocabulary import Vocabulary, write_words
from pruner.models.pretrained import load_model, weights_fingerprint
from pruner.training.trainer import PruningTrainer
from pruner.utils.folders import SUMS, write_sums

PREPARE, RUN = "PrepareGlue4Bert", "RunBert4Glue"
LSTM_PREPARE, LSTM_RUN = "PrepareGlue4Lstm", "RunLstm4Glue"
MEASURE, RANDOM = "pruner.measure", ("--random", "2x64", "--lengths", "8")
REPORT = "pruner.report"
NEWS_PREPARE, NEWS_RUN = "PrepareAgnews4Lstm", "RunLstm4Agnews"
SCHEDULE = ("--schedule", "0.6,0,0,0,0,0")
BUDGET = ("--target-flops-reduction", "2")
HEADER = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"


def remove(*names):
    def change(root):
        for name in names:
            path = root / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def write(name, content):
    def change(root):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def move(source, target):
    def change(root):
        os.replace(root / source, root / target)

    return change


def edit_config(**changes):
    def change(root):
        path = root / "bert" / "config.json"
        config = json.loads(path.read_text(encoding="utf-8")) | changes
        path.write_text(
            json.dumps({key: value for key, value in config.items() if value is not None}), encoding="utf-8"
        )

    return change


def cut(name, share):
    def change(root):
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: int(len(data) * share)])

    return change


def folder(name):
    def change(root):
        (root / name).unlink()
        (root / name).mkdir()

    return change


def link_to_nowhere(name):
    def change(root):
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to("nowhere")

    return change


def pipe(name):
    """A pipe in place of a file: whoever opens it waits for a writer."""

    def change(root):
        (root / name).unlink(missing_ok=True)
        os.mkfifo(root / name)

    return change


def edit_cache(name, **numbers):
    """Other numbers in the arrays of a cache's development set."""

    def change(root):
        with safe_open(root / name, framework="numpy") as file:
            arrays, header = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
        for part, number in numbers.items():
            arrays[f"dev.{part}"][-1] = number
        (root / name).write_bytes(save(arrays, metadata=header))

    return change


def tokenizer_file(**changes):
    """tokenizer.json in place of vocab.txt, with some ids or its whole model changed."""

    def change(root):
        (root / "bert" / "vocab.txt").unlink()
        vocabulary = {piece: index for index, piece in enumerate(VOCABULARY)} | changes.pop("ids", {})
        write("bert/tokenizer.json", json.dumps({"model": {"vocab": vocabulary}} | changes))(root)

    return change


def whole_numbers(root):
    path = root / "bert" / "model.safetensors"
    save_file({name: weight.to(torch.int8) for name, weight in load_file(path).items()}, path)


def sharded(shard):
    def change(root):
        remove("bert/model.safetensors")(root)
        write("bert/model.safetensors.index.json", index_of(shard))(root)

    return change


def index_of(shard):
    return json.dumps({"metadata": {}, "weight_map": {"embeddings.LayerNorm.bias": shard}})


def other_vocabulary(root):
    words = [*VOCABULARY[:5], *reversed(VOCABULARY[5:])]
    (root / "bert" / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")


def nothing(root):
    pass


def mkdir(name):
    return lambda root: (root / name).mkdir()


TABLE = ("--text", "review", "--label", "stars", "--table")
PIPES = [
    ("data/MRPC/test.tsv", (PREPARE, ())),
    *((f"bert/{name}", (PREPARE, ())) for name in ("config.json", "tokenizer_config.json", "vocab.txt", "tokenizer.json", "added_tokens.json")),
    *((f"reviews.{kind}", (LSTM_PREPARE, (*TABLE, f"reviews.{kind}"))) for kind in ("tsv", "csv", "jsonl", "parquet")),
    ("cache/bert/mrpc.safetensors", (RUN, (*SCHEDULE, "--tasks", "mrpc"))),
    ("cache/bert/own.safetensors", (RUN, (*SCHEDULE, "--tasks", "own"))),
    ("cache/lstm/mrpc.txt", (LSTM_RUN, ())),
    ("glove.txt", (LSTM_RUN, ("--vectors", "glove.txt"))),
]  # fmt: skip

# id: (what is changed, script, arguments, what the line must hold)
CASES = {
    "no data": (remove("data"), PREPARE, (), ["data: none of the GLUE tasks is there", "gluebenchmark.com", "--download"]),
    "name of data too long": (nothing, PREPARE, ("--data", "x" * 300), ["none of the GLUE tasks is there"]),
    "name of cache too long": (nothing, PREPARE, ("--cache", "x" * 300), ["cannot be written"]),
    "agnews: name of data too long": (nothing, NEWS_PREPARE, ("--data", "x" * 300), ["no such folder"]),
    "agnews: name of data too long to download": (nothing, NEWS_PREPARE, ("--download", "--agnews-address", "nowhere", "--data", "x" * 300), ["cannot be written"]),
    "no task folder": (nothing, PREPARE, ("--tasks", "rte"), ["data/RTE: no such folder", "--download"]),
    "no dev file": (remove("data/MRPC/dev.tsv"), PREPARE, ("--tasks", "mrpc"), ["data/MRPC: no dev.tsv"]),
    "short row": (write("data/MRPC/dev.tsv", HEADER + "1\t2\n"), PREPARE, (), ["data/MRPC/dev.tsv:2: 2 columns instead of 5", "--skip-bad-rows"]),
    "unknown label": (write("data/MRPC/dev.tsv", HEADER + "2\t1\t1\ta\tb\n"), PREPARE, (), ["data/MRPC/dev.tsv:2: unknown label '2'"]),
    "foreign header": (write("data/MRPC/dev.tsv", "a\tb\n1\t2\n"), PREPARE, (), ["data/MRPC/dev.tsv:1: no column '#1 String'"]),
    "empty file": (write("data/MRPC/train.tsv", ""), PREPARE, (), ["data/MRPC/train.tsv: no rows"]),
    "not UTF-8": (write("data/MRPC/train.tsv", b"Quality\t\xff\n"), PREPARE, (), ["data/MRPC/train.tsv:1: not UTF-8"]),
    "NUL byte": (write("data/MRPC/train.tsv", HEADER + "1\t1\t2\ta\0\tb\n"), PREPARE, (), ["data/MRPC/train.tsv:2: a NUL byte"]),
    "line without end": (write("data/MRPC/train.tsv", HEADER + "1\t1\t2\t" + "a " * 600_000), PREPARE, ("--skip-bad-rows",), ["data/MRPC/train.tsv:2: a line of more than"]),
    "folder for a file": (folder("data/MRPC/train.tsv"), PREPARE, ("--tasks", "mrpc"), ["data/MRPC: no train.tsv"]),
    "lstm: NUL byte": (write("data/MRPC/dev.tsv", HEADER + "1\t1\t2\ta\0\tb\n"), LSTM_PREPARE, (), ["data/MRPC/dev.tsv:2: a NUL byte"]),
    "agnews: NUL byte": (write("data/ag_news_csv/train.csv", '"1","a\0","b"\n'), NEWS_PREPARE, (), ["train.csv:1: a NUL byte"]),
    "agnews: folder for a file": (folder("data/ag_news_csv/train.csv"), NEWS_PREPARE, (), ["data/ag_news_csv: no train.csv"]),
    **{f"a pipe for {name}": (pipe(name), *script, [f"{name}: a pipe, socket or device, not a file; put the file"]) for name, script in PIPES},
    "a pipe for the data": (pipe("data/MRPC/dev.tsv"), PREPARE, ("--tasks", "mrpc"), ["data/MRPC: no dev.tsv"]),
    "agnews: a pipe for the data": (pipe("data/ag_news_csv/test.csv"), NEWS_PREPARE, (), ["data/ag_news_csv: no test.csv"]),
    "folder for the test file": (mkdir("data/MRPC/test.tsv"), PREPARE, (), ["data/MRPC/test.tsv: cannot be read (Is a directory)"]),
    "folder for the vectors": (mkdir("glove.txt"), LSTM_RUN, ("--vectors", "glove.txt"), ["glove.txt: cannot be read (Is a directory)"]),
    "a pipe for the weights": (pipe("bert/model.safetensors"), RUN, SCHEDULE, ["bert: no weights"]),
    "unknown task": (nothing, PREPARE, ("--tasks", "mrcp"), ["--tasks (tasks): unknown task 'mrcp'; did you mean mrpc? choose from"]),
    "unknown flag": (nothing, PREPARE, ("--taks", "mrpc"), ["--taks", "did you mean --tasks?", "--help"]),
    "bad number": (nothing, PREPARE, ("--max-length", "many"), ["--max-length (max_length): 'many' is not a whole number"]),
    "no room": (nothing, PREPARE, ("--max-length", "2"), ["(max_length): 2"]),
    "tokens without end": (remove("bert/config.json"), PREPARE, ("--max-length", f"1{'0' * 30}"), [f"(max_length): 1{'0' * 30} is out of range; use a whole number from 4 to 2147483647"]),
    "lstm: words without end": (nothing, LSTM_PREPARE, ("--max-length", "2147483648"), ["(max_length): 2147483648 is out of range; use a whole number from 1"]),
    "lstm: vocabulary without end": (nothing, LSTM_PREPARE, ("--vocabulary-size", "9" * 30), ["(vocabulary_size): 999", "use a whole number from 3 to"]),
    "agnews: words without end": (nothing, NEWS_PREPARE, ("--max-length", "9" * 30), ["(max_length): 999", "use a whole number from 1 to"]),
    "a number of too many digits": (nothing, PREPARE, ("--max-length", "9" * 5000), ["(max_length): '999", "is not a whole number"]),
    "too long": (nothing, PREPARE, ("--max-length", "200"), ["(max_length): 200", "bert/config.json has 128 positions"]),
    "fewer positions": (edit_config(max_position_embeddings=64), RUN, SCHEDULE, ["(max_length): 128", "64 positions"]),
    "diverging": (nothing, RUN, (*SCHEDULE, "--learning-rate", "1e30", "--batch-size", "2"), ["training: the loss is", "learning_rate"]),
    "no bert": (remove("bert"), PREPARE, (), ["bert: no such folder", "--bert"]),
    "no bert at a path": (nothing, PREPARE, ("--bert", "./nowhere"), ["./nowhere: no such folder"]),
    "no vocabulary": (remove("bert/vocab.txt"), PREPARE, (), ["bert: no vocab.txt"]),
    "vocabulary of another model": (write("bert/vocab.txt", "<s>\n</s>\n"), PREPARE, (), ["bert: no [PAD] in the vocabulary"]),
    "vocabulary not UTF-8": (write("bert/vocab.txt", b"\xff\xfe"), PREPARE, (), ["bert/vocab.txt:1: not UTF-8"]),
    "vocabulary too large": (edit_config(vocab_size=9), PREPARE, (), [f"{len(VOCABULARY)} word pieces", "9"]),
    "tokenizer config not JSON": (write("bert/tokenizer_config.json", "{"), PREPARE, (), ["bert/tokenizer_config.json: not JSON"]),
    "cache is a file": (write("other", "x"), PREPARE, ("--cache", "other"), ["other", "cannot be written"]),
    "nothing prepared": (remove("cache"), RUN, SCHEDULE, ["cache/bert: no prepared tasks", "PrepareGlue4Bert.py"]),
    "task not prepared": (nothing, RUN, (*SCHEDULE, "--tasks", "rte"), ["rte.safetensors: no such file", "PrepareGlue4Bert.py"]),
    "cache cut short": (cut("cache/bert/mrpc.safetensors", 0.7), RUN, SCHEDULE, ["mrpc.safetensors: cut short or not a cache"]),
    "cache is a pickle": (write("cache/bert/mrpc.safetensors", b"\x80\x04N."), RUN, SCHEDULE, ["mrpc.safetensors: cut short or not a cache"]),
    "cache: tokens outside the vocabulary": (edit_cache("cache/bert/mrpc.safetensors", tokens=30_000), RUN, SCHEDULE, ["mrpc.safetensors: cut short or not a cache (dev: tokens outside", "again"]),
    "cache: offsets beyond the end": (edit_cache("cache/bert/mrpc.safetensors", offsets=10**9), RUN, SCHEDULE, ["mrpc.safetensors: cut short or not a cache (dev: offsets"]),
    "cache: second outside its sentence": (edit_cache("cache/bert/mrpc.safetensors", second=99), RUN, SCHEDULE, ["mrpc.safetensors: cut short or not a cache (dev: a second segment"]),
    "cache: unknown class": (edit_cache("cache/bert/mrpc.safetensors", labels=2), RUN, SCHEDULE, ["mrpc.safetensors: cut short or not a cache (dev: labels outside"]),
    "lstm: unknown class": (edit_cache("cache/lstm/mrpc.safetensors", labels=-1), LSTM_RUN, (), ["mrpc.safetensors: cut short or not a cache (dev: labels outside"]),
    "lstm: tokens outside the vocabulary": (edit_cache("cache/lstm/mrpc.safetensors", tokens=4), LSTM_RUN, (), ["mrpc.safetensors: cut short or not a cache (dev: tokens outside"]),
    "other vocabulary": (other_vocabulary, RUN, SCHEDULE, ["mrpc.safetensors: made with another vocabulary", "again"]),
    "schedule too short": (nothing, RUN, ("--schedule", "0.6,0"), ["(pruning_schedule): 2 rates for a model of 6 layers", "0.6,0,0,0,0,0"]),
    "default schedule": (nothing, RUN, (), ["(pruning_schedule): 12 rates for a model of 6 layers"]),
    "rate of 1": (nothing, RUN, ("--schedule", "0,1,0,0,0,0"), ["(pruning_schedule): rate 1.0 at layer 1", "below 1"]),
    "negative rate": (nothing, RUN, ("--schedule=-0.1,0,0,0,0,0",), ["(pruning_schedule): rate -0.1 at layer 0"]),
    "rate not a number": (nothing, RUN, ("--schedule", "0,0,lots,0,0,0"), ["(pruning_schedule): 0,0,lots,0,0,0: 'lots' is not a number"]),
    "rate nan": (nothing, RUN, ("--schedule", "0,0,nan,0,0,0"), ["(pruning_schedule): rate nan at layer 2"]),
    "unknown method": (nothing, RUN, (*SCHEDULE, "--methods", "magic"), ["(pruning_methods): unknown method 'magic'; choose from student", "emission"]),
    "too many methods": (nothing, RUN, (*SCHEDULE, "--methods", "head+tail"), ["(pruning_methods): 'head+tail' names 2", "1 layers"]),
    "unknown teacher": (nothing, RUN, (*SCHEDULE, "--teacher", "random"), ["(teacher): unknown teacher 'random'"]),
    "unknown count": (nothing, RUN, (*SCHEDULE, "--count", "all"), ["(count): unknown value 'all'"]),
    "unknown task to run": (nothing, RUN, (*SCHEDULE, "--tasks", "sst2"), ["(tasks): unknown task 'sst2'; did you mean sst-2?"]),
    "unknown flag to run": (nothing, RUN, ("--epoch", "1"), ["--epoch", "did you mean --epochs?", "--help"]),
    "no rows": (nothing, RUN, (*SCHEDULE, "--max-train-rows", "0"), ["(max_train_rows): 0"]),
    "no epochs": (nothing, RUN, (*SCHEDULE, "--epochs", "0"), ["--epochs (epochs): 0.0 is out of range"]),
    "rate nan to learn": (nothing, RUN, (*SCHEDULE, "--learning-rate", "nan"), ["(learning_rate): nan"]),
    "odd accumulation": (nothing, RUN, (*SCHEDULE, "--accumulation-steps", "5"), ["(accumulation_steps): 5", "32"]),
    "seed": (nothing, RUN, (*SCHEDULE, "--seeds", "1,x"), ["seeds", "x"]),
    "no config": (remove("bert/config.json"), RUN, SCHEDULE, ["bert: no config.json"]),
    "config not JSON": (write("bert/config.json", "{"), RUN, SCHEDULE, ["bert/config.json: not JSON"]),
    "config lacks layers": (edit_config(num_hidden_layers=None), RUN, SCHEDULE, ["bert/config.json: no num_hidden_layers"]),
    "another kind of model": (edit_config(model_type="albert"), RUN, SCHEDULE, ["bert/config.json: an albert model"]),
    "config of words": (edit_config(hidden_size="32"), RUN, SCHEDULE, ['bert/config.json: hidden_size is "32", which is no size']),
    "config of no layers": (edit_config(num_hidden_layers=0), RUN, SCHEDULE, ["bert/config.json: num_hidden_layers is 0"]),
    "config of layers without end": (edit_config(num_hidden_layers=10**9), RUN, SCHEDULE, ["bert: the weights cannot be loaded", "by config.json"]),
    "config of odd heads": (edit_config(num_attention_heads=5), RUN, SCHEDULE, ["hidden_size 32 cannot be divided among num_attention_heads 5"]),
    "config of another activation": (edit_config(hidden_act="magic"), RUN, SCHEDULE, ['bert/config.json: hidden_act is "magic"', "gelu"]),
    "config of no number": (edit_config(layer_norm_eps=float("nan")), RUN, SCHEDULE, ["bert/config.json: layer_norm_eps is NaN, not a number from 0 to 1"]),
    "config of odd padding": (edit_config(pad_token_id=-1), RUN, SCHEDULE, ["bert/config.json: pad_token_id is -1"]),
    "config without end": (write("bert/config.json", "[" * 99_999), RUN, SCHEDULE, ["bert/config.json: not JSON"]),
    "config is nowhere": (link_to_nowhere("bert/config.json"), RUN, SCHEDULE, ["bert/config.json: cannot be read"]),
    "positions of words": (edit_config(max_position_embeddings="many"), PREPARE, (), ['bert/config.json: max_position_embeddings is "many"']),
    "casing of words": (write("bert/tokenizer_config.json", '{"do_lower_case": "False"}'), PREPARE, (), ['do_lower_case is "False"; use true, false or null']),
    "vocabulary is nowhere": (link_to_nowhere("bert/vocab.txt"), PREPARE, (), ["bert/vocab.txt: cannot be read"]),
    "tokenizer is a list": (tokenizer_file(model=[]), PREPARE, (), ["bert: the tokenizer cannot be loaded"]),
    "tokenizer's ids are words": (tokenizer_file(ids={"film": "5"}), PREPARE, (), ["bert: the tokenizer cannot be loaded"]),
    "tokenizer's ids are no rows": (tokenizer_file(ids={"film": -1}), PREPARE, (), ["bert: the tokenizer cannot be loaded"]),
    "tokenizer's piece is no text": (tokenizer_file(ids={"\ud800": 1}), PREPARE, (), ["bert: the tokenizer cannot be loaded"]),
    "weights are whole numbers": (whole_numbers, RUN, SCHEDULE, ["bert: the weights cannot be loaded", "I8"]),
    "weights with a huge header": (write("bert/model.safetensors", b"\0" * 7 + b"\x10" + b" " * 99_999), RUN, SCHEDULE, ["bert: the weights cannot be loaded"]),
    "weights elsewhere": (sharded("../data/MRPC/dev.tsv"), RUN, SCHEDULE, ['index.json: names "../data/MRPC/dev.tsv", no file of the folder']),
    "weights with a shard missing": (sharded("shard.safetensors"), RUN, SCHEDULE, ['index.json: names "shard.safetensors", no file of the folder']),
    "no weights": (remove("bert/model.safetensors"), RUN, SCHEDULE, ["bert: no weights"]),
    "weights cut short": (cut("bert/model.safetensors", 0.5), RUN, SCHEDULE, ["bert: the weights cannot be loaded"]),
    "weights of fewer layers": (edit_config(num_hidden_layers=7), RUN, ("--schedule", "0.6,0,0,0,0,0,0"), ["bert: 16 weights of a BERT are not in the file"]),
    "weights of another shape": (edit_config(intermediate_size=48), RUN, SCHEDULE, ["is not of the shape that config.json says"]),
    "a record that is none": (write("records/BERT/mrpc/baseline_seed1/record.json", "[]"), RUN, SCHEDULE, ["baseline_seed1/record.json: not a record"]),
    "records cannot be written": (write("records", "x"), RUN, (*SCHEDULE, "--epochs", "0.1"), ["records/BERT: cannot be written"]),
    "lstm: unknown task to prepare": (nothing, LSTM_PREPARE, ("--tasks", "mprc"), ["unknown task 'mprc'"]),
    "lstm: scores to prepare": (nothing, LSTM_PREPARE, ("--tasks", "sts-b"), ["sts-b has scores, not classes"]),
    "lstm: nothing to prepare": (remove("data"), LSTM_PREPARE, (), ["data: none of the GLUE tasks", "--download"]),
    "lstm: tiny vocabulary": (nothing, LSTM_PREPARE, ("--vocabulary-size", "2"), ["(vocabulary_size): 2"]),
    "lstm: no length": (nothing, LSTM_PREPARE, ("--max-length", "0"), ["(max_length): 0"]),
    "lstm: bad row": (write("data/MRPC/dev.tsv", HEADER + "1\t1\t2\tgood\n"), LSTM_PREPARE, (), ["data/MRPC/dev.tsv:2: 4 columns instead of 5"]),
    "agnews: no folder": (remove("data/ag_news_csv"), NEWS_PREPARE, (), ["data/ag_news_csv: no such folder", "--download"]),
    "agnews: no test": (remove("data/ag_news_csv/test.csv"), NEWS_PREPARE, (), ["data/ag_news_csv: no test.csv"]),
    "agnews: empty": (write("data/ag_news_csv/train.csv", ""), NEWS_PREPARE, (), ["train.csv: no rows"]),
    "agnews: class": (write("data/ag_news_csv/test.csv", '"1","a","b"\n"5","a","b"\n'), NEWS_PREPARE, (), ["test.csv:2: unknown class '5' (expected 1, 2, 3, 4)", "--skip-bad-rows"]),
    "agnews: width": (write("data/ag_news_csv/test.csv", '"1","a"\n'), NEWS_PREPARE, (), ["test.csv:1: 2 columns instead of 3"]),
    "agnews: quotes": (write("data/ag_news_csv/test.csv", '"1","a","b\n'), NEWS_PREPARE, (), ["test.csv:1: not a row of CSV"]),
    "agnews: not UTF-8": (write("data/ag_news_csv/test.csv", b'"1","a","\xff"\n'), NEWS_PREPARE, (), ["test.csv:1: not UTF-8"]),
    "agnews: column": (nothing, NEWS_PREPARE, ("--columns", "body"), ["(columns): unknown value 'body'", "description"]),
    "agnews: cache is a file": (write("other", "x"), NEWS_PREPARE, ("--cache", "other"), ["other", "cannot be written"]),
    "lstm: nothing prepared": (remove("cache"), LSTM_RUN, (), ["cache/lstm: no prepared tasks", "PrepareGlue4Lstm.py"]),
    "lstm: task not prepared": (nothing, LSTM_RUN, ("--tasks", "qnli"), ["cache/lstm/qnli.txt: no such file", "PrepareGlue4Lstm.py"]),
    "lstm: unknown task": (nothing, LSTM_RUN, ("--tasks", "sts-b"), ["unknown task 'sts-b'"]),
    "lstm: cache cut short": (cut("cache/lstm/mrpc.safetensors", 0.7), LSTM_RUN, (), ["mrpc.safetensors: cut short or not a cache"]),
    "lstm: BERT's cache": (move("cache/bert/mrpc.safetensors", "cache/lstm/mrpc.safetensors"), LSTM_RUN, (), ["mrpc.safetensors: holds bert data of mrpc, not lstm mrpc"]),
    "lstm: other vocabulary": (write("cache/lstm/mrpc.txt", "film\n"), LSTM_RUN, (), ["mrpc.safetensors: made with another vocabulary"]),
    "lstm: vocabulary not UTF-8": (write("cache/lstm/mrpc.txt", b"\xff\n"), LSTM_RUN, (), ["cache/lstm/mrpc.txt:1: not UTF-8"]),
    "lstm: rate of 1": (nothing, LSTM_RUN, ("--target-prune-rate", "1"), ["(target_prune_rate): rate 1.0 is out of range"]),
    "lstm: rate of 0": (nothing, LSTM_RUN, ("--target-prune-rate", "0.5,0"), ["(target_prune_rate): a rate of 0 is the baseline"]),
    "lstm: rate not a number": (nothing, LSTM_RUN, ("--target-prune-rate", "most"), ["(target_prune_rate): 'most' is not a number"]),
    "lstm: rate nan": (nothing, LSTM_RUN, ("--target-prune-rate", "nan"), ["(target_prune_rate): rate nan is out of range"]),
    "lstm: ramp above target": (nothing, LSTM_RUN, ("--pruning-rate-start", "0.95"), ["(pruning_rate_start): 0.95 is above target_prune_rate 0.9"]),
    "lstm: ramp below 0": (nothing, LSTM_RUN, ("--pruning-rate-start", "-1"), ["(pruning_rate_start): rate -1.0 is out of range"]),
    "lstm: unknown method": (nothing, LSTM_RUN, ("--methods", "emission"), ["(pruning_methods): unknown method 'emission'", "gate"]),
    "lstm: unknown count": (nothing, LSTM_RUN, ("--count", "all"), ["(count): unknown value 'all'"]),
    "lstm: no width": (nothing, LSTM_RUN, ("--hidden-size", "0"), ["(hidden_size): 0"]),
    "lstm: student width": (nothing, LSTM_RUN, ("--student-widths", "64,x"), ["(student_widths): 64,x: 'x' is not a whole number"]),
    "lstm: clip": (nothing, LSTM_RUN, ("--clip", "0"), ["(clip): 0.0 is out of range"]),
    "lstm: odd accumulation": (nothing, LSTM_RUN, ("--accumulation-steps", "5"), ["(accumulation_steps): 5", "64"]),
    "lstm: seed": (nothing, LSTM_RUN, ("--seeds", "one"), ["seeds", "one"]),
    "lstm: no vectors": (nothing, LSTM_RUN, ("--vectors", "glove.txt"), ["glove.txt: no such file"]),
    "lstm: vectors of another width": (write("glove.txt", "film 1 2\n"), LSTM_RUN, ("--vectors", "glove.txt"), ["glove.txt:1: 2 numbers", "embedding_size"]),
    "lstm: a record that is none": (write("records/LSTM/mrpc/baseline_seed1/record.json", "[]"), LSTM_RUN, (), ["baseline_seed1/record.json: not a record"]),
    "lstm: records cannot be written": (write("records", "x"), LSTM_RUN, (), ["records/LSTM: cannot be written"]),
    "bert: student width": (nothing, RUN, (*SCHEDULE, "--student-widths", "wide"), ["(student_widths): 'wide' is not a whole number"]),
    "budget: none": (nothing, RUN, ("--target-flops-reduction", "1"), ["(target_flops_reduction): 1.0 is out of range; use a number above 1"]),
    "budget: a word": (nothing, RUN, ("--target-flops-reduction", "2,fast"), ["(target_flops_reduction): 2,fast: 'fast' is not a number"]),
    "budget: not a number": (nothing, RUN, ("--target-flops-reduction", "nan"), ["(target_flops_reduction): nan is out of range"]),
    "budget: out of reach": (nothing, RUN, (*BUDGET[:1], "5"), ["(search_reach): 4 is too small"]),
    "budget: cannot be met": (nothing, RUN, (*BUDGET[:1], "900", "--search-reach", "999", "--budget-schedule", "uniform", "--methods", "random"), ["(target_flops_reduction): 900 cannot be met"]),
    "budget: unknown way": (nothing, RUN, (*BUDGET, "--budget-schedule", "magic"), ["(budget_schedule): unknown value 'magic'", "learned"]),
    "budget: and a penalty": (nothing, RUN, (*BUDGET, "--search-penalty", "0.1"), ["(search_penalty): a budget is given too"]),
    "budget: two methods": (nothing, RUN, (*BUDGET, "--methods", "student+random"), ["(pruning_methods): 'student+random' is for a given"]),
    "budget: teachers": (nothing, RUN, (*BUDGET, "--methods", "emission,gradient"), ["(pruning_methods): none of them can meet a budget"]),
    "budget: other start": (nothing, RUN, (*BUDGET, "--start", "pretrained"), ["(start): learned schedules need 'sampled', not 'pretrained'"]),
    "bert: unknown start": (nothing, RUN, (*SCHEDULE, "--start", "scratch"), ["(start): unknown value 'scratch'"]),
    "bert: teacher on sampled schedules": (nothing, RUN, (*SCHEDULE, "--start", "sampled", "--methods", "emission"), ["(pruning_methods): 'emission' cannot be trained with sampled"]),
    "bert: negative penalty": (nothing, RUN, ("--search-penalty", "-1"), ["(search_penalty): -1.0"]),
    "bert: large penalty": (nothing, RUN, ("--search-penalty", "1e30"), ["(search_penalty): 1e+30 is out of range; use 0 to 1e+06"]),
    "bert: unknown dtype": (nothing, RUN, (*SCHEDULE, "--train-dtype", "int8"), ["(train_dtype): unknown value 'int8'"]),
    "bert: huge penalty": (nothing, RUN, ("--search-penalty", "1e308"), ["(search_penalty): 1e+308 is out of range; use a number of 3.4e+38 at most"]),
    "bert: huge rate to learn": (nothing, RUN, (*SCHEDULE, "--learning-rate=1e39"), ["(learning_rate): 1e+39 is out of range"]),
    "lstm: huge clip": (nothing, LSTM_RUN, ("--clip", "1e300"), ["(clip): 1e+300 is out of range"]),
    "measure: huge rate": (nothing, MEASURE, (*RANDOM, "--schedule=-1e300"), ["(pruning_schedule): -1e+300", "is out of range"]),
    "bert: endless penalty": (nothing, RUN, ("--search-penalty", "inf"), ["(search_penalty): inf"]),
    "bert: endless reach": (nothing, RUN, (*SCHEDULE, "--search-reach", "1e999"), ["(search_reach): inf is out of range"]),
    "lstm: width without end": (nothing, LSTM_RUN, ("--hidden-size", "9" * 20), ["(hidden_size): 999", "is out of range; use a whole number from 1 to 10000"]),
    "lstm: no rate": (nothing, LSTM_RUN, ("--target-prune-rate", "", "--pruning-rate-start", "0"), ["(target_prune_rate): the list is empty"]),
    "measure: no model": (nothing, MEASURE, ("--lengths", "8"), ["weights, random: give one of them"]),
    "measure: two models": (nothing, MEASURE, ("--weights", "bert", *RANDOM), ["weights, random: give one of them"]),
    "measure: no sentences": (nothing, MEASURE, ("--weights", "bert"), ["task, lengths: give one of them"]),
    "measure: words for random weights": (nothing, MEASURE, ("--random", "2x64", "--task", "mrpc"), ["(task): random weights have no vocabulary"]),
    "measure: unknown task": (nothing, MEASURE, ("--weights", "bert", "--task", "mrcp"), ["(task): unknown task 'mrcp'"]),
    "measure: not prepared": (nothing, MEASURE, ("--weights", "bert", "--task", "rte"), ["cache/bert/rte.safetensors", "PrepareGlue4Bert.py"]),
    "measure: no weights": (remove("bert/model.safetensors"), MEASURE, ("--weights", "bert", "--lengths", "8"), ["bert: no weights"]),
    "measure: odd sizes": (nothing, MEASURE, ("--random", "2x65", "--lengths", "8"), ["(random): '2x65' is not LAYERSxWIDTH"]),
    "measure: no sizes": (nothing, MEASURE, ("--random", "large", "--lengths", "8"), ["(random): 'large' is not LAYERSxWIDTH"]),
    "measure: lengths backwards": (nothing, MEASURE, ("--random", "2x64", "--lengths", "9-8"), ["(lengths): '9-8'"]),
    "measure: lengths too long": (nothing, MEASURE, ("--random", "2x64", "--lengths", "8-513"), ["(lengths): '8-513'", "512"]),
    "measure: lengths as words": (nothing, MEASURE, ("--random", "2x64", "--lengths", "long"), ["(lengths): 'long'"]),
    "measure: unknown method": (nothing, MEASURE, (*RANDOM, "--methods", "gate"), ["--methods (pruning_methods): unknown method 'gate'"]),
    "measure: rate of 1": (nothing, MEASURE, (*RANDOM, "--schedule", "1"), ["(pruning_schedule): rate 1.0 at layer 0 is out of range"]),
    "measure: schedule too short": (nothing, MEASURE, (*RANDOM, "--schedule", "0.2,0,0"), ["(pruning_schedule): 3 rates for a model of 2 layers"]),
    "measure: empty batches": (nothing, MEASURE, (*RANDOM, "--batch-sizes", "0"), ["(batch_sizes): 0 is out of range"]),
    "measure: unknown dtype": (nothing, MEASURE, (*RANDOM, "--dtypes", "int8"), ["(dtypes): unknown value 'int8'"]),
    "measure: unknown device": (nothing, MEASURE, (*RANDOM, "--device", "tpu"), ["(device): 'tpu' is neither cpu nor cuda"]),
    "measure: no device": (nothing, MEASURE, (*RANDOM, "--device", "cpu:x"), ["(device): 'cpu:x' is neither cpu nor cuda"]),
    "measure: no such GPU": (nothing, MEASURE, (*RANDOM, "--device", "cuda:99"), ["(device): PyTorch sees", "--device cpu"]),
    "measure: sizes without end": (nothing, MEASURE, ("--random", "99999x64000", "--lengths", "8"), ["(random): '99999x64000' has more than"]),
    "measure: batches without end": (nothing, MEASURE, (*RANDOM, "--batch-sizes", "9" * 20), ["(batch_sizes): 999", "from 1 to"]),
    "measure: empty lists": (nothing, MEASURE, (*RANDOM, "--methods", ""), ["(pruning_methods): the list is empty"]),
    "measure: task of no name": (nothing, MEASURE, ("--weights", "bert", "--task="), ["task, lengths: give one of them"]),
    "measure: no repeats": (nothing, MEASURE, (*RANDOM, "--repeats", "0"), ["(repeats): 0"]),
    "measure: no place": (write("records", "x"), MEASURE, (*RANDOM, "--repeats", "1"), ["records/speed: cannot be written"]),
    "flags: seed below 0": (nothing, RUN, (*SCHEDULE, "--seeds", "-1"), ["(seeds): -1 is out of range"]),
    "flags: no seed": (nothing, LSTM_RUN, ("--seeds", ""), ["(seeds): the list is empty"]),
    "flags: endless epochs": (nothing, RUN, (*SCHEDULE, "--epochs", "1e300"), ["(epochs): 1e+300"]),
    "flags: endless batches": (nothing, LSTM_RUN, ("--batch-size", "99999999999"), ["--batch-size (batch_size): 99999999999 is out of range"]),
    "flags: a part is empty": (nothing, RUN, ("--schedule", "0.6,,0,0,0,0"), ["--schedule", "0.6,,0,0,0,0: a part is empty"]),
    "flags: endless width": (nothing, RUN, (*SCHEDULE, "--student-widths", "99999999"), ["(student_widths): 99999999 is out of range"]),
    "models cannot be written": (write("models", "x"), RUN, (*SCHEDULE, "--save-models", "models"), ["models: cannot be written"]),
    "agnews: nothing prepared": (remove("cache"), NEWS_RUN, (), ["cache/lstm: no prepared tasks", "PrepareAgnews4Lstm.py"]),
    "report: nothing to report": (nothing, REPORT, (), ["records: no such folder", "--records"]),
    "report: a file for a folder": (write("other", "x"), REPORT, ("--records", "other"), ["other: no such folder"]),
    "report: nothing whole": (write("records/BERT/mrpc/run/record.json", "{"), REPORT, (), ["records: no records in it", "BERT/mrpc/run/record.json", "RunBert4Glue.py"]),
    "report: unknown flag": (nothing, REPORT, ("--figure", "no"), ["--figure", "did you mean --figures?", "--help"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder in which the scripts would succeed, but for RunLstm4Agnews.py."""
    root = tmp_path_factory.mktemp("prepared")
    rows = {split: TASKS["mrpc"].read(write_mrpc(root / "data"), split) for split in ("train", "dev")}
    words = Vocabulary(("film", "good"))
    splits = {split: encode_words(each, words, 128) for split, each in rows.items()}
    write_words(root / "cache" / "lstm", TASKS["mrpc"], splits, words, 128)
    write_agnews(root / "data")
    small_bert(root / "bert")
    before = os.getcwd()
    os.chdir(root)
    sys.argv = ["PrepareGlue4Bert.py"]
    try:
        __import__(PREPARE).main()
    finally:
        os.chdir(before)
    assert load_tokenizer(root / "bert", 128).size == len(VOCABULARY)
    return root


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_nothing_left(run, prepared, tmp_path, name):
    change, script, arguments, expected = CASES[name]
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    change(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, _, err = run(script, *arguments)
    assert "%|" not in err or name == "diverging"  # no training has begun
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2
    assert len(lines) == 1
    assert "Traceback" not in err
    for part in expected:
        assert part in lines[0]
    if "Prepare" in script:
        assert re.search(r"; |: use |--help|choose from| is not a", lines[0]), "it says what to do"
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


STAGES = "cache/bert/stages/mrpc"
FINETUNED = (
    *SCHEDULE,
    "--tasks",
    "mrpc",
    "--start",
    "finetuned",
    "--methods",
    "head",
    "--epochs",
    "2",
    "--batch-size",
    "8",
    "--latency-repeats",
    "1",
)


@pytest.fixture(scope="module")
def interrupted(prepared, tmp_path_factory):
    """The same, and a run in it that was stopped in its second cell, with a finished step and a checkpoint."""
    root = tmp_path_factory.mktemp("interrupted")
    shutil.copytree(prepared, root, dirs_exist_ok=True)
    real, steps = PruningTrainer.training_step, []

    def stop(self, *args, **kwargs):
        steps.append(1)
        if len(steps) == 11:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(sys, "argv", [f"{RUN}.py", *FINETUNED])
        patch.setattr(PruningTrainer, "training_step", stop)
        with pytest.raises(KeyboardInterrupt):
            importlib.import_module(RUN).main()
    return root


def pickled_bomb(folder):
    """A pickle that makes the folder when it is loaded, as large as a model."""

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(folder),))

    return pickle.dumps(Bomb()) + bytes(300_000)


def zipped_bomb(folder):
    """The same in the form of torch.save."""

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(folder),))

    file = io.BytesIO()
    torch.save({"padding": torch.zeros(100_000), "bomb": Bomb()}, file)
    return file.getvalue()


def shard_of_torch(root):
    remove("bert/model.safetensors")(root)
    write("bert/pytorch_model.bin.index.json", index_of("shard.bin"))(root)


# What is changed first, the file that is replaced, what the line must hold; None where the run must end well.
BOMBS = [
    (remove("bert/model.safetensors"), "bert/pytorch_model.bin", "bert: the weights cannot be loaded"),
    (shard_of_torch, "bert/shard.bin", "bert: the weights cannot be loaded"),
    (nothing, "bert/model.safetensors", "bert: the weights cannot be loaded"),
    (sharded("shard.safetensors"), "bert/shard.safetensors", "bert: the weights cannot be loaded"),
    (nothing, "bert/vocab.txt", "bert/vocab.txt:1: not UTF-8"),
    (remove("bert/vocab.txt"), "bert/tokenizer.json", "bert/tokenizer.json: not JSON"),
    (nothing, "bert/config.json", "bert/config.json: not JSON"),
    (nothing, "bert/tokenizer_config.json", "bert/tokenizer_config.json: not JSON"),
    (nothing, "records/BERT/mrpc/baseline_seed1/record.json", "record.json: not a record"),
    (nothing, f"{STAGES}/baseline*/model.safetensors", "not a finished stage"),
    (nothing, f"{STAGES}/baseline*/stage.json", "not a finished stage"),
    (nothing, f"{STAGES}/head*/checkpoint-*/training_args.bin", None),
    (nothing, f"{STAGES}/head*/checkpoint-*/trainer_state.json", None),  # it was not written to its end: there is none
    *(
        (nothing, f"{STAGES}/head*/checkpoint-*/{name}", "cannot be resumed")
        for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")
    ),
]  # fmt: skip


@pytest.mark.parametrize("bomb", [pickled_bomb, zipped_bomb])
@pytest.mark.parametrize(("change", "name", "expected"), BOMBS)
def test_no_pickle_is_loaded(run, interrupted, tmp_path, change, name, expected, bomb):
    shutil.copytree(interrupted, tmp_path, dirs_exist_ok=True)
    if name.startswith("bert/"):
        remove("records")(tmp_path)  # they are of other weights
    change(tmp_path)
    (path,) = list(tmp_path.glob(name)) or [tmp_path / name]
    path.write_bytes(bomb(tmp_path / "exploded"))
    if (path.parent / SUMS).is_file():  # whoever makes such a file can count its sum too
        write_sums(path.parent)
    code, _, err = run(RUN, *FINETUNED)
    assert not (tmp_path / "exploded").exists()
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in err
    assert (code, len(lines)) == ((2, 1) if expected else (0, 0))
    if expected:
        assert expected in lines[0]


@pytest.mark.parametrize(("bomb", "load"), [(pickled_bomb, pickle.load), (zipped_bomb, partial(torch.load, weights_only=False))])  # fmt: skip
def test_the_pickles_would_do_harm(tmp_path, bomb, load):
    load(io.BytesIO(bomb(tmp_path / "exploded")))
    assert (tmp_path / "exploded").is_dir()


def test_nothing_else_of_a_config_is_asked_for(prepared, tmp_path):
    """Code of an attention on the hub, a quantisation, outputs that nobody reads."""
    shutil.copytree(prepared / "bert", tmp_path / "bert")
    more = {"attn_implementation": "someone/kernel", "_attn_implementation": "someone/kernel", "return_dict": False}
    more |= {
        "quantization_config": {"quant_method": "torchao"},
        "output_attentions": True,
        "chunk_size_feed_forward": 5,
    }
    more |= {"auto_map": {"AutoModel": "someone--code.Model"}, "problem_type": "magic", "pruning": 3, "self": 1}
    edit_config(**more)(tmp_path)
    model, stock = (
        load_model(BertForSequenceClassification, str(root / "bert"), TASKS["mrpc"]) for root in (tmp_path, prepared)
    )
    ours, theirs = ({**each.config.to_dict(), "_name_or_path": None} for each in (model, stock))
    assert ours == theirs
    assert model.config._attn_implementation == stock.config._attn_implementation


def test_the_fingerprint_of_shards_is_that_of_their_content(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    sharded("shard.safetensors")(tmp_path)
    found = []
    for content in ("one", "other"):
        write("bert/shard.safetensors", content)(tmp_path)
        found.append(weights_fingerprint(str(tmp_path / "bert")))
    assert found[0] != found[1]
