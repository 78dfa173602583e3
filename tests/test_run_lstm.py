"""RunLstm4Glue.py and RunLstm4Agnews.py, from prepared tasks to records."""

import copy
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import write_agnews, write_mrpc
from test_lstm import make_lstm, make_split
from test_run import KEYS, check_card, records

import RunLstm4Agnews
import RunLstm4Glue
from pruner.compress.tokens.lstm import PrunedLstmForSequenceClassification, RateRamp
from pruner.compress.tokens.scores import scorer_names
from pruner.data.cache import Cache, read_cache
from pruner.data.collate import LstmCollator, SplitDataset
from pruner.data.encode import encode_words
from pruner.data.task import TASKS, Task
from pruner.data.vocabulary import Vocabulary, write_words
from pruner.evaluation.metrics import dev_metrics, length_bins, metrics_by_length
from pruner.training import stages
from pruner.training.train import train
from pruner.training.trainer import TrainSettings

SIZES = ("--embedding-size", "12", "--hidden-size", "16", "--head-size", "8", "--student-widths", "10")
QUICK = ("--epochs", "1", "--batch-size", "8", "--latency-repeats", "1", *SIZES)
VOCABULARY = Vocabulary(tuple("the film good actor not bad plot is fine".split()))


@pytest.fixture
def prepared(tmp_path):
    """``cache/lstm`` with MRPC, as ``PrepareGlue4Lstm.py`` would write it."""
    folder = write_mrpc(tmp_path / "data")
    rows = {split: TASKS["mrpc"].read(folder, split) for split in ("train", "dev")}
    for each in rows.values():
        each.texts[3] = ("the film", "")  # an empty second sentence
    splits = {split: encode_words(each, VOCABULARY, 128) for split, each in rows.items()}
    write_words(tmp_path / "cache" / "lstm", TASKS["mrpc"], splits, VOCABULARY, 128)
    return tmp_path


