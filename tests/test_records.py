"""Records are written whole or not at all, and the table says what they say."""

import json

import pytest
import torch

from pruner.compress.tokens.measures import count_tokens
from pruner.compress.tokens.schedule import make_pruning
from pruner.report.records import Log, environment, finished_record, finite, write_record
from pruner.report.tables import budgets, curve, markdown, metric_text, summary
from pruner.training.steps import read_step, write_step
from pruner.utils.errors import UserError


def make_record(method="student", seed=1, accuracy=0.8, **changes) -> dict:
    record = {
        "task": "mrpc",
        "method": method,
        "teacher": "emission" if method == "student" else None,
        "schedule": [0.5, 0.0],
        "count": "real",
        "seed": seed,
        "status": "complete",
        "metrics": {"accuracy": accuracy},
        "baseline_metrics": {"accuracy": 0.9},
        "tokens": {"effective_rate": 0.25},
        "flops": {"reduction": 1.5},
        "latency": {"speedup": 1.25},
        "settings": {"epochs": 3.0},
    }
    return record | changes


def test_a_record_replaces_another_as_a_whole(tmp_path):
    folder = tmp_path / "BERT" / "mrpc" / "run"
    log = Log()
    log("one line")
    write_record(folder, make_record(), log)
    write_record(folder, make_record(accuracy=0.7), log)
    assert json.loads((folder / "record.json").read_text("utf-8"))["metrics"] == {"accuracy": 0.7}
    assert (folder / "run.log").read_text("utf-8") == "one line\n"
    assert [entry.name for entry in folder.parent.iterdir()] == ["run"]


