"""Records are written whole or not at all, and the table says what they say."""

import ast
import copy
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from safetensors.torch import save_file

from pruner.compress.tokens.measures import count_tokens
from pruner.compress.tokens.schedule import make_pruning
from pruner.data.task import TASKS, Task
from pruner.evaluation.collapse import collapsed, majority_share
from pruner.report.card import card
from pruner.report.comparisons import budget_table, rate_table
from pruner.report.figure_data import charts
from pruner.report.page import csv, groups, section
from pruner.report.records import Log, Record, finished_record, finite, read_record, write_record
from pruner.report.tables import markdown, metric_text, one_answer, summary, to_frame
from pruner.training.stage import Recipe, Stage
from pruner.training.stages import Stages
from pruner.utils.environment import environment
from pruner.utils.errors import UserError
from pruner.utils.progress import duration

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


def content(method="student", seed=1, accuracy=0.8, **changes) -> dict:
    """What a record of version 2 holds: of a token pruning by a schedule, unless it is of something else."""
    pruned = method != "baseline"
    return {
        "version": 2,
        "model": "bert",
        "task": "mrpc",
        "method": method,
        "title": "student of emission" if method == "student" else method,
        "variant": "0.5,0" if pruned else "unpruned",
        "seed": seed,
        "status": "complete",
        "metrics": {"accuracy": accuracy},
        "baseline_metrics": {"accuracy": 0.9},
        "flops": {"baseline": 3.0, "pruned": 2.0, "reduction": 1.5},
        "latency": {"baseline_ms": 5.0, "pruned_ms": 4.0, "speedup": 1.25} if pruned else None,
        "settings": {"epochs": 3.0},
        "schedule": [0.5, 0.0],
        "schedule_source": "given",
        "tokens": {"effective_rate": 0.25 * pruned, "kept_by_layer": [0.5, 0.5]},
    } | changes


def make_record(*args, **changes) -> Record:
    return Record.from_json(content(*args, **changes))


def old_content(**changes) -> dict:
    """What a record of version 1 held."""
    old = content(teacher="emission", count="real", schedule_source="hand", **changes)
    return {key: value for key, value in old.items() if key not in ("version", "title", "variant")}


def test_a_record_replaces_another_as_a_whole(tmp_path):
    folder = tmp_path / "BERT" / "mrpc" / "run"
    log = Log()
    log("\none line")
    write_record(folder, make_record(), log)
    write_record(folder, make_record(accuracy=0.7), log)
    assert json.loads((folder / "record.json").read_text("utf-8"))["metrics"] == {"accuracy": 0.7}
    assert re.fullmatch(TIME + r"  one line\n", (folder / "run.log").read_text("utf-8"))
    assert [entry.name for entry in folder.parent.iterdir()] == ["run"]


def test_a_record_that_cannot_be_written_leaves_the_old_one(tmp_path):
    folder = tmp_path / "run"
    write_record(folder, make_record(), Log())
    with pytest.raises(UnicodeEncodeError):
        write_record(folder, make_record(accuracy=0.7), Log(), {"last.tsv": "\ud800"})
    assert finished_record(folder, {"epochs": 3.0}) == make_record()
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_only_a_complete_record_of_the_same_settings_is_finished(tmp_path):
    folder = tmp_path / "run"
    assert finished_record(folder, {}) is None
    write_content(folder, content(status="started"))
    assert finished_record(folder, {"epochs": 3.0}) is None
    write_record(folder, make_record(), Log())
    assert finished_record(folder, {"epochs": 3.0}) == make_record()
    with pytest.raises(UserError, match=r"finished with epochs = 3\.0, this run has 1\.0"):
        finished_record(folder, {"epochs": 1.0})
    with pytest.raises(UserError, match=r"finished with clip = None, this run has 1\.0"):
        finished_record(folder, {"epochs": 3.0, "clip": 1.0})


def write_content(folder, record) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")


