"""RunBert4Glue.py with a budget in place of a schedule; trainings that are shared, interrupted and resumed."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file
from test_run import prepared, records  # noqa: F401

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.tokens.schedule import schedule_text
from pruner.training import stages
from pruner.training.stage import Stage
from pruner.training.trainer import PruningTrainer, logits_loss

QUICK = ("--epochs", "2", "--batch-size", "8", "--latency-repeats", "1", "--learning-rate", "1e-3")


@pytest.fixture
def trainings(monkeypatch):
    """How often a stage was trained."""
    calls, real = [], stages.train

    def count(*args, **options):
        calls.append(args)
        return real(*args, **options)

    monkeypatch.setattr(stages, "train", count)
    return calls


@pytest.mark.slow
def test_budgets_are_met_on_the_sample_task(run, tmp_path, trainings):
    demo = ("--demo", "--epochs", "1", "--max-train-rows", "320", "--latency-repeats", "1")
    budgets = ("--target-flops-reduction", "1.5,2.5", "--methods", "attention,student,random,emission")
    code, out, err = run("RunBert4Glue", *demo, *budgets, "--save-models", "models")
    assert code == 0, err
    assert "skipped emission" in out
    found = records(tmp_path / "records")
    assert len(found) == 7
    assert len(trainings) == 4  # the baseline, and one for each method, which serves both budgets
    for name, record in found.items():
        if name == "baseline_seed1":
            continue
        assert record["schedule_source"] == "sampled"
        assert name.endswith(f"_learned-{record['target_flops_reduction']:g}x_seed1")
        assert record["flops"]["reduction"] == pytest.approx(record["target_flops_reduction"], rel=0.03)
        log = (tmp_path / "records" / "BERT" / "demo" / name / "run.log").read_text(encoding="utf-8")
        assert f"schedule: {schedule_text(record['schedule'])}\n" in log
        kept = PrunedBertForSequenceClassification.from_pretrained(tmp_path / "models" / "demo" / name)
        assert list(kept.pruning.schedule) == record["schedule"]
    assert "| learned for 2.5x |" in out

    # Hand-made schedules for the same budgets, on the same models.
    code, out, err = run("RunBert4Glue", *demo, *budgets, "--start", "sampled", "--budget-schedule", "uniform")
    assert code == 0, err
    assert len(trainings) == 4
    uniform = [record for name, record in records(tmp_path / "records").items() if name not in found]
    assert len(uniform) == 6
    for record in uniform:
        assert record["schedule_source"] == "uniform"
        assert len(set(record["schedule"])) == 1
        assert record["flops"]["reduction"] == pytest.approx(record["target_flops_reduction"], rel=0.03)


def test_power_bert_in_three_steps(run, prepared, monkeypatch, trainings):  # noqa: F811
    """Fine-tuned, searched and trained again; interrupted in the search, it goes on with it and repeats nothing."""
    options = (*QUICK, "--target-flops-reduction", "2", "--budget-schedule", "soft-extract")
    options = (*options, "--methods", "attention,random")
    real, steps = PruningTrainer.training_step, []

    def stop(self, model, *args, **kwargs):
        if "soft_extract" in dict(model.named_children()):
            steps.append(1)
            if len(steps) == 5:  # in the second epoch
                raise KeyboardInterrupt
        return real(self, model, *args, **kwargs)

    monkeypatch.setattr(PruningTrainer, "training_step", stop)
    code, _, err = run("RunBert4Glue", *options)
    assert code == 130, err
    assert len(trainings) == 2  # the baseline, and the search
    code, out, err = run("RunBert4Glue", *options)
    assert code == 0, err
    assert len(trainings) == 5  # the search goes on, and one for each method
    assert len(steps) == 5 + 3  # one epoch of three steps was finished
    assert "stage soft-extract-4x_seed1: as it was kept in" in out
    found = records(prepared / "records")
    assert set(found) == {"baseline_seed1", "attention_soft-extract-2x_seed1", "random_soft-extract-2x_seed1"}
    for record in found.values():
        if record["method"] != "baseline":
            assert record["flops"]["reduction"] == pytest.approx(2, rel=0.03)
    log = (prepared / "records/BERT/mrpc/attention_soft-extract-2x_seed1/run.log").read_text(encoding="utf-8")
    assert "search, epoch 2: accuracy" in log
    assert "retained" in log
    assert not list((prepared / "cache").rglob("*.training"))

    # What is trained again are the search's weights: with a learning rate of nearly 0 they stay.
    (search,) = (prepared / "cache/bert/stages/mrpc").glob("soft-extract*")
    searched = load_file(search / "model.safetensors")
    monkeypatch.setattr(Stage, "key", "same")  # of whatever settings
    for stage in (prepared / "cache/bert/stages/mrpc").iterdir():
        stage.rename(stage.with_name(stage.name.rpartition("-")[0] + "-same"))
    tiny = (*options, "--learning-rate", "1e-12", "--records", "tiny", "--save-models", "models")
    assert run("RunBert4Glue", *tiny)[0] == 0
    kept = PrunedBertForSequenceClassification.from_pretrained(
        prepared / "models" / "mrpc" / "attention_soft-extract-2x_seed1"
    )
    for name, value in kept.state_dict().items():
        assert torch.allclose(value, searched[f"model.{name}"], atol=1e-6), name


def test_force_repeats_what_cells_share(run, prepared, trainings):  # noqa: F811
    options = (*QUICK, "--target-flops-reduction", "1.5,2", "--methods", "random")
    assert run("RunBert4Glue", *options)[0] == 0
    assert len(trainings) == 2
    assert run("RunBert4Glue", *options, "--force")[0] == 0
    assert len(trainings) == 4


def test_without_a_penalty_the_published_search_prunes_nothing(run, prepared):  # noqa: F811
    code, _, err = run("RunBert4Glue", *QUICK, "--search-penalty", "0", "--methods", "attention")
    assert code == 0, err
    record = records(prepared / "records")["attention_soft-extract-lambda0_seed1"]
    assert record["method"] == "attention"
    assert record["schedule"] == [0] * 6
    assert record["flops"]["reduction"] == 1


@pytest.mark.parametrize("method", ["student", "attention"])
def test_an_interrupted_cell_ends_as_if_it_had_not_been(run, prepared, monkeypatch, method):  # noqa: F811
    options = (*QUICK, "--schedule", "0.6,0,0.3,0,0,0", "--methods", method)
    assert run("RunBert4Glue", *options, "--records", "whole")[0] == 0
    real, steps = PruningTrainer.training_step, []

    def stop(self, *args, **kwargs):
        steps.append(1)
        if len(steps) in (5, 13):  # in the second epochs of both cells
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(PruningTrainer, "training_step", stop)
    shutil.rmtree(prepared / "cache/bert/stages")
    codes = [run("RunBert4Glue", *options, "--records", "broken")[0] for _ in range(3)]
    assert codes == [130, 130, 0]
    assert len(steps) == 5 + 3 + 5 + 3
    whole, broken = records(prepared / "whole"), records(prepared / "broken")
    for name, record in whole.items():
        for key in set(record) - {"latency", "seconds"}:
            assert record[key] == broken[name][key], (name, key)
    assert not list((prepared / "cache").rglob("*.training"))


def test_a_spoilt_stage_is_named(run, prepared):  # noqa: F811
    options = (*QUICK, "--target-flops-reduction", "2", "--methods", "random")
    assert run("RunBert4Glue", *options)[0] == 0
    (stage,) = (prepared / "cache/bert/stages/mrpc").glob("baseline*")
    weights = bytearray((stage / "model.safetensors").read_bytes())
    weights[-1] ^= 1  # a number that is hardly another
    (stage / "model.safetensors").write_bytes(weights)
    for path in (prepared / "records").rglob("random*/record.json"):
        path.unlink()
    code, _, err = run("RunBert4Glue", *options)
    assert code == 2
    where = rf"{stage.relative_to(prepared)}/model\.safetensors: not as it was written, by SHA256SUMS beside it"
    assert re.fullmatch(rf"error: mrpc, random_\S+: {where}; remove the folder, and .* again\n", err)


def test_being_unlike_the_teacher_by_hand():
    logits, teacher = torch.tensor([[0.0, 0.0], [1.0, -1.0]]), torch.tensor([[0.0, 0.0], [-1.0, 1.0]])
    p = torch.tensor([0.1192029, 0.8807971])  # softmax of the teacher's second row
    by_hand = (p * (p.log() - p.flip(0).log())).sum() / 2
    assert logits_loss(logits, teacher).item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert logits_loss(teacher, teacher).item() == pytest.approx(0, abs=1e-7)
    assert logits_loss(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [1.0]])).item() == 2.5


def test_a_model_that_starts_from_the_baseline_imitates_it(run, prepared, monkeypatch):  # noqa: F811
    """With a learning rate near 0 it stays the baseline, and its loss is the task's alone: it is not unlike it."""
    tiny = (*QUICK[:-1], "1e-12", "--schedule", "0.1,0,0,0,0,0", "--methods", "random", "--start", "finetuned")
    seen = []
    real = PruningTrainer.compute_loss

    def watch(self, model, inputs, *args, **kwargs):
        seen.append("teacher_logits" in inputs)
        return real(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(PruningTrainer, "compute_loss", watch)
    assert run("RunBert4Glue", *tiny, "--save-models", "models")[0] == 0
    assert seen == [False] * 6 + [True] * 6
    models = prepared / "models" / "mrpc"
    names = ("baseline_seed1", "random_0.1-0x5_seed1")
    one, other = (PrunedBertForSequenceClassification.from_pretrained(models / name).state_dict() for name in names)
    for name, value in one.items():
        assert torch.allclose(value, other[name], atol=1e-6), name
    record = json.loads((prepared / "records/BERT/mrpc/random_0.1-0x5_seed1/record.json").read_text(encoding="utf-8"))
    assert record["settings"]["start"] == "finetuned"