def test_a_record_that_cannot_be_written_leaves_the_old_one(tmp_path):
    folder = tmp_path / "run"
    write_record(folder, make_record(), Log())
    with pytest.raises(ValueError, match="JSON compliant"):
        write_record(folder, make_record(accuracy=float("nan")), Log())
    assert finished_record(folder, {"epochs": 3.0})["metrics"] == {"accuracy": 0.8}
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_only_a_complete_record_of_the_same_settings_is_finished(tmp_path):
    folder = tmp_path / "run"
    assert finished_record(folder, {}) is None
    write_record(folder, make_record(status="started"), Log())
    assert finished_record(folder, {"epochs": 3.0}) is None
    write_record(folder, make_record(), Log())
    assert finished_record(folder, {"epochs": 3.0})["status"] == "complete"
    with pytest.raises(UserError, match=r"finished with epochs = 3\.0, this run has 1\.0"):
        finished_record(folder, {"epochs": 1.0})
    with pytest.raises(UserError, match=r"finished with clip = None, this run has 1\.0"):
        finished_record(folder, {"epochs": 3.0, "clip": 1.0})


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": {"accuracy": "high"}, "baseline_metrics": {"accuracy": "high"}},
        {"metrics": {}, "baseline_metrics": {}},
        {"metrics": {"f1": 0.8}},
        {"metrics": [0.8]},
        {"settings": None},
        {"latency": None},
        {"latency": {"speedup": "1.25"}},
        {"flops": {}},
        {"tokens": 0.25},
        {"schedule": "0.5,0"},
        {"seed": "1"},
        {"task": ["mrpc"]},
        {"target_flops_reduction": []},
    ],
)
def test_a_complete_record_is_one_that_the_tables_can_show(tmp_path, changes):
    write_record(tmp_path / "cell", make_record(), Log())
    assert finished_record(tmp_path / "cell", {"epochs": 3.0}) == make_record()
    write_record(tmp_path / "cell", make_record(**changes), Log())
    with pytest.raises(UserError, match=r"cell/record\.json: not a record; remove its folder"):
        finished_record(tmp_path / "cell", {"epochs": 3.0})
    for key in changes.keys() - {"target_flops_reduction"}:  # which older ones do not have
        record = make_record()
        del record[key]
        (tmp_path / "cell" / "record.json").write_text(json.dumps(record), encoding="utf-8")
        with pytest.raises(UserError, match="not a record"):
            finished_record(tmp_path / "cell", {"epochs": 3.0})


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 99_999, b"\xff", b"3", None])
def test_a_file_that_is_no_record(tmp_path, content):
    if content is None:
        (tmp_path / "record.json").symlink_to("nowhere")
    else:
        (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(UserError, match="not a record"):
        finished_record(tmp_path, {})


@pytest.mark.parametrize(
    "result",
    [
        {},
        [],
        3,
        {"loss": None},
        {"path": []},
        {"path": [[]], "loss": 1},
        {"path": [[1.0], [1.0, 0.5]]},
        {"path": [["1"]]},
    ],
)
def test_a_step_that_holds_no_result(tmp_path, result):
    model = torch.nn.Linear(2, 3)
    for whole in ({"loss": [{"step": 1, "loss": 0.5}]}, {"path": [[1.0, 1.0], [0.5, 0.25]]}):
        write_step(tmp_path / "step", model, whole)
        assert read_step(tmp_path / "step", model) == whole
    write_step(tmp_path / "step", model, result)
    with pytest.raises(UserError, match=r"step: not a finished step \(.*\); remove the folder$"):
        read_step(tmp_path / "step", model)


def test_a_step_of_another_model_is_named_in_one_line(tmp_path):
    write_step(tmp_path / "step", torch.nn.Linear(2, 3), {"loss": []})
    with pytest.raises(UserError, match=r"^[^\n]*step: not a finished step"):
        read_step(tmp_path / "step", torch.nn.LSTM(2, 3))


def test_a_record_from_before_a_setting_is_finished_with_its_default(tmp_path):
    write_record(tmp_path / "cell", make_record(), Log())
    now = {"epochs": 3.0, "dtype": "auto", "start": "pretrained", "reach": None, "search": None}
    assert finished_record(tmp_path / "cell", now) == make_record()
    with pytest.raises(UserError, match="finished with dtype = auto, this run has bfloat16"):
        finished_record(tmp_path / "cell", now | {"dtype": "bfloat16"})


def test_the_table_has_means_and_deviations_over_seeds():
    records = [make_record(seed=1, accuracy=0.80), make_record(seed=2, accuracy=0.84), make_record("random")]
    records.append(make_record("baseline", accuracy=0.9, latency=None))
    table = summary(records)
    assert table["method"].tolist() == ["student of emission", "random", "baseline"]
    assert table["seeds"].tolist() == [2, 1, 1]
    assert table["metric"].tolist() == ["accuracy 82.0 ± 2.8", "accuracy 80.0", "accuracy 90.0"]
    assert table["tokens not computed"][0] == "25.0%"
    assert table["speed-up"].tolist() == ["1.25x", "1.25x", ""]
    lines = markdown(table).splitlines()
    assert len(lines) == 5
    assert len({len(line) for line in lines}) == 1
    assert metric_text([{"accuracy": 0.5, "f1": 0.25}]) == "accuracy 50.0, f1 25.0"


def test_the_curve_has_a_column_for_each_rate():
    def cell(method, rate, seed, accuracy):
        record = make_record(method, seed, accuracy, target_prune_rate=rate)
        del record["schedule"]
        record["baseline_metrics"] = {"accuracy": 0.9 if seed == 1 else 0.92}
        return record

    records = [cell("baseline", 0.0, 1, 0.9), cell("student", 0.5, 1, 0.8), cell("student", 0.9, 1, 0.7)]
    records += [cell("student", 0.9, 2, 0.74), cell("random", 0.9, 1, 0.5)]
    table = curve(records)
    assert list(table.columns) == ["task", "method", "metric", "unpruned", "0.5", "0.9"]
    assert table.values.tolist() == [
        ["mrpc", "student of emission", "accuracy", "91.0 ± 1.4", "80.0", "72.0 ± 2.8"],
        ["mrpc", "random", "accuracy", "90.0", "", "50.0"],
    ]
    assert summary(records)["rate"].tolist() == ["unpruned", "0.5", "0.9", "0.9"]


def test_different_counting_is_not_averaged():
    table = summary([make_record(), make_record(count="padded")])
    assert table["method"].tolist() == ["student of emission", "student of emission (padded count)"]


def test_a_metric_that_is_no_number_stops_the_cell():
    with pytest.raises(UserError, match="mrpc: accuracy is nan"):
        finite({"accuracy": float("nan")}, "mrpc")


def test_environment_is_flat_and_serialisable():
    found = environment(steady=True)
    assert json.loads(json.dumps(found)) == found
    assert {"python", "torch", "transformers", "cpu", "git_commit"} <= set(found)


def test_published_counting_on_real_data(shared, tmp_path, run):
    """Padded to 128, a rate of 0.6 drops 0.1 % of SST-2's real tokens, none of CoLA's, 12 % of MRPC's."""
    from pruner.data.cache import read_cache
    from pruner.data.tokenizer import load_tokenizer

    bert = shared / "models" / "minilm-l6"
    code, _, err = run("PrepareGlue4Bert", "--data", str(shared / "data" / "glue"), "--bert", str(bert))
    assert code == 0, err
    fingerprint = load_tokenizer(bert, 128).fingerprint
    dropped = {}
    for task in ("sst-2", "cola", "mrpc"):
        dev = read_cache(tmp_path / "cache" / "bert", task, "bert", fingerprint, "").splits["dev"]
        pruning = make_pruning([0.6], "head", 1, count="padded", padded_length=128)
        dropped[task] = count_tokens(dev.lengths.tolist(), pruning)["effective_rate"]
        real = count_tokens(dev.lengths.tolist(), make_pruning([0.6], "head", 1))["effective_rate"]
        assert 0.55 < real <= 0.6
    assert dropped == pytest.approx({"sst-2": 0.001, "cola": 0.0, "mrpc": 0.12}, abs=0.005)


def test_budgets_have_a_column_each_with_the_difference_to_the_baseline():
    def cell(target, schedule, accuracy, seed=1, source="hand", search=None):
        changes = {"target_flops_reduction": target, "schedule": schedule, "schedule_source": source}
        baseline = {"baseline_metrics": {"accuracy": 0.9}, "settings": {"search": search}}
        return make_record("attention", seed, accuracy, teacher=None, **changes, **baseline)

    records = [
        cell(None, [0.0, 0.0], 0.9),
        cell(1.5, [0.2, 0.5], 0.89, 1, "learned"),
        cell(1.5, [0.3, 0.4], 0.87, 2, "learned"),
        cell(2.0, [0.4, 0.6], 0.85, 1, "learned"),
        cell(2.0, [0.5, 0.5], 0.84),
        cell(2.0, [0.7, 0.0], 0.8),
        cell(2.0, [0.1, 0.9], 0.83, 1, "learned", {"reach": 4.0}),
    ]
    table = budgets(records)
    assert list(table.columns) == ["task", "method", "schedule", "metric", "unpruned", "1.5x", "2x"]
    assert table["schedule"].tolist() == ["learned", "uniform", "first layer", "soft-extract"]
    assert table.iloc[0, 4:].tolist() == ["90.0 ± 0.0", "88.0 ± 1.4 (-2.0)", "85.0 (-5.0)"]
    assert table.iloc[2, 4:].tolist() == ["90.0", "", "80.0 (-10.0)"]
