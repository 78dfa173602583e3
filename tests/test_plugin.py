"""A scorer and a method of somebody else's, registered in here, go through everything without a change to the code."""

import copy
import json
import shutil
from types import SimpleNamespace
from typing import ClassVar

import pandas as pd
import pytest
import torch
from conftest import VOCABULARY
from test_run import QUICK, SCHEDULE, prepared, records  # noqa: F401
from transformers import TrainerCallback

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.chain import PARTS, PRECISION, Part
from pruner.compress.method import FAMILIES, Cost, Method, register_method
from pruner.compress.tokens.scores import SCORERS, Tokens, register_scorer
from pruner.data.cache import read_cache
from pruner.data.tokenizer import load_tokenizer
from pruner.report.records import read_record
from pruner.training.stage import Additions
from pruner.training.trainer import PruningTrainer

LENGTHS = torch.tensor([len(piece.removeprefix("##")) for piece in VOCABULARY])
OPTIONS = (*QUICK, *SCHEDULE, "--methods", "longest,rounded")
BITS = 4


class Rounded(Method):
    """Rounds each weight matrix of the fine-tuned model to 15 values: no token pruning at all."""

    name, title, variant, label = "rounded", "rounded weights", f"{BITS} bits", f"rounded_{BITS}-bits"

    def settings(self, context):
        return {"bits": BITS}

    def finalize(self, trained, context, dense, say):
        model = copy.deepcopy(trained[-1].model)
        with torch.no_grad():
            for weight in model.parameters():
                scale = weight.abs().max() / (2 ** (BITS - 1) - 1)
                weight.copy_((weight / scale).round() * scale if scale else weight)
        return model

    def cost(self, model, context):
        dense = super().cost(model, context)
        return Cost(dense.flops, dense.parameters, dense.parameters * BITS // 8)

    def describe(self, model, context):
        return {"rounding": {"bits": BITS, "values": max(len(weight.unique()) for weight in model.parameters())}}


@pytest.fixture
def plugged():
    """The longest word piece first, and the method above, as long as the test lasts."""
    scorers, families = dict(SCORERS), list(FAMILIES)

    @register_scorer("longest")
    def longest_word_piece_first(tokens: Tokens):
        return LENGTHS[tokens.input_ids]

    register_method("rounded", lambda name, options, context: [Rounded()], "bert")
    yield
    SCORERS.clear()
    SCORERS.update(scorers)
    FAMILIES[:] = families


def test_they_are_trained_recorded_and_shown(run, prepared, plugged):  # noqa: F811
    code, out, err = run("RunBert4Glue", *OPTIONS, "--save-models", "models")
    assert code == 0, err
    dense, longest, rounded = (
        records(prepared / "records")[f"{name}_seed1"]
        for name in ("baseline", "longest_0.6-0-0.3-0x3", "rounded_4-bits")
    )
    # The scorer is one of token pruning's: its section, its FLOPs, and in each sentence the longest pieces stay.
    assert longest["schedule"] == [0.6, 0, 0.3, 0, 0, 0]
    assert longest["flops"]["reduction"] > 1.5
    kept = PrunedBertForSequenceClassification.from_pretrained(prepared / "models/mrpc/longest_0.6-0-0.3-0x3_seed1")
    fingerprint = load_tokenizer(prepared / "bert", 128).fingerprint
    sentence = read_cache(prepared / "cache/bert", "mrpc", "bert", fingerprint, "").splits["dev"].sentence(0)
    output = kept.eval()(torch.from_numpy(sentence).long()[None])
    first = output.token_positions[0].tolist()
    lengths = LENGTHS[sentence].tolist()
    left = set(range(1, len(sentence))) - set(first)
    assert min(lengths[at] for at in first if at) >= max(lengths[at] for at in left)
    # The method is none of it: its own section, its own cost.
    assert rounded["rounding"] == {"bits": 4, "values": 15}
    assert not {"schedule", "tokens", "teacher"} & rounded.keys()
    assert rounded["flops"]["reduction"] == 1
    assert rounded["parameters"]["pruned"] == dense["parameters"]["pruned"]
    assert rounded["bytes"] == {"baseline": dense["bytes"]["pruned"], "pruned": dense["bytes"]["pruned"] // 8}
    assert rounded["latency"]["speedup"] > 0
    assert read_record(prepared / "records/BERT/mrpc/rounded_4-bits_seed1").section == {"rounding": rounded["rounding"]}
    # Both are in the table at the end, in the report's page and in its CSV and figures.
    assert run("pruner.report")[0] == 0
    page = (prepared / "records" / "README.md").read_text(encoding="utf-8")
    for text in (out, page):
        assert [row for row in text.splitlines() if "| rounded weights |" in row and "| 4 bits" in row]
        assert [row for row in text.splitlines() if "| longest " in row and "| 0.6,0,0.3,0,0,0 |" in row]
    table = pd.read_csv(prepared / "records" / "records.csv").set_index("method")
    assert table.loc["rounded", "rounding.bits"] == 4
    assert (prepared / "records" / "figures" / "BERT-bert-mrpc-frontier.png").is_file()
    # Nothing is left to do, and a dry run says so.
    assert "3 cells, 3 of them finished already" in run("RunBert4Glue", *OPTIONS, "--save-models", "models")[1]
    assert "3 cells, 3 of them finished; 0 trainings to do" in run("RunBert4Glue", *OPTIONS, "--dry-run")[1]


def test_they_resume(run, prepared, plugged, monkeypatch):  # noqa: F811
    code, out, _ = run("RunBert4Glue", *OPTIONS, "--dry-run")
    assert code == 0
    assert "mrpc: rounded_4-bits_seed1\n    stage baseline_seed1: as above\n" in out
    assert "3 cells, 0 of them finished; 2 trainings to do" in out
    assert not (prepared / "records").exists()
    assert run("RunBert4Glue", *OPTIONS, "--records", "whole")[0] == 0
    shutil.rmtree(prepared / "cache" / "bert" / "stages")
    real, steps = PruningTrainer.training_step, []

    def stop(self, *args, **kwargs):
        steps.append(1)
        if len(steps) in (2, 6):  # in the first training and in the second one
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(PruningTrainer, "training_step", stop)
    assert [run("RunBert4Glue", *OPTIONS, "--records", "broken")[0] for _ in range(3)] == [130, 130, 0]
    whole, broken = records(prepared / "whole"), records(prepared / "broken")
    assert whole.keys() == broken.keys()
    for name, record in whole.items():
        for key in record.keys() - {"latency", "seconds", "model_folder"}:
            assert record[key] == broken[name][key], (name, key)
    plans = [json.loads(path.read_text("utf-8")) for path in (prepared / "cache/bert/stages/plans").glob("*.json")]
    assert [cell["record"].rpartition("/")[2] for plan in plans for cell in plan] == ["rounded_4-bits_seed1"]


def test_an_unknown_method_is_named_with_the_registered_ones(run, prepared, plugged):  # noqa: F811
    code, _, err = run("RunBert4Glue", *QUICK, *SCHEDULE, "--methods", "rounder")
    assert code == 2
    assert "unknown method 'rounder'; did you mean rounded? choose from student, " in err
    assert "longest" in err


class FewerBits(Part):
    """A part of a chain that follows tokens, with all that a part may say."""

    name, title, variant, level, place = "fewer-bits", "fewer bits", "4 bits", "4", PRECISION
    seen: ClassVar[list] = []

    start = "pretrained"  # it has a say in the training

    def prepare(self, model, context, told):
        self.seen.append(("prepared", model.config.num_hidden_layers, model.pruning.schedule))
        return model

    def additions(self, model, context):
        return Additions(callbacks=[TrainerCallback()], learning_rates={"classifier.": 1e-2})

    def finalize(self, model, context):
        return Rounded().finalize([SimpleNamespace(model=model)], context, model, print)

    def describe(self, model, context):
        return {"bits": {"values": max(len(weight.unique()) for weight in model.bert.encoder.parameters())}}


def test_a_part_joins_a_chain(run, prepared, monkeypatch):  # noqa: F811
    monkeypatch.setitem(PARTS, "fewer-bits", (PRECISION, lambda options: [FewerBits()]))
    rates = []
    real = PruningTrainer.create_optimizer

    def watch(self, *args):
        optimizer = real(self, *args)
        rates.append([group["lr"] for group in optimizer.param_groups])
        return optimizer

    monkeypatch.setattr(PruningTrainer, "create_optimizer", watch)
    chain = "layers-top.head.fewer-bits"
    options = (*QUICK, "--layers-dropped", "4", "--schedule", "0,0.5", "--methods", f"{chain},fewer-bits")
    code, out, err = run("RunBert4Glue", *options)
    assert code == 0, err
    found = records(prepared / "records/BERT/mrpc")
    joined, alone = found["layers-top_4.head_0-0.5.fewer-bits_4_seed1"], found["fewer-bits_4_seed1"]
    assert FewerBits.seen[0] == ("prepared", 2, (0, 0.5))
    assert (joined["method"], joined["variant"]) == (chain, "without 4 layers, 0,0.5, 4 bits")
    assert joined["bits"] == alone["bits"] == {"values": 15}
    assert joined["kept"]["layers"] == [0, 1]
    assert joined["schedule"] == [0, 0.5]
    assert not {"kept", "schedule"} & alone.keys()
    assert [len(groups) for groups in rates] == [1, 2, 2]  # the part's group is beside the model's
    assert rates[1][1] == 1e-2
    assert "drop top layers, head, fewer bits" in out
    code, _, err = run("RunBert4Glue", *options[:-1], "fewer-bits.head")
    assert code == 2
    assert "then zeros, then a precision" in err
