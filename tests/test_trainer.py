"""Steps computed in parts, memory that runs out, losses and scores that are not finite, interrupted trainings."""

import copy
import os
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from conftest import small_config
from test_train import QUICK, SCHEDULE, STUDENTS, assert_same_training, make_split

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.tokens.lstm import PrunedLstmForSequenceClassification
from pruner.data.collate import BertCollator, LstmCollator, SplitDataset, training_rows
from pruner.evaluation.predict import predict
from pruner.models.lstm import LstmConfig
from pruner.training import checkpoints
from pruner.training.train import train
from pruner.training.trainer import PruningTrainer, TrainSettings
from pruner.utils.errors import CellError, NotFiniteError, UserError


class ShortOfMemory:
    """Raises as a GPU does, for more than ``rows`` sentences at a time."""

    def __init__(self, model, rows):
        self.forward, self.rows, self.calls = model.forward, rows, 0
        model.forward = self

    def __call__(self, input_ids=None, **inputs):
        self.calls += 1
        output = self.forward(input_ids=input_ids, **inputs)
        if len(input_ids) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return output


def bert(method="student"):
    transformers.set_seed(1)
    config = small_config(num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return PrunedBertForSequenceClassification(config).set_pruning(SCHEDULE, method)


def lstm():
    transformers.set_seed(1)
    config = LstmConfig(vocab_size=20, embedding_size=16, hidden_size=16, head_size=8, num_labels=3)
    model = PrunedLstmForSequenceClassification(config)
    return model.set_pruning(0.5, "student", student_widths=(8,))


@pytest.fixture
def first_gradients(monkeypatch):
    """The gradients of each training's first step."""
    found, real = [], PruningTrainer._clip_groups

    def watch(trainer, optimizer, *rest):
        if trainer.state.global_step == 0:
            found.append({name: each.grad.clone() for name, each in trainer.model.named_parameters()})
        return real(trainer, optimizer, *rest)

    monkeypatch.setattr(PruningTrainer, "_clip_groups", watch)
    return found


def assert_same_gradients(one: dict, other: dict) -> None:
    assert len(one) > 10
    for name, gradient in one.items():
        assert torch.allclose(gradient, other[name], atol=1e-5), name


def fit(model, collate, folder, settings=QUICK):
    split = make_split(rows=44)  # the last batch is smaller
    data = SplitDataset(split, np.random.default_rng(0).standard_normal((44, 3)).astype(np.float32))
    said: list[str] = []
    curve = train(model, data, settings, 1, folder, collate, learning_rates=STUDENTS, say=said.append)
    return model.state_dict(), curve, said


@pytest.mark.parametrize("parts", [4, 8])
@pytest.mark.parametrize(("make", "collate"), [(bert, BertCollator(True)), (lstm, LstmCollator(True))])
def test_parts_change_nothing(tmp_path, make, collate, parts, first_gradients):
    """Not for the students either, though the parts of a batch have different numbers of tokens."""
    whole, curve, _ = fit(make(), collate, tmp_path / "whole")
    model = make()
    watch = ShortOfMemory(model, rows=8 // parts)
    again, other, _ = fit(model, collate, tmp_path / "parts", replace(QUICK, accumulation_steps=parts))
    assert watch.calls == 5 * parts + 4
    assert_same_gradients(*first_gradients)
    main = {name: value for name, value in whole.items() if not name.startswith("students.")}
    assert_same_training(main, again, [curve, other])
    students = [[entry["student_loss"] for entry in entries] for entries in (curve, other)]
    assert np.allclose(*students, atol=1e-4)


@pytest.mark.parametrize(
    ("parts", "advice"), [(1, "set it to 2, or take"), (2, "set it to 3, or take"), (3, "set it to 6"), (6, "take")]
)
def test_memory_that_runs_out_is_one_line_about_accumulation_steps(tmp_path, parts, advice):
    """It advises the next number of parts that divides the batch."""
    model, settings = bert("attention"), replace(QUICK, batch_size=6, accumulation_steps=parts)
    ShortOfMemory(model, rows=0)
    line = f"training: out of memory with accumulation_steps {parts}, batches of 6; {advice}"
    with pytest.raises(CellError, match=f"^{line}.* a smaller model$"):
        fit(model, BertCollator(True), tmp_path, settings)


def test_evaluation_halves_its_batches_too():
    split, collate = make_split(rows=44), BertCollator(True)
    model = bert("attention")
    whole = predict(model, split, 16, collate)
    watch = ShortOfMemory(model, rows=3)
    assert np.allclose(whole, predict(model, split, 16, collate), atol=1e-5)
    assert watch.calls > 44 / 3
    watch.rows = 0
    with pytest.raises(UserError, match="out of memory with one sentence"):
        predict(model, split, 16, collate)


def spoil(model, row, split, place):
    """Make one sentence's logits, or the scores of its second pruned layer, NaN."""
    wanted = torch.from_numpy(split.sentence(row).astype(np.int64))
    real = model.forward

    def forward(input_ids=None, lengths=None, **inputs):
        output = real(input_ids=input_ids, lengths=lengths, **inputs)
        for ids, length in zip(input_ids, lengths, strict=True):
            if torch.equal(ids[:length], wanted):
                bad = torch.tensor(float("nan"))
                if place == "logits":
                    output.logits = output.logits * bad
                    output.loss = None if output.loss is None else output.loss * bad
                else:
                    output.score_sum = output.score_sum + bad
        return output

    model.forward = forward


@pytest.mark.parametrize(("place", "what"), [("logits", "the loss is nan"), ("scores", "a score is not finite")])
def test_nan_stops_the_training_with_step_and_rows(tmp_path, place, what):
    split = training_rows(make_split(rows=60), 40)
    model = bert()
    spoil(model, 17, split, place)
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(UserError) as error:
        train(model, SplitDataset(split), QUICK, 1, tmp_path, BertCollator(True))
    found = re.fullmatch(
        rf"training: {what} at step (\d) \(training rows ([\d, ]+), counted from 0\); "
        "try a lower learning_rate, or train_dtype float32",
        str(error.value),
    )
    rows = [int(row) for row in found[2].split(", ")]
    assert len(rows) == 8
    assert int(split.numbers[17]) in rows  # its number among all 60
    assert 1 <= int(found[1]) <= 5
    assert not tmp_path.exists()  # nothing to go on from


def test_no_step_waits_for_the_one_before(tmp_path, monkeypatch):
    """When a step is computed, the loss of the last one has not been asked for; in the end all have."""
    unchecked, trainers, real = [], [], PruningTrainer.compute_loss

    def watch(trainer, *inputs, **options):
        trainers.append(trainer)
        unchecked.append([step for step, *_ in trainer._unchecked])
        return real(trainer, *inputs, **options)

    monkeypatch.setattr(PruningTrainer, "compute_loss", watch)
    train(bert("attention"), SplitDataset(make_split(rows=32)), QUICK, 1, tmp_path, BertCollator(True))
    assert unchecked == [[], [1], [2], [3]]
    assert trainers[0]._unchecked == []


def test_weights_that_the_last_step_spoils_are_noticed(tmp_path):
    """No loss has told of them."""
    split, model = make_split(rows=8), bert("attention")
    model.classifier.bias.register_hook(lambda gradient: gradient * float("nan"))
    settings = TrainSettings(epochs=1, batch_size=8, clip=None)
    with pytest.raises(NotFiniteError, match=r"training: \S+ is not finite after the last step; try a lower"):
        train(model, SplitDataset(split), settings, 1, tmp_path, BertCollator(True))


@pytest.mark.parametrize(("place", "what"), [("logits", "a logit"), ("scores", "a score")])
def test_nan_stops_the_evaluation(place, what):
    split, model = make_split(rows=40), bert("attention")
    spoil(model, 17, split, place)
    with pytest.raises(UserError, match=rf"evaluation: {what} is not finite \(rows .*\b17\b.*, counted from 0\)"):
        predict(model, split, 8, BertCollator(True))


@pytest.mark.parametrize("method", ["student", "attention", "emission", "gradient"])
def test_a_score_of_nan_is_seen_in_every_method(method):
    """The loss may be finite, since a sort takes NaN for the largest: the output must tell."""
    model = bert(method).eval()
    inputs = {"input_ids": torch.tensor([[2, 7, 8, 9, 3]]), "lengths": [5]}
    assert model(**inputs).score_sum.isfinite()
    with torch.no_grad():
        if method == "student":
            model.students[0].layers[0].bias[0] = float("nan")
        else:
            model.bert.embeddings.word_embeddings.weight[8] = float("nan")
    assert not model(**inputs).score_sum.isfinite()


def test_equal_scores_keep_the_right_number():
    """The earlier tokens: 6 of 10, and 5 of these; 2 of 3, and 2 of these."""
    model = bert("student").eval()
    with torch.no_grad():
        for weight in model.students.parameters():
            weight.zero_()
    ids = torch.arange(5, 15).repeat(2, 1)
    model.set_pruning([0.4, 0, 0.3, 0, 0, 0], "student")
    output = model(ids, lengths=[10, 3])
    assert output.token_counts[0] == [6, 2]
    assert output.token_counts[-1] == [5, 2]
    kept = output.token_positions[-1].split(output.token_counts[-1])
    assert [positions.tolist() for positions in kept] == [[0, 1, 2, 3, 4], [0, 1]]


def test_a_training_goes_on_in_the_middle_of_an_epoch(tmp_path, monkeypatch):
    """A checkpoint at every logged step, and a stop between two of them: weights and curve are as without it."""
    settings = TrainSettings(epochs=2, batch_size=8, learning_rate=1e-3)
    transformers.set_seed(1)
    first = PrunedBertForSequenceClassification(small_config(num_labels=3)).set_pruning(SCHEDULE, "student")
    models = [first, copy.deepcopy(first), copy.deepcopy(first)]
    whole, curve, _ = fit(models[0], BertCollator(True), tmp_path / "whole", settings)
    monkeypatch.setattr(checkpoints, "CHECKPOINT_SECONDS", 0)
    real, steps = models[1].forward, []

    def stop_in_step_4(**inputs):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return real(**inputs)

    models[1].forward = stop_in_step_4
    with pytest.raises(KeyboardInterrupt):
        fit(models[1], BertCollator(True), tmp_path / "broken", settings)
    assert os.listdir(tmp_path / "broken") == ["checkpoint-3"]
    resumed, again, said = fit(models[2], BertCollator(True), tmp_path / "broken", settings)
    steps = len(curve) // 2
    means = [sum(entry["loss"] for entry in part) / steps for part in (curve[:steps], curve[steps:])]
    assert said == [
        f"training resumes from {tmp_path / 'broken' / 'checkpoint-3'}",
        f"training goes on after step 3 of {2 * steps}",
        "loss {:.4f} in epoch 1, {:.4f} in epoch 2 of 2".format(*means),  # that of an epoch's first steps is kept
    ]
    assert curve == again
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
