"""RunBert4Glue.py, from a prepared task to records."""

import json
import os
import re
import sys

import numpy as np
import pytest
import torch
from conftest import small_bert, write_agnews, write_mrpc
from transformers import pipeline

import RunBert4Glue
from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.method import Dense
from pruner.compress.tokens.methods import LearnedPruning, SoftExtractPruning, TokenPruning
from pruner.compress.tokens.schedule import make_pruning, schedule_name, schedule_text
from pruner.compress.tokens.scores import scorer_names
from pruner.compress.tokens.soft_extract import SoftExtractSearch
from pruner.data.cache import read_cache
from pruner.data.collate import BertCollator
from pruner.data.task import TASKS
from pruner.data.tokenizer import load_tokenizer
from pruner.evaluation.metrics import compute_metrics
from pruner.evaluation.predict import predict
from pruner.experiments import run_grid
from pruner.report.tables import metric_text
from pruner.utils.flags import parse_flags

QUICK = ("--epochs", "1", "--batch-size", "8", "--latency-repeats", "1")
SCHEDULE = ("--schedule", "0.6,0,0.3,0,0,0")
# The keys that a record holds at least.
KEYS = (
    "model task method teacher schedule schedule_source count seed status metrics baseline_metrics tokens flops "
    "latency loss settings environment seconds"
).split()


@pytest.fixture
def prepared(run, tmp_path):
    """``data/MRPC``, ``bert/`` and ``cache/bert/`` in the current folder."""
    write_mrpc(tmp_path / "data")
    small_bert(tmp_path / "bert")
    assert run("PrepareGlue4Bert")[0] == 0
    return tmp_path


def records(folder) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text("utf-8")) for path in sorted(folder.rglob("record.json"))}