def test_a_grid_of_all_methods_and_two_rates(run, prepared):
    options = (*QUICK, "--target-prune-rate", "0.5,0.9", "--seeds", "1,2", "--num-layers", "2")
    code, out, err = run("RunLstm4Glue", *options)
    assert code == 0, err
    assert "skipped sst-2: not prepared (cache/lstm/sst-2.safetensors)" in out
    found = records(prepared / "records" / "LSTM" / "mrpc")
    assert len(found) == 2 * (1 + 2 * len(scorer_names("lstm")))
    assert {"baseline_seed1", "student-gate_0.9_seed2", "gate_0.5_seed1", "head_0.9_seed1"} <= set(found)
    for name, record in found.items():
        assert set(KEYS) - {"schedule", "schedule_source"} <= set(record), name
        assert record["model"] == "lstm"
        assert record["target_prune_rate"] in ((0,) if record["method"] == "baseline" else (0.5, 0.9))
        assert record["baseline_metrics"] == found[f"baseline_seed{record['seed']}"]["metrics"]
        assert (record["latency"] is None) == (record["method"] == "baseline")
        assert sum(entry["rows"] for entry in record["metrics_by_length"]) == 24
        assert all({"tokens", "rows", "accuracy", "f1"} == set(entry) for entry in record["metrics_by_length"])
        assert record["teacher"] == ("gate" if record["method"] == "student" else None)
        log = (prepared / "records" / "LSTM" / "mrpc" / name / "run.log").read_text(encoding="utf-8")
        assert name in log
    student = found["student-gate_0.9_seed1"]
    assert set(student["teacher_metrics"]) == {"accuracy", "f1"}
    assert -1 <= student["student_rank_correlation"] <= 1
    assert student["settings"]["student_widths"] == [10]
    assert student["settings"]["vocabulary"] == VOCABULARY.fingerprint
    sentence = "the film [UNK] good"
    assert student["examples"][0]["sentence"] == f"{sentence} / {sentence}"
    assert student["examples"][0]["kept"].count("/") == 1
    # Row 3 is of 2 words and 0, the others are of 4 or 9: each keeps 1 at 0.9, the empty one none.
    words = 2 + sum((4, 9)[row % 2] + (4, 9)[row // 2 % 2] for row in range(24) if row != 3)
    assert student["tokens"]["real"] == words
    assert student["tokens"]["effective_rate"] == pytest.approx(1 - (24 + 23) / words, abs=1e-6)
    assert "| task | method          | rate     | seeds |" in out
    assert "| mrpc | student of gate | 0.9      | 2     |" in out
    assert "| task | method          | metric   | unpruned" in out  # the curve

    code, again, _ = run("RunLstm4Glue", *options)
    assert code == 0
    assert f"{len(found)} cells, {len(found)} of them finished already" in again
    assert again.splitlines()[-5:] == out.splitlines()[-5:]


def test_the_same_seed_gives_the_same_record_twice(run, prepared, capsys):
    ends = []
    for folder in ("one", "two"):
        assert run("RunLstm4Glue", *QUICK, "--methods", "student", "--records", folder)[0] == 0
        ends.append(records(prepared / folder))
    for name, record in ends[0].items():
        for key in set(record) - {"latency", "seconds"}:
            assert record[key] == ends[1][name][key], key
        cache = read_cache(prepared / "cache" / "lstm", "mrpc", "lstm", VOCABULARY.fingerprint, "")
        capsys.readouterr()
        check_card(Path(record["model_folder"]), record, LstmCollator(pairs=True), cache)
        assert capsys.readouterr().out in ("0\n", "1\n")  # what the card's code prints


@pytest.mark.parametrize("change", [("--hidden-size", "20"), ("--pruning-rate-start", "0.5"), ("--learning-rate", "1")])
def test_a_finished_cell_of_other_settings_is_an_error(run, prepared, change):
    assert run("RunLstm4Glue", *QUICK, "--methods", "head")[0] == 0
    code, _, err = run("RunLstm4Glue", *QUICK, *change, "--methods", "head")
    assert code == 2
    assert f"finished with {change[0][2:].replace('-', '_')} = " in err


def test_agnews_runs_on_its_test_set(run, tmp_path):
    write_agnews(tmp_path / "data")
    assert run("PrepareAgnews4Lstm")[0] == 0
    code, _, err = run("RunLstm4Agnews", *QUICK, "--methods", "student", "--save-models", "models")
    assert code == 0, err
    (baseline, student) = records(tmp_path / "records" / "LSTM" / "agnews").values()
    assert student["metrics"]["accuracy"] * 8 == pytest.approx(round(student["metrics"]["accuracy"] * 8))
    assert student["settings"]["train_rows"] == 24
    folder = tmp_path / "models" / "agnews" / "student-gate_0.9_seed1"
    model = PrunedLstmForSequenceClassification.from_pretrained(folder)
    assert model.config.id2label[3] == "Sci/Tech"
    assert model.pruning.schedule == (0.9,)
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert len(vocabulary) + 2 == model.config.vocab_size
    assert baseline["method"] == "baseline"


def test_pretrained_vectors_are_where_training_starts(run, prepared):
    lines = [f"{word} " + " ".join(str(number) for number in range(12)) for word in ("film", "good")]
    (prepared / "glove.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = (*QUICK, "--vectors", "glove.txt", "--methods", "head", "--learning-rate", "1e-9")
    code, _, err = run("RunLstm4Glue", *options, "--save-models", "models")
    assert code == 0, err
    model = PrunedLstmForSequenceClassification.from_pretrained(prepared / "models" / "mrpc" / "head_0.9_seed1")
    found = model.embedding.weight[[2 + VOCABULARY.words.index(word) for word in ("film", "good", "bad")]]
    expected = torch.arange(12.0).expand(2, 12)
    assert torch.allclose(found[:2], expected, atol=1e-4)
    assert not torch.allclose(found[2], expected[0], atol=1e-1)
    assert records(prepared / "records")["head_0.9_seed1"]["settings"]["vectors"] == "glove.txt"


def lstm_trained(tmp_path, method, callbacks=lambda model: (), epochs=1.0):
    transformers.set_seed(1)
    model = make_lstm(method, rate=0.9)
    settings = TrainSettings(epochs=epochs, batch_size=8, learning_rate=1e-2, clip=None)
    data = SplitDataset(make_split())
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    train(model, data, settings, 1, folder, LstmCollator(False), "constant", callbacks(model))
    return model


def test_the_student_does_not_move_the_main_model(tmp_path):
    gate, student = lstm_trained(tmp_path, "gate"), lstm_trained(tmp_path, "student")
    for name, value in gate.state_dict().items():
        assert torch.equal(value, student.state_dict()[name]), name
    untrained = make_lstm("student", rate=0.9).students.state_dict()
    assert all(not torch.equal(value, untrained[name]) for name, value in student.students.state_dict().items())


def test_weights_follow_adam_at_a_constant_rate_without_clipping(tmp_path):
    seen = []
    by_hand = copy.deepcopy(make_lstm("tail", rate=0.9)).train()

    def watch(model):
        model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
        return ()

    trained = lstm_trained(tmp_path, "tail", watch)
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=1e-2)
    for batch in seen:
        optimizer.zero_grad()
        by_hand(**batch).loss.backward()
        optimizer.step()
    assert len(seen) == 12
    for name, value in trained.state_dict().items():
        assert torch.allclose(value, by_hand.state_dict()[name], atol=1e-5), name


def test_the_rate_grows_linearly_to_its_target_while_training(tmp_path):
    rates = []

    def watch(model):
        model.register_forward_pre_hook(lambda module, inputs: rates.append(module.ramp_rate))
        return (RateRamp(model, 0.1),)

    model = lstm_trained(tmp_path, "head", watch)
    assert rates == pytest.approx(np.linspace(0.1, 0.9, 12).tolist())
    model.eval()
    ids = torch.arange(1, 21)[None]
    assert model(ids).token_counts == [[2]]  # evaluation is at the target
    model.ramp_rate = 0.5
    assert model(ids).token_counts == [[2]]
    assert model.train()(ids).token_counts == [[10]]


def test_bins_partition_the_rows_and_their_metrics_are_the_rows_own():
    split = make_split(rows=90)
    lengths = split.lengths
    bins = length_bins(lengths)
    assert sorted(set(bins.tolist())) == [0, 1, 2, 3, 4]
    assert np.bincount(bins).tolist() == pytest.approx([18] * 5, abs=4)
    for number in range(4):
        assert lengths[bins == number].max() < lengths[bins == number + 1].min()
    assert set(length_bins(np.full(10, 7)).tolist()) == {0}  # one length, one bin

    task = Task("mnli", "MNLI", ("a",), "l", ("x", "y", "z"), ("accuracy",), dev=("dev_matched", "dev_mismatched"))
    cache = Cache("mnli", task.labels, 128, {"dev_matched": split, "dev_mismatched": make_split(rows=30, seed=1)}, None)
    logits = {
        name: np.random.default_rng(2).random((len(cache.splits[name]), 3)).astype(np.float32) for name in task.dev
    }
    found = metrics_by_length(task, cache, logits)
    assert sum(entry["rows"] for entry in found) == 120
    whole = dev_metrics(task, cache, logits)
    assert set(whole) == {"accuracy_matched", "accuracy_mismatched"}
    for name in task.dev:
        hits = logits[name].argmax(axis=1) == cache.splits[name].labels
        suffix = name.removeprefix("dev")
        assert whole[f"accuracy{suffix}"] == pytest.approx(hits.mean(), abs=1e-6)
        inside = 0.0
        for entry in found:
            low, high = entry["tokens"]
            rows = (cache.splits[name].lengths >= low) & (cache.splits[name].lengths <= high)
            if rows.any():
                assert entry[f"accuracy{suffix}"] == pytest.approx(hits[rows].mean(), abs=1e-6)
                inside += hits[rows].sum()
        assert inside == hits.sum()


def test_learning_rates_are_constant(run, prepared, monkeypatch):
    seen = []

    def watch(model, data, settings, seed, folder, collate, decay, callbacks, learning_rates, *others):
        seen.append((decay, settings.clip, settings.learning_rate, learning_rates))
        return train(model, data, settings, seed, folder, collate, decay, callbacks, learning_rates, *others)

    monkeypatch.setattr(stages, "train", watch)
    assert run("RunLstm4Glue", *QUICK, "--methods", "student")[0] == 0
    assert seen == [("constant", None, 1e-3, {}), ("constant", None, 1e-3, {"students.": 1e-3})]


def test_the_constants_are_the_published_ones():
    for script in (RunLstm4Glue, RunLstm4Agnews):
        assert (script.target_prune_rate, script.epochs, script.learning_rate) == ([0.9], 3.0, 1e-3)
        sizes = (script.embedding_size, script.hidden_size, script.num_layers, script.head_size)
        assert sizes == (300, 300, 1, 256)
        assert script.student_widths == [300, 300]
    assert RunLstm4Glue.tasks == ["sst-2", "mrpc", "qqp", "mnli"]


def test_published_batch_sizes(run, prepared):
    options = ("--epochs", "1", "--latency-repeats", "1", *SIZES, "--methods", "head")
    assert run("RunLstm4Glue", *options)[0] == 0
    assert records(prepared / "records")["head_0.9_seed1"]["settings"]["batch_size"] == 64
    assert RunLstm4Agnews.batch_size == 256


def test_a_dev_set_without_words_is_refused_before_any_training(run, prepared):
    rows = {split: TASKS["mrpc"].read(prepared / "data" / "MRPC", split) for split in ("train", "dev")}
    rows["dev"].texts[:] = [("...", "!")] * len(rows["dev"].texts)
    splits = {split: encode_words(each, VOCABULARY, 128) for split, each in rows.items()}
    write_words(prepared / "cache" / "lstm", TASKS["mrpc"], splits, VOCABULARY, 128)
    code, _, err = run("RunLstm4Glue", *QUICK)
    assert code == 2
    assert err.startswith("error: mrpc: no sentence of its dev set has a word of the vocabulary; prepare mrpc again")
    assert not (prepared / "records").exists()