WRONG = [
    {"metrics": {"accuracy": "high"}, "baseline_metrics": {"accuracy": "high"}},
    {"metrics": {}, "baseline_metrics": {}},
    {"metrics": {"f1": 0.8}},
    {"metrics": [0.8]},
    {"metrics": {"accuracy": float("nan")}},
    {"metrics": {"accuracy": True}},
    {"settings": None},
    {"settings": {"rate": float("inf")}},
    {"latency": {"speedup": "1.25"}},
    {"flops": {}},
    {"tokens": 0.25},
    {"schedule": "0.5,0"},
    {"schedule": [0.5, 1.5]},
    {"seed": "1"},
    {"task": ["mrpc"]},
    {"task": "../mrpc"},
    {"target_flops_reduction": []},
]
# Keys that records have had for some time only.
WRONG_OPTIONAL = [
    {"majority_share": {"dev": 1.5}},
    {"majority_share": {"a|b": 0.5}},
    {"collapsed": {"dev": {"answer": 1, "share": 0.5}}},
    {"collapsed": {"dev": {"answer": "1"}}},
    {"baseline_collapsed": []},
    {"examples": [{"sentence": "a"}]},
    {"examples": [{"sentence": "a", "kept": ["a"]}]},
    {"environment": {"gpu": {"name": "a GPU"}}},
    {"environment": {"cpu": 3}},
    {"environment": {"threads": "2"}},
    {"settings": {"max_length": [128]}},
    {"settings": {"epochs": 10**400}},
    {"seed": 2**63},
    {"title": "x" * 501},
    {"variant": "x\x1b"},
    {"folder": "x"},
    {"metrics.accuracy": "x"},
    {"more": [[[[[[[[[[[]]]]]]]]]]]},
]


@pytest.mark.parametrize("changes", WRONG)
@pytest.mark.parametrize("made", [content, old_content])
def test_a_complete_record_is_one_that_the_tables_can_show(tmp_path, made, changes):
    write_content(tmp_path / "cell", made())
    assert finished_record(tmp_path / "cell", read_record(tmp_path / "cell").settings)
    write_content(tmp_path / "cell", made() | changes)
    with pytest.raises(UserError, match=r"cell/record\.json: not a record; remove its folder"):
        finished_record(tmp_path / "cell", {"epochs": 3.0})
    optional = (
        {"target_flops_reduction", "latency", "tokens", "schedule"} if made is content else {"target_flops_reduction"}
    )
    for key in changes.keys() - optional:
        record = {name: value for name, value in made().items() if name != key}
        write_content(tmp_path / "cell", record)
        with pytest.raises(UserError, match="not a record"):
            finished_record(tmp_path / "cell", {"epochs": 3.0})


@pytest.mark.parametrize(
    "changes",
    [
        *WRONG,
        *WRONG_OPTIONAL,
        {"title": "a|b"},
        {"variant": "a\nb"},
        {"version": 3},
        {"settings": {"a": {1}}},
        {"bytes": {}},
    ],
)
def test_a_record_is_checked_when_it_is_made(changes):
    with pytest.raises(ValueError, match=None if "settings" in changes else next(iter(changes))):
        make_record(**changes)


def test_a_methods_section_stands_beside_the_common_keys_and_replaces_none():
    record = make_record()
    assert record.section.keys() == {"schedule", "schedule_source", "tokens"}
    common = {key: getattr(record, key) for key in content() if key not in record.section}
    quantized = Record(**common | {"method": "int8", "title": "int8", "variant": "8 bits"}, section={"bits": 8})
    assert quantized.to_json()["bits"] == 8
    assert Record.from_json(quantized.to_json()) == quantized
    with pytest.raises(ValueError, match="metrics, task: in a method's section, but a key of all records"):
        Record(**common, section={"task": "mrpc", "metrics": {}, "bits": 8})


def test_all_committed_records_are_read_and_read_again():
    paths = sorted((ROOT / "records" / "published").rglob("record.json"))
    records = [read_record(path.parent) for path in paths]
    assert len(records) > 250
    assert None not in records
    for path, record in zip(paths, records, strict=True):
        old = json.loads(path.read_text(encoding="utf-8"))
        new = json.loads(json.dumps(record.to_json()))
        assert Record.from_json(new) == record
        for key in old.keys() - {"schedule_source", "settings"}:
            assert new[key] == old[key], (path, key)
        assert old["settings"].items() <= new["settings"].items()


@pytest.mark.parametrize(
    ("changes", "source", "variant"),
    [
        ({}, "given", "0.5,0"),
        ({"method": "baseline", "teacher": None, "schedule": [0.0, 0.0], "latency": None}, "given", "unpruned"),
        ({"target_flops_reduction": 2.0, "schedule": [0.3, 0.3]}, "uniform", "0.3,0.3"),
        ({"target_flops_reduction": 2.0}, "first", "0.5,0"),
        ({"target_flops_reduction": 2.0, "schedule_source": "learned"}, "sampled", "learned for 2x"),
        (
            {"target_flops_reduction": 1.5, "schedule_source": "learned", "settings": {"search": {"reach": 4.0}}},
            "soft-extract",
            "soft-extract for 1.5x",
        ),
        (
            {"schedule_source": "learned", "settings": {"search": {"reach": None, "penalty": 1e-3}}},
            "soft-extract",
            "lambda 0.001",
        ),
    ],
)
def test_how_a_schedule_was_made_is_read_from_older_records(changes, source, variant):
    record = Record.from_json(old_content() | changes)
    assert (record.section["schedule_source"], record.variant) == (source, variant)


