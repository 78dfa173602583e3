"""python -m pruner.measure, and what it measures."""

import json
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_bert, small_config, write_mrpc
from test_report import make, put, ticket
from transformers import BertForSequenceClassification

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.precision.int8 import Int8Linear
from pruner.compress.precision.linears import linears_of
from pruner.compress.structure.shrink import Structure, shrink
from pruner.data.cache import Split
from pruner.data.collate import BertCollator
from pruner.data.tokenizer import load_tokenizer
from pruner.evaluation import latency
from pruner.evaluation.latency import measure_latency
from pruner.measure import training
from pruner.measure.precisions import in_precision
from pruner.measure.speed import random_sentences
from pruner.models.packed_bert import PackedBert
from pruner.training.trainer import TrainSettings

MEASURE = "pruner.measure"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KEYS = "data method schedule batch_size dtype device repeats baseline_ms pruned_ms flops_reduction speedup efficiency"


def make_split(lengths) -> Split:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.random.default_rng(0).integers(5, 20, offsets[-1]).astype(np.int32)
    return Split(tokens, offsets, np.array(lengths, dtype=np.int32), None)


def test_a_table_and_a_file(run, tmp_path):
    arguments = ("--random", "3x64", "--lengths", "5-20", "--dtypes", "float32,bfloat16", "--batch-sizes", "4,8")
    code, out, _ = run(MEASURE, *arguments, "--schedule", "0.5", "0,0.2,0.9", "--repeats", "1", "--device", "cpu")
    assert code == 0
    result = json.loads(Path("records/speed/random-3x64_5-20_cpu.json").read_text("utf-8"))
    assert "-> records/speed/random-3x64_5-20_cpu.json" in out
    rows = result["rows"]
    # Unpruned once, the two methods with both schedules; for two dtypes and two batch sizes.
    assert len(rows) == 2 * 2 * (1 + 2 * 2)
    assert out.count("| bfloat16 | 5-20 | 4 ") == 5
    for row in rows:
        assert set(KEYS.split()) <= set(row)
        assert row["speedup"] == pytest.approx(row["baseline_ms"] / row["pruned_ms"], rel=0.01)
        assert row["efficiency"] == pytest.approx(row["speedup"] / row["flops_reduction"], rel=0.01)
    assert {tuple(row["schedule"]) for row in rows} == {(0, 0, 0), (0.5, 0.5, 0.5), (0, 0.2, 0.9)}
    for row in rows:
        assert row["flops_reduction"] == 1 if row["method"] == "none" else row["flops_reduction"] > 1.2
    assert {"cpu", "threads", "torch", "steady_allocator"} <= set(result["environment"])


def test_eight_bits_beside_floating_point(run, tmp_path, monkeypatch):
    arguments = ("--random", "2x64", "--lengths", "9", "--schedule", "0.5", "--repeats", "1", "--json", "times.json")
    code, _, err = run(MEASURE, *arguments, "--methods", "int8,tail", "--dtypes", "float32,bfloat16")
    assert code == 0, err
    rows = json.loads(Path("times.json").read_text("utf-8"))["rows"]
    assert [(row["method"], row["schedule"]) for row in rows] == [("int8", [0, 0]), ("tail", [0.5, 0.5])] * 2
    assert [row["flops_reduction"] == 1 for row in rows] == [True, False] * 2
    model = PrunedBertForSequenceClassification(small_config()).eval()
    rounded = in_precision(model, "int8", torch.bfloat16)
    assert [type(linear) for linear in linears_of(model)] == [torch.nn.Linear] * 36
    assert [type(linear) for linear in linears_of(rounded)] == [Int8Linear] * 36
    assert rounded.classifier.weight.dtype == torch.bfloat16
    monkeypatch.setitem(sys.modules, "torchao", None)
    code, _, err = run(MEASURE, *arguments, "--methods", "torchao-int8")
    assert (code, err.count("\n")) == (2, 1)
    assert "torchao-int8 needs torchao" in err


def test_a_prepared_task(run, tmp_path):
    small_bert(tmp_path / "bert")
    write_mrpc(tmp_path / "data")
    assert run("PrepareGlue4Bert", "--tasks", "mrpc")[0] == 0
    arguments = ("--weights", "bert", "--task", "mrpc", "--methods", "random,frequency", "--repeats", "1")
    code, *_ = run(MEASURE, *arguments, "--json", "here.json", "--batch-sizes", "7", "--device", "cpu")
    assert code == 0
    rows = json.loads(Path("here.json").read_text("utf-8"))["rows"]
    assert [row["method"] for row in rows] == ["random", "frequency"]
    assert [row["schedule"] for row in rows] == [[0.2] * 6] * 2


