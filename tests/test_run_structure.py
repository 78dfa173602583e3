"""RunBert4Glue.py with tickets, fewer layers, heads and neurons, chains of them, and several tasks in one encoder."""

import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import small_bert, small_config
from reference import make_inputs
from test_choices import CONFIG, context, random_scores, split, told
from test_run import QUICK, prepared, records  # noqa: F401
from transformers import BertForSequenceClassification

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.structure.choices import Ticket
from pruner.compress.structure.masks import masked
from pruner.compress.structure.multi_task import MultiTaskBert, MultiTaskData, TaskBatches, union
from pruner.compress.structure.shrink import Structure, shrink
from pruner.training import stages
from pruner.training.trainer import PruningTrainer

ORDER = "a chain has one of each at most, in this order: layers, then width or a ticket, then smaller embeddings"
TICKETS = ("--ticket-levels", "30,60")
METHODS = (
    "winning-ticket,random-ticket,losing-ticket,layers-top,layers-contribution,layers-loss,width,width-untrained,"
    "layers-top.width-random"
)


def test_methods_of_width_and_depth(run, prepared):  # noqa: F811
    levels = ("--layers-dropped", "2", "--width-reduction", "2")
    code, out, err = run("RunBert4Glue", *QUICK, *TICKETS, *levels, "--methods", METHODS, "--save-models", "models")
    assert code == 0, err
    found = records(prepared / "records/BERT/mrpc")
    assert len(found) == 13
    dense = found.pop("baseline_seed1")
    for name, record in found.items():
        kept, settings = record["kept"], record["settings"]
        assert settings["structure"], name
        assert settings["held_out"] == 0.1  # there are several levels to choose from
        assert record["held_out_metrics"].keys() == record["metrics"].keys() == dense["held_out_metrics"].keys()
        assert len(kept["layers"]) == len(kept["heads"]) == len(kept["neurons"])
        assert len(kept["layers"]) == (4 if "layers" in name else 6)
        assert 0.3 < record["weights_remaining"] < 1
        assert record["parameters"]["pruned"] / dense["parameters"]["pruned"] == pytest.approx(
            record["weights_remaining"], abs=1e-5
        )
        assert record["flops"]["reduction"] > 1
        assert record["latency"]["speedup"] > 0
        assert "schedule" not in record
        model = PrunedBertForSequenceClassification.from_pretrained(prepared / "models/mrpc" / name)
        structure = Structure.of(model.config)
        assert [list(heads) for heads in structure.heads] == kept["heads"]
        assert sum(x.numel() for x in model.parameters()) == record["parameters"]["pruned"]
        size = (prepared / "models/mrpc" / name / "model.safetensors").stat().st_size
        assert record["file_bytes"] == size < dense["file_bytes"]
    for level, reduction in (30, 1.1), (60, 1.5):
        same = [found[f"{kind}-ticket_{level}_seed1"] for kind in ("winning", "random", "losing")]
        assert len({record["parameters"]["pruned"] for record in same}) == 1
        assert all(record["flops"]["reduction"] > reduction for record in same)
    assert found["layers-top_2_seed1"]["kept"]["layers"] == [0, 1, 2, 3]
    assert found["width_2x_seed1"]["flops"]["reduction"] == pytest.approx(2, rel=0.1)
    assert found["width-untrained_2x_seed1"]["loss"] == dense["loss"]
    assert found["width-untrained_2x_seed1"]["kept"] == found["width_2x_seed1"]["kept"]
    assert found["width_2x_seed1"]["settings"]["start"] == "finetuned"
    assert found["winning-ticket_30_seed1"]["settings"]["start"] == "pretrained"
    # The masks are by the scores that were kept, and those are measured once.
    assert out.count("measuring") == 3
    kept = next((prepared / "cache/bert/stages/mrpc").glob("importance_seed1-*"))
    assert {path.name for path in kept.iterdir()} == {"stage.json", "SHA256SUMS"}
    card = (prepared / "models/mrpc/winning-ticket_30_seed1/README.md").read_text("utf-8")
    assert "# winning ticket, without 30 % of heads, on mrpc" in card
    assert "- structured-pruning" in card
    assert re.search(r"\| weights \| \d\d\.\d% of the dense model's \|", card)
    again = run("RunBert4Glue", *QUICK, *TICKETS, *levels, "--methods", METHODS, "--dry-run")[1]
    assert "13 cells, 13 of them finished; 0 trainings to do" in again