def written(folder) -> dict[str, int]:
    """When each record was."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.rglob("record.json")}


def test_a_grid_of_all_methods(run, prepared):
    methods = ",".join([*scorer_names("bert"), "student+random"])
    code, out, err = run("RunBert4Glue", *QUICK, *SCHEDULE, "--methods", methods, "--seeds", "1,2")
    assert code == 0, err
    assert torch.cuda.is_available() or out.count("no GPU: running on the CPU") == 1
    assert "skipped rte: not prepared" in out
    found = records(prepared / "records" / "BERT" / "mrpc")
    assert len(found) == 2 * (len(scorer_names("bert")) + 2)
    assert "student-emission_0.6-0-0.3-0x3_seed2" in found
    for name, record in found.items():
        assert set(KEYS) <= set(record), name
        assert (record["latency"] is None) == (record["method"] == "baseline")
        assert record["status"] == "complete"
        assert record["baseline_metrics"] == found[f"baseline_seed{record['seed']}"]["metrics"]
        assert set(record["metrics"]) == {"accuracy", "f1"}
        assert (record["teacher"] is not None) == ("student" in record["method"])
        assert set(record["teacher_metrics"] if record["teacher"] else record["metrics"]) == {"accuracy", "f1"}
        assert record["flops"]["reduction"] == pytest.approx(
            record["flops"]["baseline"] / record["flops"]["pruned"], 1e-3
        )
        assert record["environment"]["torch"] == torch.__version__
        log = (prepared / "records" / "BERT" / "mrpc" / name / "run.log").read_text(encoding="utf-8")
        assert name in log
        assert "it/s" not in log  # no progress bars
        assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  .", line) for line in log.splitlines())
        mean = np.mean([entry["loss"] for entry in record["loss"]])
        said = re.search(r"  loss (\d\.\d{4}) in epoch 1 of 1\n", log)
        assert "  as it was kept in " in log if said is None else float(said[1]) == pytest.approx(mean, abs=1e-4)
        assert record["majority_share"] == {"dev": 0.5}
    pruned = found["random_0.6-0-0.3-0x3_seed1"]
    assert pruned["schedule"] == [0.6, 0.0, 0.3, 0.0, 0.0, 0.0]
    assert pruned["tokens"]["nominal_rate"] == pytest.approx(1 - (2 * 0.4 + 4 * 0.28) / 6)
    lengths = (
        read_cache(
            prepared / "cache" / "bert",
            "mrpc",
            "bert",
            load_tokenizer(prepared / "bert", 128).fingerprint,
            "",
        )
        .splits["dev"]
        .lengths
    )
    first = lengths - np.floor(lengths * 0.6 + 1e-9)
    second = first - np.floor(first * 0.3 + 1e-9)
    computed = 2 * first.sum() + 4 * second.sum()
    assert pruned["tokens"]["real"] == lengths.sum()
    assert pruned["tokens"]["effective_rate"] == pytest.approx(1 - computed / (6 * lengths.sum()), abs=1e-6)
    assert pruned["latency"]["speedup"] == pytest.approx(
        pruned["latency"]["baseline_ms"] / pruned["latency"]["pruned_ms"], rel=1e-2
    )
    assert "±" in out.splitlines()[-2]  # two seeds
    assert out.splitlines()[-1] == "-> records/README.md (20 records, 1 table)"
    assert not list((prepared / "records").rglob("*.tmp"))

    # A second run has nothing to do, prints the same table, and touches nothing.
    before = {path: path.stat().st_mtime_ns for path in (prepared / "records").rglob("*")}
    code, again, _ = run("RunBert4Glue", *QUICK, *SCHEDULE, "--methods", methods, "--seeds", "1,2")
    assert code == 0
    assert f"{len(found)} cells, {len(found)} of them finished already" in again
    assert again.splitlines()[-5:] == out.splitlines()[-5:]
    assert before == {path: path.stat().st_mtime_ns for path in (prepared / "records").rglob("*")}


def test_the_same_seed_gives_the_same_record_twice(run, prepared):
    ends = []
    for folder in ("one", "two"):
        assert run("RunBert4Glue", *QUICK, *SCHEDULE, "--methods", "student", "--records", folder)[0] == 0
        ends.append(records(prepared / folder))
    for name, record in ends[0].items():
        for key in set(record) - {"latency", "seconds"}:
            assert record[key] == ends[1][name][key], key


def test_finished_cells_are_replaced_by_force_only(run, prepared):
    options = (*SCHEDULE, "--methods", "head", "--latency-repeats", "1", "--batch-size", "8")
    assert run("RunBert4Glue", *options, "--epochs", "1")[0] == 0
    code, _, err = run("RunBert4Glue", *options, "--epochs", "2")
    assert code == 2
    assert err.startswith("error: records/BERT/mrpc/baseline_seed1: finished with epochs = 1.0, this run has 2.0;")
    code, _, err = run("RunBert4Glue", *options, "--epochs", "2", "--force")
    assert code == 0, err
    assert records(prepared / "records")["head_0.6-0-0.3-0x3_seed1"]["settings"]["epochs"] == 2.0
    # Other weights under the same name are other settings too.
    small_bert(prepared / "bert", initializer_range=0.3)
    code, _, err = run("RunBert4Glue", *options, "--epochs", "2")
    assert code == 2
    assert "weights = " in err


def test_a_model_is_its_weights_wherever_its_folder_lies(run, prepared):
    options = (*QUICK, *SCHEDULE, "--methods", "head,student")
    assert run("RunBert4Glue", *options)[0] == 0
    stages = sorted(path.name for path in (prepared / "cache" / "bert" / "stages" / "mrpc").iterdir())
    (prepared / "elsewhere").mkdir()
    (prepared / "bert").rename(prepared / "elsewhere" / "model")
    for name in ("elsewhere/model", "elsewhere/model/", str(prepared / "elsewhere" / "model")):
        code, out, err = run("RunBert4Glue", *options, "--bert", name)
        assert code == 0, err
        assert "3 cells, 3 of them finished already" in out
    code, out, _ = run("RunBert4Glue", *options, "--bert", "elsewhere/model", "--records", "others")
    assert code == 0
    assert "as it was kept in" in out
    assert stages == sorted(path.name for path in (prepared / "cache" / "bert" / "stages" / "mrpc").iterdir())


def test_a_forced_run_that_was_stopped_goes_on_without_force(run, prepared, monkeypatch):
    """What it has finished by then is not run a third time."""
    options = (*QUICK, *SCHEDULE, "--methods", "head,tail")
    assert run("RunBert4Glue", *options)[0] == 0
    first, real = written(prepared / "records"), run_grid.run_cell

    def stop_at_second(any_grid, cell, *rest):
        if cell.baseline:
            raise KeyboardInterrupt
        return real(any_grid, cell, *rest)

    monkeypatch.setattr(run_grid, "run_cell", stop_at_second)
    code, _, err = run("RunBert4Glue", *options, "--force")
    assert code == 130
    assert err.endswith("stopped: run the same command again without --force, finished work is kept\n")
    assert written(prepared / "records").keys() == first.keys()  # the old ones are there until there are others
    monkeypatch.setattr(run_grid, "run_cell", real)
    code, out, _ = run("RunBert4Glue", *options)
    assert code == 0
    assert "3 cells, 1 of them finished already" in out
    second = written(prepared / "records")
    assert all(second[name] > moment for name, moment in first.items())
    # What killed processes have left goes at the next start.
    left = prepared / "records/BERT/mrpc/.baseline_seed1.lock"
    left.touch()
    assert "3 of them finished already" in run("RunBert4Glue", *options)[1]
    assert not left.exists()


def test_an_unfinished_cell_is_run_again(run, prepared, monkeypatch):
    real = run_grid.run_cell

    def stop_at_second(any_grid, cell, *rest):
        if cell.baseline:
            raise KeyboardInterrupt
        return real(any_grid, cell, *rest)

    monkeypatch.setattr(run_grid, "run_cell", stop_at_second)
    options = (*QUICK, *SCHEDULE, "--methods", "head")
    code, _, err = run("RunBert4Glue", *options)
    assert code == 130
    assert err.splitlines()[-1] == "stopped: run the same command again, finished work is kept"
    assert list(records(prepared / "records")) == ["baseline_seed1"]
    # The tables have what is finished.
    assert "| baseline | unpruned |" in (prepared / "records" / "README.md").read_text("utf-8")
    assert (prepared / "records" / "records.csv").read_text("utf-8").count("BERT/mrpc/") == 1
    monkeypatch.setattr(run_grid, "run_cell", real)
    code, out, _ = run("RunBert4Glue", *options)
    assert code == 0
    assert "2 cells, 1 of them finished already" in out


@pytest.mark.skipif(os.name == "nt", reason="Windows limits no file's size")
@pytest.mark.parametrize("largest", [100_000, 300_000])  # less than the weights; less than the optimizer's state
def test_a_full_disk_stops_a_training_and_leaves_nothing_half(run, prepared, largest):
    import resource

    options = (*QUICK, *SCHEDULE, "--methods", "head")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
    try:
        code, _, err = run("RunBert4Glue", *options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 2
    assert "Traceback" not in err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert re.search(r"/checkpoint-3: cannot be written \(.*\); free the place or choose another folder", errors[0])
    assert not [path for path in (prepared / "cache" / "bert" / "steps").rglob("*") if path.is_file()]
    assert not [path for path in (prepared / "records").rglob("*") if path.is_file()]
    assert run("RunBert4Glue", *options)[0] == 0


def test_a_cell_that_comes_to_no_end_does_not_stop_the_others(run, prepared, monkeypatch):
    real = PrunedBertForSequenceClassification.forward

    def forward(self, **inputs):
        output = real(self, **inputs)
        if self.pruning.method == "head" and self.training:
            output.loss = output.loss * float("nan")
        return output

    monkeypatch.setattr(PrunedBertForSequenceClassification, "forward", forward)
    options = (*QUICK, *SCHEDULE, "--methods", "head,tail")
    code, out, err = run("RunBert4Glue", *options)
    assert code == 2
    line = r"mrpc, head_0\.6-0-0\.3-0x3_seed1: training: the loss is nan at step 1 "
    line += r"\(training rows [\d, ]+, counted from 0\)"
    assert re.search(f"^{line}", out, re.MULTILINE)
    assert re.search(f"^error: {line}; try a lower learning_rate, or train_dtype float32$", err, re.MULTILINE)
    assert list(records(prepared / "records")) == ["baseline_seed1", "tail_0.6-0-0.3-0x3_seed1"]
    assert "| mrpc | tail " in out
    # The others are not run again, whatever becomes of this one.
    monkeypatch.setattr(PrunedBertForSequenceClassification, "forward", real)
    code, out, _ = run("RunBert4Glue", *options)
    assert code == 0
    assert "3 cells, 2 of them finished already" in out


def test_memory_that_runs_out_is_one_line_about_accumulation_steps(run, prepared, monkeypatch):
    """Of that cell alone: the others are run. What the line advises is what it takes."""
    real = PrunedBertForSequenceClassification.forward

    def forward(self, input_ids, **inputs):
        if len(input_ids) > 4 and self.training:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, input_ids, **inputs)

    monkeypatch.setattr(PrunedBertForSequenceClassification, "forward", forward)
    code, out, err = run("RunBert4Glue", *QUICK, *SCHEDULE, "--methods", "head")
    assert code == 2
    line = "mrpc, head_0.6-0-0.3-0x3_seed1: training: out of memory with accumulation_steps 1, batches of 8; "
    line += "set it to 2, or take a smaller model\n"
    assert err.endswith(f"error: {line}")
    assert line in out
    assert list(records(prepared / "records")) == ["baseline_seed1"]
    options = ("--accumulation-steps", "2", "--records", "parts")
    code, _, err = run("RunBert4Glue", *QUICK, *SCHEDULE, "--methods", "head", *options)
    assert code == 0, err


def test_mnli_is_evaluated_on_both_dev_sets(run, tmp_path):
    folder = tmp_path / "data" / "MNLI"
    folder.mkdir(parents=True)
    labels = ("entailment", "neutral", "contradiction")
    for split, rows in (("train", 24), ("dev_matched", 9), ("dev_mismatched", 7)):
        lines = ["index\tsentence1\tsentence2\tgold_label"]
        lines += [
            f"{row}\tthe film was good\tthe plot was {'fine ' * (row % 4)}\t{labels[row % 3]}" for row in range(rows)
        ]
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    small_bert(tmp_path / "bert")
    assert run("PrepareGlue4Bert", "--tasks", "mnli")[0] == 0
    code, _, err = run("RunBert4Glue", *QUICK, *SCHEDULE, "--tasks", "mnli", "--methods", "student")
    assert code == 0, err
    record = records(tmp_path / "records")["student-emission_0.6-0-0.3-0x3_seed1"]
    assert set(record["metrics"]) == {"accuracy_matched", "accuracy_mismatched"}
    for metric, rows in (("accuracy_matched", 9), ("accuracy_mismatched", 7)):
        assert (record["metrics"][metric] * rows) == pytest.approx(round(record["metrics"][metric] * rows), abs=1e-4)
    assert record["tokens"]["real"] > 16 * 9


def test_stsb_keeps_its_fractions_and_reports_correlations(run, tmp_path):
    folder = tmp_path / "data" / "STS-B"
    folder.mkdir(parents=True)
    header = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
    for split in ("train", "dev"):
        rows = [f"{i}\tg\tf\ty\t0\ts\ts\tthe film {'was ' * (i % 5)}\tgood\t{(i % 5) + 0.25:.3f}" for i in range(24)]
        (folder / f"{split}.tsv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    small_bert(tmp_path / "bert")
    assert run("PrepareGlue4Bert", "--tasks", "sts-b")[0] == 0
    code, _, err = run("RunBert4Glue", *QUICK, *SCHEDULE, "--tasks", "sts-b", "--methods", "gradient")
    assert code == 0, err
    record = records(tmp_path / "records")["gradient_0.6-0-0.3-0x3_seed1"]
    assert set(record["metrics"]) == {"pearson", "spearman"}
    fingerprint = load_tokenizer(tmp_path / "bert", 128).fingerprint
    cache = read_cache(tmp_path / "cache" / "bert", "sts-b", "bert", fingerprint, "")
    assert cache.splits["train"].labels[:3].tolist() == [0.25, 1.25, 2.25]
    assert TASKS["sts-b"].num_labels == 1


def test_a_saved_model_serves_in_a_pipeline(run, prepared, caplog, capsys):
    code, _, err = run("RunBert4Glue", *QUICK, *SCHEDULE, "--methods", "student", "--save-models", "models")
    assert code == 0, err
    folder = prepared / "models" / "mrpc" / "student-emission_0.6-0-0.3-0x3_seed1"
    model = PrunedBertForSequenceClassification.from_pretrained(folder)
    assert model.pruning.schedule == (0.6, 0.0, 0.3, 0.0, 0.0, 0.0)
    classify = pipeline("text-classification", model=model, tokenizer=str(folder), device="cpu")
    pairs = [{"text": "the film", "text_pair": "was good"}, {"text": "a plot", "text_pair": "was dull . . ."}] * 5
    alone, together = classify(pairs), classify(pairs, batch_size=8)
    assert {answer["label"] for answer in alone} <= {"0", "1"}
    for one, other in zip(alone, together, strict=True):
        assert one == {"label": other["label"], "score": pytest.approx(other["score"], abs=1e-6)}
    assert "not supported" not in caplog.text
    cache = read_cache(prepared / "cache" / "bert", "mrpc", "bert", load_tokenizer(folder, 128).fingerprint, "")
    for name, record in records(prepared / "records").items():
        capsys.readouterr()
        check_card(folder.with_name(name), record, BertCollator(with_lengths=False), cache)
        assert "'label': '" in capsys.readouterr().out  # what the card's code prints
    assert "import AutoTokenizer, pipeline, BertForSequenceClassification" in (
        folder.with_name("baseline_seed1") / "README.md"
    ).read_text("utf-8")


def test_a_model_that_gives_one_answer_only_is_no_result(run, prepared):
    """Screen, log, record, tables and card say so, of the model and of what it is compared with."""
    path = prepared / "data" / "MRPC" / "train.tsv"
    path.write_text(re.sub(r"^0\t", "1\t", path.read_text("utf-8"), flags=re.MULTILINE), encoding="utf-8")
    assert run("PrepareGlue4Bert", "--tasks", "mrpc")[0] == 0
    options = ("--methods", "head", "--learning-rate", "0.01", "--save-models", "models")
    code, out, err = run("RunBert4Glue", *QUICK, *SCHEDULE, *options)
    assert code == 0, err
    text, name = 'answers only "1", 50.0 % of dev', "head_0.6-0-0.3-0x3_seed1"
    found = records(prepared / "records")
    one = {"dev": {"answer": "1", "share": 0.5}}
    assert found[name]["collapsed"] == found[name]["baseline_collapsed"] == found["baseline_seed1"]["collapsed"] == one
    for told in (out, (prepared / "records" / "BERT" / "mrpc" / name / "run.log").read_text("utf-8")):
        assert f"no result to use: the model {text}\n" in told
        assert f"nothing to compare it with: the baseline {text}\n" in told
    for table in (out, (prepared / "records" / "README.md").read_text("utf-8")):
        assert f"| {text}; baseline {text} |" in table
    assert f"**This model {text}.**" in (prepared / "models" / "mrpc" / name / "README.md").read_text("utf-8")


def check_card(folder, record, collate, cache) -> None:
    """The code of a kept model's card loads a model that has the record's metrics."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert metric_text([record["metrics"]]) in text
    assert record["latency"] is None or f"FLOPs reduction {record['flops']['reduction']:.2f}x" in text
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], names)
    dev = cache.splits["dev"]
    logits = predict(names["model"], dev, 8, collate)
    assert compute_metrics(["accuracy", "f1"], logits, dev.labels) == pytest.approx(record["metrics"], abs=1e-6)
    assert type(names["model"]).__name__ in text