def test_kept_models_are_timed_against_the_dense_one(run, tmp_path):
    small_bert(tmp_path / "bert")
    dense = BertForSequenceClassification.from_pretrained(tmp_path / "bert")
    layers = Structure.of(dense.config).keep_layers([0, 1, 2])
    shrink(PrunedBertForSequenceClassification.from_unpruned(dense), layers).save_pretrained(tmp_path / "three")
    narrow = Structure.of(dense.config).mask(heads=torch.eye(6, 4).bool() | (torch.arange(4) == 0))
    model = shrink(PrunedBertForSequenceClassification.from_unpruned(dense), narrow)
    model.set_pruning([0.5] * 6, "tail").save_pretrained(tmp_path / "narrow")
    arguments = ("--weights", "bert", "--kept", "three,narrow", "--repeats", "1", "--device", "cpu")
    code, out, err = run(MEASURE, *arguments, "--lengths", "9", "--batch-sizes", "1,4", "--dtypes", "float32,bfloat16")
    assert code == 0, err
    assert "-> records/speed/bert_kept_9_cpu.json" in out
    rows = json.loads(Path("records/speed/bert_kept_9_cpu.json").read_text("utf-8"))["rows"]
    assert [(row["method"], row["batch_size"], row["dtype"]) for row in rows[:3]] == [
        ("three", 1, "float32"),
        ("narrow", 1, "float32"),
        ("three", 4, "float32"),
    ]
    assert len(rows) == 8
    for row in rows:
        assert row["parameters"][0] > row["parameters"][1]
        assert row["bytes"] == [4 * number for number in row["parameters"]]
        least, most = (1.9, 2.1) if row["method"] == "three" else (3, 8)
        assert least < row["flops_reduction"] < most
    small_bert(tmp_path / "wider", hidden_size=64)
    put(tmp_path, made=make())
    smaller = ticket("won", 10, 1, 0.9, 0.9, 0.5)
    sizes = Structure((0, 1), ((1,), (0, 1, 2)), ((), tuple(range(8))))
    for weights, kept, line in (
        ("bert", "nowhere", "nowhere: not a kept model ("),
        ("bert", "made", "made: not a record of fewer heads, neurons or layers alone; name the model's own folder"),
        ("wider", "three", "three: hidden_size 32, but 64 of --weights; name the model that it was made of"),
    ):
        code, _, err = run(MEASURE, "--weights", weights, "--kept", kept, "--lengths", "9", "--device", "cpu")
        assert code == 2
        assert line in err
        assert err.count("\n") == 1
    # A record's sizes will do.
    put(tmp_path, record=smaller)
    code, _, err = run(MEASURE, "--weights", "bert", "--kept", "record", "--lengths", "9", "--repeats", "1")
    assert code == 0, err
    (row,) = json.loads(Path(f"records/speed/bert_kept_9_{DEVICE}.json").read_text("utf-8"))["rows"]
    assert row["parameters"][1] == sum(x.numel() for x in shrink(dense, sizes).parameters())
    put(tmp_path, record=smaller | {"kept": smaller["kept"] | {"layers": [0, 9]}})
    code, _, err = run(MEASURE, "--weights", "bert", "--kept", "record", "--lengths", "9")
    assert code == 2
    assert "record: not of --weights (compression: layers [0, 9] of a BERT that has [0, 1, 2, 3, 4, 5])" in err
    code, _, err = run(MEASURE, "--random", "1x64", "--kept", "three", "--lengths", "9", "--device", "cpu")
    assert code == 2
    assert "--kept (kept): a kept model is timed against the one that it was made of; give --weights too" in err


def test_several_lengths_are_rows_of_one_table(run):
    arguments = ("--random", "1x64", "--lengths", "4,8-9", "--methods", "head", "--repeats", "1", "--device", "cpu")
    code, out, _ = run(MEASURE, *arguments)
    assert code == 0
    rows = json.loads(Path("records/speed/random-1x64_4_8-9_cpu.json").read_text("utf-8"))["rows"]
    assert [row["data"] for row in rows] == ["4", "8-9"]
    assert "| 8-9 " in out


def test_lengths_are_uniform_in_their_range():
    split = random_sentences("16-112", 2000, 100, 512)
    assert split.lengths.min() == 16
    assert split.lengths.max() == 112
    assert abs(split.lengths.mean() - 64) < 2
    assert split.tokens.min() >= 5  # no special tokens
    assert set(random_sentences("7", 3, 100, 512).lengths) == {7}