def test_all_pruned_models_of_older_records_were_timed(tmp_path):
    write_content(tmp_path, old_content(latency=None))
    with pytest.raises(UserError, match="not a record"):
        read_record(tmp_path)


def test_titles_of_older_records():
    lstm = {key: value for key, value in old_content(model="lstm").items() if not key.startswith("schedule")}
    record = Record.from_json(lstm | {"target_prune_rate": 0.9, "count": "padded", "teacher": "gate"})
    assert (record.title, record.variant) == ("student of gate (padded count)", "0.9")
    assert record.section["schedule_source"] == "given"
    assert Record.from_json(old_content() | {"method": "head", "teacher": None}).title == "head"


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 99_999, b"\xff", b"3", None])
def test_a_file_that_is_no_record(tmp_path, content):
    if content is None:
        (tmp_path / "record.json").symlink_to("nowhere")
    else:
        (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(UserError, match="not a record"):
        finished_record(tmp_path, {})


class Linear:
    """A backbone whose model is a layer of that size."""

    def __init__(self, size: int) -> None:
        self.size = size

    def build(self, task, say) -> torch.nn.Module:
        return torch.nn.Linear(2, self.size)


def kept_stage(root, result, size=3) -> tuple[Stages, Stage]:
    """A stage as it was kept in ``root``, with that result beside its weights."""
    stage = Stage(
        "cell", SimpleNamespace(task=SimpleNamespace(name="mrpc"), seed=1, backbone=Linear(size)), Recipe(), {}
    )
    stages = Stages(root, lambda text: None)
    stages.folder(stage).mkdir(parents=True, exist_ok=True)
    save_file(torch.nn.Linear(2, 3).state_dict(), stages.folder(stage) / "model.safetensors")
    (stages.folder(stage) / "stage.json").write_text(json.dumps(result), encoding="utf-8")
    return stages, stage


@pytest.mark.parametrize("result", [{}, [], 3, {"loss": [], "told": []}, {"loss": None, "told": {}}, {"loss": []}])
def test_a_stage_that_holds_no_result(tmp_path, result):
    stages, stage = kept_stage(tmp_path, {"loss": [{"step": 1, "loss": 0.5}], "told": {}})
    assert stages.obtain(stage).loss == [{"step": 1, "loss": 0.5}]
    kept_stage(tmp_path, result)
    with pytest.raises(
        UserError, match=r"cell-\w+: not a finished stage \(.*\); remove the folder, and the stage is trained again$"
    ):
        stages.obtain(stage)


def test_a_stage_of_another_model_is_named_in_one_line(tmp_path):
    stages, stage = kept_stage(tmp_path, {"loss": [], "told": {}}, size=4)
    with pytest.raises(UserError, match=r"^[^\n]*cell-\w+: not a finished stage"):
        stages.obtain(stage)


def test_a_record_from_before_a_setting_is_finished_with_its_default(tmp_path):
    write_content(tmp_path / "cell", old_content())
    now = {"epochs": 3.0, "dtype": "auto", "start": "pretrained", "reach": None, "search": None}
    assert finished_record(tmp_path / "cell", now).settings == now
    with pytest.raises(UserError, match="finished with dtype = auto, this run has bfloat16"):
        finished_record(tmp_path / "cell", now | {"dtype": "bfloat16"})
    write_content(tmp_path / "cell", old_content() | {"method": "baseline", "teacher": None, "latency": None})
    assert finished_record(tmp_path / "cell", {"epochs": 3.0, "dtype": "auto"})


def test_the_table_has_means_and_deviations_over_seeds():
    records = [make_record(seed=1, accuracy=0.80), make_record(seed=2, accuracy=0.84), make_record("random")]
    records.append(make_record("baseline", accuracy=0.9))
    table = summary(to_frame(records))
    assert table["method"].tolist() == ["student of emission", "random", "baseline"]
    assert table["schedule"].tolist() == ["0.5,0", "0.5,0", "unpruned"]
    assert table["seeds"].tolist() == [2, 1, 1]
    assert table["metric"].tolist() == ["accuracy 82.0 ± 2.8", "accuracy 80.0", "accuracy 90.0"]
    assert table["tokens not computed"].tolist() == ["25.0%", "25.0%", "0.0%"]
    assert table["speed-up"].tolist() == ["1.25x", "1.25x", ""]
    lines = markdown(table).splitlines()
    assert len(lines) == 5
    assert len({len(line) for line in lines}) == 1
    assert metric_text([{"accuracy": 0.5, "f1": 0.25}]) == "accuracy 50.0, f1 25.0"


def bits(number, seed=1, **changes) -> Record:
    """A record of a method that prunes no tokens."""
    record = {key: value for key, value in content("int8", seed, **changes).items() if key not in make_record().section}
    return Record.from_json(record | {"variant": f"{number} bits"})


def test_what_only_token_pruning_has_is_blank_for_other_methods():
    baseline = {key: value for key, value in content("baseline").items() if key not in make_record().section}
    table = summary(to_frame([Record.from_json(baseline), bits(8), bits(8, 2), bits(4, latency=None)]))
    assert table["variant"].tolist() == ["unpruned", "8 bits", "4 bits"]
    assert table["tokens not computed"].tolist() == ["", "", ""]
    assert table["FLOPs reduction"].tolist() == ["", "1.50x", "1.50x"]
    assert table["speed-up"].tolist() == ["", "1.25x", ""]
    both = summary(to_frame([make_record(), bits(8)]))
    assert both["variant"].tolist() == ["0.5,0", "8 bits"]
    assert both["tokens not computed"].tolist() == ["25.0%", ""]


def test_the_rate_table_has_a_column_for_each_rate():
    def cell(method, rate, seed, accuracy):
        record = content(method, seed, accuracy, variant=f"{rate:g}" if rate else "unpruned", target_prune_rate=rate)
        del record["schedule"]
        return Record.from_json(record | {"baseline_metrics": {"accuracy": 0.9 if seed == 1 else 0.92}})

    records = [cell("baseline", 0.0, 1, 0.9), cell("student", 0.5, 1, 0.8), cell("student", 0.9, 1, 0.7)]
    records += [cell("student", 0.9, 2, 0.74), cell("random", 0.9, 1, 0.5)]
    table = rate_table(to_frame(records))
    assert list(table.columns) == ["task", "method", "metric", "unpruned", "0.5", "0.9"]
    assert table.values.tolist() == [
        ["mrpc", "student of emission", "accuracy", "91.0 ± 1.4", "80.0", "72.0 ± 2.8"],
        ["mrpc", "random", "accuracy", "90.0", "", "50.0"],
    ]
    assert summary(to_frame(records))["rate"].tolist() == ["unpruned", "0.5", "0.9", "0.9"]


def test_different_counting_is_not_averaged():
    records = [Record.from_json(old_content() | {"count": count}) for count in ("real", "padded")]
    table = summary(to_frame(records))
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


ONLY_ONE = {"dev": {"answer": "1", "share": 0.68382}}


def test_a_model_that_gives_one_answer_only_is_named_in_tables():
    records = [
        make_record("baseline", accuracy=0.9),
        make_record("random", accuracy=0.6838, collapsed=ONLY_ONE),
        make_record("student", 1, accuracy=0.6838, collapsed=ONLY_ONE),
        make_record("student", 2, accuracy=0.3162, collapsed={"dev": {"answer": "0", "share": 0.31618}}),
        make_record("student", 3, accuracy=0.8, baseline_collapsed=ONLY_ONE),
    ]
    table = summary(to_frame(records)).set_index("method")
    assert table.loc["baseline", "note"] == ""
    assert table.loc["random", "note"] == 'answers only "1", 68.4 % of dev'
    assert table.loc["student of emission", "note"] == (
        'answers only "1", 68.4 % of dev in 1 of 3 seeds; answers only "0", 31.6 % of dev in 1 of 3 seeds; '
        'baseline answers only "1", 68.4 % of dev in 1 of 3 seeds'
    )
    # Older records, and those of models that tell their sentences apart, have the table that they have had.
    assert "note" not in summary(to_frame([make_record(), make_record("baseline")]))

    def cell(target, seed, collapsed):
        return make_record("attention", seed, 0.9, target_flops_reduction=target, collapsed=collapsed)

    budgets = [cell(1.5, 1, {}), cell(1.5, 2, ONLY_ONE), cell(2.0, 1, ONLY_ONE)]
    assert budget_table(to_frame(budgets)).iloc[0, 4:].tolist() == [
        "90.0 ± 0.0",
        "90.0 ± 0.0 (+0.0) (1 of 2 collapsed)",
        "90.0 (+0.0) collapsed",
    ]


def test_any_name_of_a_class_can_stand_in_a_table():
    collapsed = {
        "dev_matched": {"answer": 'a|b\n"c"', "share": 0.5},
        "dev_mismatched": {"answer": "x" * 100, "share": 1.0},
    }
    text = one_answer(make_record(collapsed=collapsed).collapsed)
    assert text == f'answers only "a/b\\n"c"", 50.0 % of dev_matched and "{"x" * 37}...", 100.0 % of dev_mismatched'
    assert one_answer({"dev": {"answer": "2.51", "share": None}}) == "answers only 2.51 on dev"
    assert one_answer({}) == ""


def dev_of(name: str, **labels) -> tuple[Task, Any]:
    return TASKS[name], SimpleNamespace(splits={split: SimpleNamespace(labels=x) for split, x in labels.items()})


def test_one_answer_only_is_found_on_each_dev_set():
    task, cache = dev_of("mnli", dev_matched=np.array([0, 1, 1, 2]), dev_mismatched=np.array([2, 2, 0]))
    assert majority_share(task, cache) == {"dev_matched": 0.5, "dev_mismatched": pytest.approx(2 / 3, abs=1e-6)}
    same, other = np.tile([0.0, 1.0, 0.5], (4, 1)), np.eye(3)
    assert collapsed(task, cache, {"dev_matched": same, "dev_mismatched": other}) == {
        "dev_matched": {"answer": task.labels[1], "share": 0.5}
    }
    assert collapsed(task, cache, {"dev_matched": np.eye(4, 3), "dev_mismatched": other}) == {}
    task, cache = dev_of("sts-b", dev=np.array([0.0, 2.5], dtype=np.float32))
    assert majority_share(task, cache) == {}
    assert collapsed(task, cache, {"dev": np.array([[2.5], [2.504]])}) == {"dev": {"answer": "2.50", "share": None}}
    assert collapsed(task, cache, {"dev": np.array([[2.5], [2.51]])}) == {}
    task, cache = dev_of("agnews", test=np.array([0, 1, 2, 3]))
    assert collapsed(task, cache, {"test": np.eye(4)[[3, 3, 3, 3]]}) == {"test": {"answer": "Sci/Tech", "share": 0.25}}


@pytest.mark.parametrize("name", ["a `b` |c| *d* <e> [f](g) ```", "- x\n---\n# y", "null", "1.0", "é: {z}"])
def test_no_text_of_a_record_breaks_a_card(name):
    """The front matter is YAML, the table has two columns, the code compiles."""
    task = replace(TASKS["mrpc"], labels=(name, "1"))
    record = make_record(
        "head",
        collapsed={"dev": {"answer": name, "share": 0.5}},
        settings={"max_length": 8, "bert": name},
        title=" ".join(name.replace("|", "").split()),
    )
    text = card(record, task, torch.nn.Linear(1, 1), Path(f"models/{name}"))
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["token-pruning", "bert", "head", "mrpc"],
    }
    rows = [line for line in body.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows)
    assert "| difference, points | accuracy -10.0 |" in rows
    assert [line[:1] for line in body.splitlines()].count("#") == 1
    assert body.count("\n```") == 2
    code = re.search("```python\n(.*)\n```\n$", body, re.DOTALL)[1]
    places = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    assert f"models/{name}" in places


