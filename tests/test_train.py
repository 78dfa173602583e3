"""Fine-tuning: reproducible, scaled rightly, and students that move nothing but themselves."""

import copy
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import small_config
from reference import make_inputs

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.data.cache import Split
from pruner.data.collate import BertCollator, SplitDataset, sorted_rows, training_rows
from pruner.evaluation.predict import predict
from pruner.training.train import train
from pruner.training.trainer import TrainSettings

SCHEDULE = [0.5, 0, 0.3, 0, 0, 0]
QUICK = TrainSettings(epochs=1, batch_size=8, learning_rate=1e-3)
STUDENTS = {"students.": 1e-3}


def make_split(rows: int = 48, labels: int = 3, seed: int = 0) -> Split:
    """Random sentences of 2 to 30 tokens."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, 30, rows)
    found = generator.random(rows).astype(np.float32) * 5 if labels == 1 else generator.integers(0, labels, rows)
    return Split(
        tokens=generator.integers(5, 20, lengths.sum()).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        second=(lengths // 2).astype(np.int32),
        labels=found,
    )


def trained(tmp_path, method, settings=QUICK, seed=1, labels=3, schedule=SCHEDULE, dropout=0.1):
    """A small model fine-tuned on random sentences, with its loss curve."""
    transformers.set_seed(seed)
    config = small_config(num_labels=labels, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    model = PrunedBertForSequenceClassification(config)
    model.set_pruning(schedule, method, token_counts=torch.arange(config.vocab_size))
    folder = tempfile.mkdtemp(dir=tmp_path)  # where others were trained, this one would go on from them
    data = SplitDataset(make_split(labels=labels))
    curve = train(model, data, settings, seed, Path(folder), BertCollator(True), learning_rates=STUDENTS)
    return model, curve


@pytest.mark.parametrize("method", ["student", "gradient", "random"])
def test_the_same_seed_gives_the_same_weights_twice(tmp_path, method):
    (one, curve), (two, again) = trained(tmp_path, method), trained(tmp_path, method)
    other, _ = trained(tmp_path, method, seed=2)
    assert curve == again
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    assert not torch.equal(one.classifier.weight, other.classifier.weight)


@pytest.mark.parametrize("teacher", ["emission", "gradient"])
def test_students_do_not_move_the_main_model(tmp_path, teacher):
    """A student is led by its teacher while training, so both cells end with the same main model, to the last bit."""
    alone, _ = trained(tmp_path, teacher)
    transformers.set_seed(1)
    model = PrunedBertForSequenceClassification(copy.deepcopy(alone.config))
    model.set_pruning(SCHEDULE, "student", teacher)
    before = copy.deepcopy(model.students.state_dict())
    data, collate = SplitDataset(make_split()), BertCollator(True)
    curve = train(model, data, QUICK, 1, tmp_path, collate, learning_rates=STUDENTS)
    assert all("student_loss" in entry for entry in curve)
    for name, value in alone.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert all(not torch.equal(value, before[name]) for name, value in model.students.state_dict().items())


def assert_same_training(one: dict, other: dict, curves: list) -> None:
    # Adam forgives a gradient of four times the size; the logged loss does not.
    losses = [[entry["loss"] for entry in curve] for curve in curves]
    assert np.allclose(*losses, atol=1e-3)
    # But for the keys' biases: softmax ignores them, so that their gradient is rounding noise, which Adam blows up.
    for name, value in one.items():
        assert name.endswith("key.bias") or torch.allclose(value, other[name], atol=1e-4), name


def test_accumulation_changes_no_gradient(tmp_path):
    whole, curve = trained(tmp_path, "emission", dropout=0.0)
    parts = TrainSettings(epochs=1, batch_size=8, learning_rate=1e-3, accumulation_steps=4)
    split, again = trained(tmp_path, "emission", parts, dropout=0.0)
    assert_same_training(whole.state_dict(), split.state_dict(), [curve, again])


def test_the_stock_baseline_accumulates_rightly_too(tmp_path):
    ends, curves = [], []
    for steps in (1, 4):
        transformers.set_seed(1)
        config = small_config(num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        twin = PrunedBertForSequenceClassification(config).unpruned_twin()
        settings = TrainSettings(epochs=1, batch_size=8, learning_rate=1e-3, accumulation_steps=steps)
        folder = tmp_path / str(steps)
        curves.append(train(twin, SplitDataset(make_split()), settings, 1, folder, BertCollator(False)))
        ends.append(twin.state_dict())
    assert_same_training(*ends, curves)


def test_weights_follow_adam_with_clipping_and_linear_decay(tmp_path):
    """Three steps of the published optimizer by hand: AdamW without decay, clip 1.0, rate decaying linearly to 0."""
    split = make_split(rows=24)
    transformers.set_seed(1)
    config = small_config(num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = PrunedBertForSequenceClassification(config).set_pruning(SCHEDULE, "tail")
    by_hand = copy.deepcopy(model).train()
    seen = []
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    train(model, SplitDataset(split), QUICK, 1, tmp_path, BertCollator(True))
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=1e-3)
    for step, batch in enumerate(seen):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / len(seen))
        optimizer.zero_grad()
        by_hand(**batch).loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
        assert norm > 1.0  # so that clipping is seen to happen
        optimizer.step()
    assert len(seen) == 3
    for name, value in model.state_dict().items():
        # But for the keys' biases, see ``assert_same_training``.
        assert name.endswith("key.bias") or torch.allclose(value, by_hand.state_dict()[name], atol=1e-5), name


def test_floats_are_learned_as_floats(tmp_path):
    """A regression fits scores between the whole numbers, which truncated labels could not."""
    split = make_split(rows=16, labels=1)
    transformers.set_seed(0)
    model = PrunedBertForSequenceClassification(small_config(num_labels=1, hidden_dropout_prob=0.0))
    model.set_pruning([0.3, 0, 0, 0, 0, 0], "emission")
    train(model, SplitDataset(split), TrainSettings(60, 16, 3e-3), 0, tmp_path, BertCollator(True))
    found = predict(model, split, 16, BertCollator(True))[:, 0]
    fractions = split.labels - np.floor(split.labels)
    assert np.abs(found - split.labels).mean() < 0.5 * fractions.mean()
    assert BertCollator(True)([SplitDataset(split)[0]])["labels"].dtype == torch.float32


def test_batches_hold_every_sentence_once():
    split = make_split(rows=50)
    rows = sorted_rows(split, 8)
    assert sorted(np.concatenate(rows).tolist()) == list(range(50))
    lengths = split.lengths[np.concatenate(rows)]
    assert (np.diff(lengths) <= 0).all()
    batch = BertCollator(True)([SplitDataset(split)[int(row)] for row in rows[3]])
    assert batch["attention_mask"].sum(dim=1).tolist() == batch["lengths"] == split.lengths[rows[3]].tolist()
    for row, number in enumerate(rows[3]):
        n, second = batch["lengths"][row], split.second[number]
        assert batch["input_ids"][row, :n].tolist() == split.sentence(number).tolist()
        assert batch["token_type_ids"][row].tolist() == [0] * second + [1] * (n - second) + [0] * (
            len(batch["input_ids"][row]) - n
        )


def test_predictions_are_in_the_order_of_the_split(model):
    split = make_split(rows=40)
    model.set_pruning(SCHEDULE, "emission")
    found = predict(model, split, 8, BertCollator(True))
    for row in (0, 17, 39):
        ids = torch.tensor(split.sentence(row)[None].astype(np.int64))
        types = (torch.arange(ids.shape[1]) >= int(split.second[row])).long()[None]
        with torch.no_grad():
            assert np.allclose(found[row], model(ids, token_type_ids=types).logits.numpy(), atol=1e-5)


def test_subsets_are_random_but_always_the_same():
    split = make_split(rows=1000)
    split.second[:] = np.arange(1000)  # to know them again
    found = training_rows(split, 100)
    rows = found.second
    assert len(found) == len(set(rows.tolist())) == 100
    assert rows.tolist() == training_rows(split, 100).second.tolist()
    assert rows.max() > 500
    for place in (0, 57, 99):
        assert found.sentence(place).tolist() == split.sentence(rows[place]).tolist()
        assert found.labels[place] == split.labels[rows[place]]
    assert training_rows(split, None) is split
    assert training_rows(split, 1000) is split


def test_inputs_of_the_reference_are_right_padded():
    inputs = make_inputs([3, 5], 20)
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5]


def test_mixed_precision_ends_with_the_training(tmp_path):
    """The trained model computes what its weights do in another model, in their own precision."""
    settings = TrainSettings(epochs=1, batch_size=16, learning_rate=1e-3, dtype="bfloat16")
    model, _ = trained(tmp_path, "attention", settings)
    other = PrunedBertForSequenceClassification(copy.deepcopy(model.config))
    other.load_state_dict(model.state_dict())
    other.set_pruning(SCHEDULE, "attention")
    split = make_split()
    found, expected = (predict(each, split, 16, BertCollator(True)) for each in (model, other))
    assert model.classifier.weight.dtype == torch.float32
    assert np.array_equal(found, expected)
    inputs = make_inputs([5, 9], model.config.vocab_size)
    copied = copy.deepcopy(model).to(torch.bfloat16)
    assert copied(**inputs).logits.dtype == torch.bfloat16
    exact, mixed = (
        trained(tmp_path, "attention", QUICK),
        trained(tmp_path, "attention", replace(QUICK, dtype="bfloat16")),
    )
    assert not torch.equal(exact[0].classifier.weight, mixed[0].classifier.weight)  # it did train in bfloat16