def test_the_baseline_is_stock_bert_on_sorted_batches_interleaved(monkeypatch):
    torch.manual_seed(0)
    model = PrunedBertForSequenceClassification(small_config()).eval().set_pruning([0.5] + [0] * 5, "tail")
    calls, clock, slow = [], [0.0], {15, 22}  # two interruptions
    monkeypatch.setattr(latency.time, "perf_counter", lambda: clock[0])

    def spy(kind, seconds):
        forward = kind.forward

        def call(self, *arguments, **options):
            if type(self) is kind:
                calls.append((kind, options["input_ids"].shape, options, self.config._attn_implementation))
                clock[0] += seconds * (100 if len(calls) in slow else 1)
            return forward(self, *arguments, **options)

        monkeypatch.setattr(kind, "forward", call)

    spy(BertForSequenceClassification, 0.003)
    spy(PrunedBertForSequenceClassification, 0.001)
    collates = BertCollator(with_lengths=False), BertCollator(with_lengths=True)
    found = measure_latency(
        model.unpruned_twin(), model, make_split([9, 3, 12, 5, 5, 11]), 2, collates, torch.bfloat16, repeats=5
    )
    assert (found["baseline_ms"], found["pruned_ms"], found["speedup"]) == (3.0, 1.0, 3.0)
    assert found["dtype"] == "bfloat16"
    kinds = [kind for kind, *_ in calls]
    assert len(calls) == 2 * 3 * 6
    assert all(set(pair) == {kinds[0], kinds[1]} for pair in zip(kinds[::2], kinds[1::2], strict=True))
    assert kinds[0] != kinds[2]  # each is first in turn
    widths = [shape[1] for kind, shape, *_ in calls if kind is BertForSequenceClassification]
    assert widths == [12, 9, 5] * 6
    for kind, _, options, attention in calls:
        if kind is BertForSequenceClassification:
            assert "lengths" not in options
            assert attention == "sdpa"
    slow |= {len(calls) + 1, len(calls) + 2}  # the first pass warms up
    assert (
        measure_latency(model.unpruned_twin(), model, make_split([9]), 2, collates, torch.float32, repeats=1)[
            "baseline_ms"
        ]
        == 3.0
    )


@pytest.mark.slow
def test_trainings_beside_stock_trainer(run, tmp_path):
    small_bert(tmp_path / "bert")
    write_mrpc(tmp_path / "data")
    assert run("PrepareGlue4Bert", "--tasks", "mrpc")[0] == 0
    flags = ("--training", "--weights", "bert", "--task", "mrpc", "--dtypes", "float32,bfloat16", "--batch-sizes", "4")
    code, out, _ = run(MEASURE, *flags, "--repeats", "1")
    assert code == 0
    path = Path("records/speed/bert_training_mrpc_cpu.json")
    assert f"-> {path}" in out
    result = json.loads(path.read_text("utf-8"))
    assert {"cpu", "threads", "torch", "steady_allocator"} <= set(result["environment"])
    rows = result["rows"]
    assert [(row["dtype"], row["training"]) for row in rows] == list(product(["float32", "bfloat16"], training.STEPS))
    padded, grouped, packed = rows[:3]
    assert padded["tokens_per_step"] > grouped["tokens_per_step"] >= packed["tokens_per_step"]
    for row, stock in zip(rows, [rows[0]] * 3 + [rows[3]] * 3, strict=True):
        assert row["steps"] == 5  # six batches, of which the first is not timed
        assert row["speedup"] == pytest.approx(stock["ms_per_step"] / row["ms_per_step"], rel=0.01)
        assert row["minutes"] == pytest.approx(row["ms_per_step"] * 3 * 24 / 4 / 60_000, abs=0.005)


def test_all_ways_train_the_same_model_on_the_same_batches(tmp_path):
    """But for those that are grouped; ours has its own optimizer step, the words that occur, and no padding."""
    folder = small_bert(tmp_path / "bert")
    tokenizer = load_tokenizer(folder, max_length=32)
    plain = BertForSequenceClassification.from_pretrained(folder, num_labels=2)
    split = make_split([9, 3, 12, 5, 5, 11, 2, 7])
    split = replace(split, labels=np.arange(8) % 2)
    table, batches, tokens, classes = plain.bert.embeddings.word_embeddings.weight, [], [], []
    for way in ("stock, padded", training.OURS):
        with training.prepared(way, plain, split, TrainSettings(batch_size=2), tokenizer) as (trainer, computed):
            batches.append([batch["input_ids"].tolist() for batch in trainer.get_train_dataloader()])
            tokens.append(sum(computed))
            classes.append(type(trainer.model))
            assert trainer.model.bert.embeddings.word_embeddings.weight is not table
    assert batches[0] == batches[1]
    assert classes == [BertForSequenceClassification, PackedBert]
    assert tokens == [sum(2 * len(ids[0]) for ids in batches[0]), split.lengths.sum()]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--random", "1x64", "--lengths", "9"), "--training (training): real sentences with labels"),
        (
            ("--weights", "bert", "--task", "mrpc", "--dtypes", "float16"),
            "--dtypes (dtypes): nothing is trained",
        ),
        (("--weights", "bert", "--task", "mrpc", "--schedule", "0.5"), "(pruning_schedule): the trainings that are"),
    ],
)
def test_what_cannot_be_trained_is_refused(run, arguments, line):
    code, _, err = run(MEASURE, "--training", *arguments)
    assert code == 2
    assert line in err