def test_durations_have_a_unit_in_which_they_are_not_zero():
    assert [duration(seconds) for seconds in (0.1, 59.4, 59.6, 90, 5399, 9000)] == [
        *("1 s", "59 s", "1 min", "2 min", "90 min", "2.5 h")
    ]


def test_budgets_have_a_column_each_with_the_difference_to_the_baseline():
    def cell(target, source, accuracy, seed=1):
        return make_record("attention", seed, accuracy, target_flops_reduction=target, schedule_source=source)

    records = [
        make_record("baseline", accuracy=0.9),
        cell(1.5, "sampled", 0.89, 1),
        cell(1.5, "sampled", 0.87, 2),
        cell(2.0, "sampled", 0.85, 1),
        cell(2.0, "uniform", 0.84),
        cell(2.0, "first", 0.8),
        cell(2.0, "soft-extract", 0.83, 1),
        cell(2.0, "of-a-plug-in", 0.83, 1),
    ]
    table = budget_table(to_frame(records))
    assert list(table.columns) == ["task", "method", "schedule", "metric", "unpruned", "1.5x", "2x"]
    assert table["schedule"].tolist() == ["learned", "uniform", "first layer", "soft-extract", "of-a-plug-in"]
    assert table.iloc[0, 4:].tolist() == ["90.0 ± 0.0", "88.0 ± 1.4 (-2.0)", "85.0 (-5.0)"]
    assert table.iloc[2, 4:].tolist() == ["90.0", "", "80.0 (-10.0)"]