def test_a_subset_of_the_training_rows_is_recorded(run, prepared):
    assert run("RunBert4Glue", *QUICK, *SCHEDULE, "--methods", "head", "--max-train-rows", "16")[0] == 0
    settings = records(prepared / "records")["head_0.6-0-0.3-0x3_seed1"]["settings"]
    assert (settings["train_rows"], settings["train_rows_available"]) == (16, 24)
    assert "student_learning_rate" not in settings


def test_the_schedules_constant_is_for_bert_base():
    assert len(RunBert4Glue.pruning_schedule) == 12
    assert (RunBert4Glue.epochs, RunBert4Glue.batch_size, RunBert4Glue.learning_rate) == (3.0, 32, 2e-5)


@pytest.mark.parametrize(
    ("schedule", "name"), [([0.6, 0, 0, 0], "0.6-0x3"), ([0.5] * 6, "0.5x6"), ([0.1, 0.2, 0.25], "0.1-0.2-0.25")]
)
def test_schedule_names(schedule, name):
    assert schedule_name(schedule) == name


def test_a_schedule_is_written_as_its_flag_takes_it(monkeypatch):
    assert schedule_text([0.8, 0.0, 0.0]) == "0.8,0,0"
    monkeypatch.setattr(sys, "argv", ["RunBert4Glue.py", "--schedule", schedule_text([0.154, 0.0, 0.25])])
    assert parse_flags(vars(RunBert4Glue)).pruning_schedule == [0.154, 0.0, 0.25]