def test_tokens_leave_what_is_left(run, prepared):  # noqa: F811
    chain = "layers-symmetric.winning-ticket.student"
    options = ("--layers-dropped", "2", "--ticket-levels", "40", "--methods", chain)
    code, _, err = run("RunBert4Glue", *QUICK, *options, "--schedule", "0.4,0,0.2,0", "--records", "given")
    assert code == 0, err
    budget = ("--target-flops-reduction", "1.5", "--search-reach", "2")
    code, _, err = run("RunBert4Glue", *QUICK, *options, *budget, "--records", "learned")
    assert code == 0, err
    given = records(prepared / "given")["layers-symmetric_2.winning-ticket_40.student-emission_0.4-0-0.2-0_seed1"]
    assert given["schedule"] == [0.4, 0, 0.2, 0]
    assert given["kept"]["layers"] == [0, 1, 4, 5]
    assert given["settings"]["start"] == "pretrained"
    assert "held_out" not in given["settings"]  # there is nothing to choose
    assert given["examples"][0]["kept"]
    learned = records(prepared / "learned")["layers-symmetric_2.winning-ticket_40.student-emission_learned-1.5x_seed1"]
    # The budget is counted against what the steps before have left.
    code, _, err = run("RunBert4Glue", *QUICK, *options[:-1], chain.removesuffix(".student"), "--records", "alone")
    assert code == 0, err
    alone = records(prepared / "alone")["layers-symmetric_2.winning-ticket_40_seed1"]
    assert alone["kept"] == learned["kept"]
    assert learned["flops"]["reduction"] == pytest.approx(1.5 * alone["flops"]["reduction"], rel=0.04)
    assert learned["schedule_source"] == "sampled"
    model = PrunedBertForSequenceClassification.from_pretrained(given["model_folder"])
    assert model.pruning.schedule == (0.4, 0, 0.2, 0)
    # The words that are left are shown by layer, in the dense model's numbers.
    name = "layers-symmetric_2.winning-ticket_40.student-emission_0.4-0-0.2-0_seed1"
    code, out, err = run(
        "pruner.survivors", f"given/mrpc/{name}", "--sentence", "a fine film", "--second", "a dull one"
    )
    assert code == 0, err
    assert re.findall(r"^layer (\d)", out, re.MULTILINE) == [*"1256", *"1256"]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--methods", "width.layers-top"), f"'width.layers-top': {ORDER}"),
        (("--methods", "layers-top.layers-odd"), f"'layers-top.layers-odd': {ORDER}"),
        (("--methods", "student.width"), f"'student.width': {ORDER}"),
        (("--methods", "layers-top.student.width"), f"'layers-top.student.width': {ORDER}"),
        (("--methods", "layers-top.multi-task"), "multi-task needs several, this run has 1"),
        (("--methods", "student.tail"), "'student.tail': these cannot be joined; name them apart"),
        (("--methods", "width.studentt"), "unknown method 'studentt'; did you mean student?"),
        (("--methods", "layers-topp"), "unknown method 'layers-topp'; did you mean layers-top?"),
        (
            ("--methods", "layers-top", "--layers-dropped", "6"),
            "--layers-dropped (layers_dropped): 6 of 6 for layers-top",
        ),
        (("--methods", "layers-odd", "--layers-dropped", "4"), "4 of 6 for layers-odd; use 1 to 3"),
        (("--methods", "winning-ticket", "--ticket-levels", "120"), "120 is no percentage"),
        (("--methods", "winning-ticket", "--ticket-feed-forwards", "1"), "1 numbers for 8 ticket_levels"),
        (
            ("--methods", "winning-ticket", "--ticket-levels", "10", "--ticket-feed-forwards", "7"),
            "7 of 6 cannot leave; use less",
        ),
        (("--methods", "width", "--width-reduction", "1"), "1.0 is out of range"),
        (("--methods", "width", "--width-reduction", "99"), "99 cannot be met"),
        (("--methods", "layers-top", "--held-out", "1"), "--held-out (held_out): 1 is no share"),
        (("--methods", "layers-top.student", "--layers-dropped", "1"), "6 rates for a model of 5 layers"),
        (
            ("--methods", "layers-top.student", "--target-flops-reduction", "1.5", "--budget-schedule", "uniform"),
            "takes a given schedule, or learned ones",
        ),
        (("--methods", "winning-ticket", "--ticket-levels", ""), "--ticket-levels (ticket_levels): the list is empty"),
        (("--methods", "multi-task"), "--tasks (tasks): multi-task needs several, this run has 1"),
        (("--methods", "multi-task-tickets", "--multi-task-levels", "101"), "101 is no percentage"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(run, prepared, flags, line):  # noqa: F811
    code, _, err = run("RunBert4Glue", *QUICK, "--schedule", "0.6,0,0,0,0,0", *flags)
    assert code == 2
    assert line in err
    assert err.count("\n") == 1
    assert not (prepared / "records").exists()


def test_measurements_are_listed_kept_and_found_damaged(run, prepared):  # noqa: F811
    options = (
        *QUICK,
        "--ticket-levels",
        "30",
        "--methods",
        "winning-ticket,layers-contribution",
        "--layers-dropped",
        "1",
    )
    code, out, _ = run("RunBert4Glue", *options, "--dry-run")
    assert code == 0
    assert "    stage importance_seed1: to do (a measurement of baseline_seed1)\n" in out
    assert "    stage contribution_seed1: to do (a measurement of the pre-trained model)\n" in out
    assert "3 cells, 0 of them finished; 3 trainings to do" in out
    assert run("RunBert4Glue", *options)[0] == 0
    folder = next((prepared / "cache/bert/stages/mrpc").glob("importance_seed1-*"))
    (folder / "stage.json").write_text("{}", encoding="utf-8")
    shutil.rmtree(prepared / "records")
    code, _, err = run("RunBert4Glue", *options)
    assert code == 2
    assert f"{folder.relative_to(prepared)}" in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_a_ticket_resumes(run, prepared, monkeypatch):  # noqa: F811
    options = (*QUICK, *TICKETS, "--methods", "winning-ticket")
    assert run("RunBert4Glue", *options, "--records", "whole")[0] == 0
    shutil.rmtree(prepared / "cache/bert/stages")
    real, steps = PruningTrainer.training_step, []

    def stop(self, *args, **kwargs):
        steps.append(1)
        if len(steps) in (2, 6, 9):
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(PruningTrainer, "training_step", stop)
    codes = [run("RunBert4Glue", *options, "--records", "broken")[0] for _ in range(4)]
    assert codes == [130, 130, 130, 0]
    whole, broken = records(prepared / "whole"), records(prepared / "broken")
    for name, record in whole.items():
        for key in record.keys() - {"latency", "seconds", "model_folder"}:
            assert record[key] == broken[name][key], (name, key)


def test_every_epoch_has_each_row_once_in_batches_of_one_task():
    data = MultiTaskData([split(10, 0), split(23, 1), split(5, 2)])
    batches = data.batches(4, seed=3)
    assert len(batches) == 3 + 6 + 2 == len([*batches])
    epochs = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        epochs.append([*batches])
        assert sorted(row for batch in epochs[-1] for row in batch) == [*range(38)]
        for batch in epochs[-1]:
            assert len({data[row]["tasks"] for row in batch}) == 1
    # Other rows meet in each epoch, in another order.
    assert len({tuple(map(tuple, epoch)) for epoch in epochs}) == 3
    assert {frozenset(batch) for batch in epochs[0]} != {frozenset(batch) for batch in epochs[1]}
    row = data[10]
    assert row["tasks"] == 1
    assert row["tokens"].tolist() == split(23, 1).sentence(0).tolist()
    assert [*TaskBatches([10], 4, 1)] == [*TaskBatches([10], 4, 1)]


def test_a_step_trains_what_its_task_keeps_and_no_more():
    torch.manual_seed(0)
    stock = BertForSequenceClassification(CONFIG).eval()
    results = told(context(), importance=random_scores(0)) | {"cola/importance_seed1": random_scores(1)}
    here = context()
    there = SimpleNamespace(task=SimpleNamespace(name="cola"), seed=1, backbone=here.backbone)
    tickets = [Ticket("winning", 50).narrow(Structure.of(CONFIG), results, one) for one in (here, there)]
    together = MultiTaskBert(stock, [CONFIG, small_config(num_labels=3, **{"intermediate_size": 256})], tickets).eval()
    inputs = make_inputs([7, 3, 5], CONFIG.vocab_size)
    heads, whole = together.heads[0], together.feed_forwards[0]
    with torch.no_grad(), masked(stock, heads, whole):
        expected = stock(**inputs, labels=torch.tensor([0, 1, 1]))
    output = together(**inputs, lengths=[7, 3, 5], tasks=[0, 0, 0], labels=torch.tensor([0, 1, 1]))
    assert torch.allclose(output.logits, expected.logits, atol=1e-5)
    assert output.loss.item() == pytest.approx(expected.loss.item(), abs=1e-5)
    assert together(**inputs, lengths=[7, 3, 5], tasks=[1, 1, 1]).logits.shape == (3, 3)
    output.loss.backward()
    assert together.classifiers[1].weight.grad is None
    assert together.classifiers[0].weight.grad.any()
    for layer, module in enumerate(stock.bert.encoder.layer):
        slopes = module.attention.self.value.weight.grad.unflatten(0, (4, 8)).abs().sum(dim=(1, 2)) > 0
        assert slopes.tolist() == heads[layer].tolist()
        assert bool(module.output.dense.weight.grad.any()) == bool(whole[layer])
    assert not torch.equal(together.heads[0], together.heads[1])
    counts = union(tickets, ["mrpc", "cola"])
    assert counts["tasks"]["mrpc"] == {"heads": 12, "feed_forwards": 4}
    assert counts["mean"] == {"heads": 12, "feed_forwards": 4}
    assert counts["union"]["heads"] == int((together.heads[0] | together.heads[1]).sum()) > 12


@pytest.fixture
def two_tasks(run, prepared):  # noqa: F811
    """MRPC, and a table of its own."""
    rows = ["text\tlabel", *(f"{'good film' if row % 2 else 'dull plot'}\t{row % 2}" for row in range(20))]
    (prepared / "films.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    table = ("--table", "films.tsv", "--text", "text", "--label", "label")
    assert run("PrepareGlue4Bert", *table)[0] == 0
    return prepared


def test_several_tasks_in_one_encoder(run, two_tasks, monkeypatch):
    options = (
        *QUICK,
        "--tasks",
        "mrpc,films",
        "--methods",
        "multi-task,multi-task-tickets",
        "--multi-task-levels",
        "30,60",
    )
    real, trainings = stages.train, []
    monkeypatch.setattr(stages, "train", lambda model, *args: trainings.append(type(model)) or real(model, *args))
    code, out, err = run("RunBert4Glue", *options, "--save-models", "models")
    assert code == 0, err
    assert trainings.count(MultiTaskBert) == 2  # for both tasks together
    found = {task: records(two_tasks / "records/BERT" / task) for task in ("mrpc", "films")}
    name = "multi-task-tickets_30-60_seed1"
    for task, heads in ("mrpc", 17), ("films", 10):
        dense, tickets = found[task]["multi-task_seed1"], found[task][name]
        assert dense["parameters"]["pruned"] == dense["parameters"]["baseline"]
        assert sum(map(len, tickets["kept"]["heads"])) == heads
        assert tickets["multi_task"]["tasks"][task]["heads"] == heads
        assert tickets["multi_task"]["mean"]["heads"] == 13
        assert 17 <= tickets["multi_task"]["union"]["heads"] <= 24
        assert tickets["settings"]["multi_task"].keys() == {"mrpc", "films"}
        assert tickets["parameters"]["pruned"] < tickets["parameters"]["baseline"]
        model = PrunedBertForSequenceClassification.from_pretrained(two_tasks / "models" / task / name).eval()
        assert sum(x.numel() for x in model.parameters()) == tickets["parameters"]["pruned"]
    # Both tasks' models are of the one encoder: what both keep is the same.
    own = [
        PrunedBertForSequenceClassification.from_pretrained(two_tasks / "models" / task / "multi-task_seed1")
        for task in ("mrpc", "films")
    ]
    states = [model.bert.state_dict() for model in own]
    assert all(torch.equal(x, states[1][name]) for name, x in states[0].items())
    assert "2 tasks, without 30/60 % of heads" in out


@pytest.mark.slow
def test_several_tasks_resume(run, two_tasks, monkeypatch):
    options = (*QUICK, "--epochs", "2", "--tasks", "mrpc,films", "--methods", "multi-task")
    assert run("RunBert4Glue", *options, "--records", "whole")[0] == 0
    shutil.rmtree(two_tasks / "cache/bert/stages")
    real, seen = PruningTrainer.training_step, []

    def stop(self, model, inputs, *args, **kwargs):
        if "tasks" in inputs:
            seen.append(1)
            if len(seen) in (3, 9):
                raise KeyboardInterrupt
        return real(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(PruningTrainer, "training_step", stop)
    codes = [run("RunBert4Glue", *options, "--records", "broken")[0] for _ in range(3)]
    assert codes == [130, 130, 0]
    whole, broken = (
        json.loads(next((two_tasks / place).rglob("multi-task_seed1/record.json")).read_text("utf-8"))
        for place in ("whole", "broken")
    )
    assert whole["metrics"] == broken["metrics"]
    assert np.allclose(
        [entry["loss"] for entry in whole["loss"]], [entry["loss"] for entry in broken["loss"]], atol=1e-6
    )


@pytest.mark.parametrize("change", [{"num_hidden_layers": 10**9}, {"intermediate_size": 2**30}, {"hidden_size": 2**30}])
def test_a_smaller_models_config_of_more_than_its_weights_is_refused(run, tmp_path, change):
    small_bert(tmp_path / "bert")
    dense = BertForSequenceClassification.from_pretrained(tmp_path / "bert")
    left = Structure.of(dense.config).keep_layers([0, 1])
    shrink(PrunedBertForSequenceClassification.from_unpruned(dense), left).save_pretrained(tmp_path / "small")
    shutil.copyfile(tmp_path / "bert/vocab.txt", tmp_path / "small/vocab.txt")
    assert run("pruner.survivors", "small", "--sentence", "a film")[0] == 0
    config = json.loads((tmp_path / "small/config.json").read_text("utf-8"))
    (tmp_path / "small/config.json").write_text(json.dumps(config | change), encoding="utf-8")
    code, _, err = run("pruner.survivors", "small", "--sentence", "a film")
    assert (code, err.count("\n")) == (2, 1), err
    assert "the weights cannot be loaded" in err