PUBLISHED = ("BERT/mrpc/student-emission_0.6-0x5_seed1", "LSTM/agnews/student-gate_0.9_seed1")
FOREIGN = [None, {}, [], ["x"], [1, 2], "=text", -1, 0, 10**400, 1e308, 2**62, True, {"a": {"b": [{}]}}]


def places(value, place=()):
    """Yield where the nodes of JSON are; of a list, the first element alone."""
    yield place
    inside = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, element in inside:
        yield from places(element, (*place, key))


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("version", [1, 2])
def test_a_record_of_a_foreign_shape_is_refused_or_shown(name, version, tmp_path):
    """Whatever stands in place of a part of it."""
    old = json.loads((ROOT / "records" / "published" / name / "record.json").read_text("utf-8"))
    content = old if version == 1 else json.loads(json.dumps(Record.from_json(old).to_json()))
    content["loss"] = content["loss"][:3]
    shown, alone, refused = {}, [], 0
    for number, place in enumerate(places(content)):
        for value in FOREIGN:
            changed = copy.deepcopy(content)
            at = changed
            for key in place[:-1]:
                at = at[key]
            if place:
                at[place[-1]] = value
            try:
                record = Record.from_json(changed if place else value)
            except ValueError:
                refused += 1
            else:
                shown[f"BERT/mrpc/{len(shown)}"] = record
                if place[0] in ("environment", "tokens", "metrics_by_length") and number % 3 == 0:
                    alone.append(record)
    assert refused > 500
    assert len(shown) > 300
    for records in (shown, *({"BERT/mrpc/run": record} for record in alone[:: len(alone) // 10 + 1])):
        assert csv(records).count("\n") == len(records) + 1
        for group in groups(records):
            section(group, list(charts(group.title, group.frame)), tmp_path)


def test_texts_of_a_record_are_printable_and_say_nothing_of_who_ran_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    settings = {"epochs": 3.0, "bert": f"{tmp_path}/project/bert"}
    record = make_record(
        settings=settings,
        model_folder=f"{tmp_path}/models/a\udc80",
        examples=[{"sentence": "\x1b[2J", "kept": ""}],
        more={"\x9b": ["\u202e"]},
    )
    log = Log()
    log(f"-> {tmp_path}/project/run\n  \x1b[2J {tmp_path}/models")
    write_record(Path("run"), record, log)
    written = Path("run/record.json").read_text("utf-8")
    found = json.loads(written)
    assert found["settings"]["bert"] == "bert"
    assert found["model_folder"] == "~/models/a\\udc80"
    assert found["examples"] == [{"sentence": "\\x1b[2J", "kept": ""}]
    assert found["more"] == {"\\x9b": ["\\u202e"]}
    lines = Path("run/run.log").read_text("utf-8").splitlines()
    assert [line[21:] for line in lines] == ["-> run", "  \\x1b[2J ~/models"]
    for spelled in (settings, settings | {"bert": "bert"}):
        assert finished_record(Path("run"), spelled) == record
    with pytest.raises(UserError, match="finished with bert = bert, this run has ~/bert"):
        finished_record(Path("run"), settings | {"bert": f"{tmp_path}/bert"})


def test_the_card_of_a_model_in_the_home_folder_has_code_that_finds_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    record = make_record(settings={"max_length": 8, "bert": f"{tmp_path}/bert"})
    text = card(record, TASKS["mrpc"], torch.nn.Linear(1, 1), tmp_path / "models" / "a\u202e")
    assert str(tmp_path) not in text
    assert r"| pretrained model | \~/bert |" in text
    code = re.search("```python\n(.*)\n```\n$", text, re.DOTALL)[1]
    (line,) = [line for line in code.splitlines() if line.startswith("folder = ")]
    names: dict[str, Any] = {}
    exec(f"import os\n{line}", names)
    assert "import os\n" in code
    assert names["folder"] == f"{tmp_path}/models/a\u202e"