def test_the_names_of_runs_are_file_names_on_any_system():
    """No colon, no space, nothing that Windows or a shell takes for something else."""
    schedule = [0.5, 1e-05, 0, 0.123456]
    prunings = [
        make_pruning(schedule, ["student", "random", None, "tail"], 4, count=count, padded_length=9)
        for count in ("real", "padded")
    ]
    search = SoftExtractSearch(4.0, None, 1e-3)
    methods = [Dense(), *map(TokenPruning, prunings)]
    for target in (1.5, 1e3):
        methods += [
            LearnedPruning(prunings[0], target=target),
            SoftExtractPruning(prunings[0], target=target, how=search),
        ]
    methods += [SoftExtractPruning(prunings[0], how=SoftExtractSearch(None, 1e-05, 1e-3))]
    names = [method.label for method in methods]
    assert len(set(names)) == len(names) == 8
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*[A-Za-z0-9]", name) for name in names), names


def test_nominal_rate_and_method_names():
    pruning = make_pruning([0.5, 0, 0.5, 0], ["random", None, "tail", None], 4)
    assert pruning.nominal_rate == pytest.approx(1 - (0.5 + 0.5 + 0.25 + 0.25) / 4)
    assert pruning.method == "random+tail"
    assert make_pruning([0.5, 0, 0.5, 0], "tail", 4).method == "tail"


def test_ag_news_runs_as_a_task_of_glue_does(run, prepared):
    write_agnews(prepared / "data")
    assert run("PrepareGlue4Bert", "--tasks", "agnews")[0] == 0
    code, _, err = run("RunBert4Glue", *QUICK, *SCHEDULE, "--tasks", "agnews", "--methods", "attention")
    assert code == 0, err
    record = records(prepared / "records")["attention_0.6-0-0.3-0x3_seed1"]
    assert record["task"] == "agnews"
    assert set(record["metrics"]) == {"accuracy"}
    assert record["tokens"]["real"] > 0
