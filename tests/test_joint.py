"""One training for tokens, width and depth: what it computes in a step, and what a budget chooses."""

import copy
import math

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, small_config
from reference import make_inputs
from test_run import QUICK, prepared, records  # noqa: F401

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.joint.budgets import FlopsBudget
from pruner.compress.joint.elastic import SampleMixtures, elastic
from pruner.compress.joint.mixtures import AXES, STEPS, Mixture, Space
from pruner.compress.structure.importance import Scores
from pruner.compress.structure.shrink import shrink
from pruner.compress.structure.width import shape_of
from pruner.compress.tokens.flops import pruned_flops
from pruner.compress.tokens.schedule import make_pruning
from pruner.data.cache import Split
from pruner.data.collate import rows_of_lengths
from pruner.models.flops import dense_flops

LENGTHS = [5, 9, 12, 20, 33] * 4


def space(reach: float = 4.0, seed: int = 0) -> Space:
    generator = torch.Generator().manual_seed(3)
    scores = Scores(*(torch.rand(shape, generator=generator).double() for shape in ((6, 4), (6,), (6, 64))))
    return Space(small_config(num_labels=3), LENGTHS, scores, [4, 3, 1, 2, 5, 0], reach, seed)


def flops(target: float) -> FlopsBudget:
    return FlopsBudget(target, small_config(num_labels=3), LENGTHS)


def reduction(mixture: Mixture, config) -> float:
    depth, shape = len(mixture.schedule), shape_of(mixture.structure, config)
    pruning = make_pruning(mixture.schedule, "attention", depth)
    flops = pruned_flops(shape, LENGTHS, pruning.keep_counts(LENGTHS), pruning)
    return dense_flops(shape_of(space().full, config), LENGTHS) / flops


def made_of(model, mixture: Mixture) -> PrunedBertForSequenceClassification:
    smaller = shrink(PrunedBertForSequenceClassification.from_unpruned(model), mixture.structure)
    return smaller.set_pruning(mixture.schedule, "attention").eval()


@pytest.mark.parametrize("step", range(12))
def test_a_step_computes_what_is_really_left(model, step):
    """Logits, loss and gradients are those of the smaller model, and zero for what it has not."""
    mixture, batch = space().sample(step), make_inputs([5, 9, 3, 12], len(VOCABULARY))
    labels = torch.tensor([0, 2, 1, 1])
    smaller = made_of(model, mixture)
    expected = smaller(**batch, labels=labels)
    expected.loss.backward()
    whole = copy.deepcopy(model)
    trained = elastic(whole, mixture).eval()
    output = trained(**batch, labels=labels)
    torch.testing.assert_close(output.logits, expected.logits, rtol=1e-5, atol=1e-5)
    assert output.token_counts == expected.token_counts
    output.loss.backward()
    for number, layer in enumerate(whole.bert.encoder.layer):
        if number not in mixture.structure.layers:
            assert all(parameter.grad is None for parameter in layer.parameters())
            continue
        place = mixture.structure.layers.index(number)
        other, neurons = smaller.bert.encoder.layer[place], list(mixture.structure.neurons[place])
        own = layer.output.dense.weight.grad
        torch.testing.assert_close(own[:, neurons], other.output.dense.weight.grad, rtol=1e-4, atol=1e-6)
        gone = [neuron for neuron in range(64) if neuron not in neurons]
        assert not own[:, gone].any()
        features = [8 * head + at for head in mixture.structure.heads[place] for at in range(8)]
        query = layer.attention.self.query.weight.grad[features]
        torch.testing.assert_close(query, other.attention.self.query.weight.grad, rtol=1e-4, atol=1e-6)
    # And nothing of it stays.
    assert len(whole.bert.encoder.layer) == whole.config.num_hidden_layers == 6
    assert all(layer.attention.self.num_attention_heads == 4 for layer in whole.bert.encoder.layer)
    assert not any(whole.pruning.schedule)
    assert trained.state_dict().keys() == whole.state_dict().keys()


def test_the_whole_is_the_model_itself(model):
    batch = make_inputs([5, 9, 3, 12], len(VOCABULARY))
    trained = elastic(copy.deepcopy(model), Mixture(space().full, (0.0,) * 6)).eval()
    torch.testing.assert_close(trained(**batch).logits, model(**batch).logits)


def test_a_step_that_fails_leaves_the_model_whole(model):
    trained = elastic(model, space().sample(1))
    with pytest.raises(ValueError, match="give one of them"):
        trained()
    assert len(model.bert.encoder.layer) == model.config.num_hidden_layers == 6


def test_steps_are_drawn_anew_and_the_same_after_an_interruption(model):
    one, other = space(), space()
    drawn = [one.sample(step) for step in range(60)]
    assert drawn == [other.sample(step) for step in range(60)]
    assert len(set(drawn)) > 50
    assert drawn != [space(seed=1).sample(step) for step in range(60)]
    reached = [reduction(mixture, one.config) for mixture in drawn]
    assert min(reached) < 1.4
    assert 3 < max(reached) < 4.6
    alone = [
        (any(m.schedule), any(map(len, m.structure.heads)) and m.structure != one.full.keep_layers(m.structure.layers))
        for m in drawn
    ]
    assert {(True, False), (False, True), (True, True)} <= set(alone)
    callback, trained = SampleMixtures(elastic(model, drawn[0]), one), None
    trained = callback.model
    for step in 3, 4:
        callback.on_step_begin(None, type("State", (), {"global_step": step}), None)
        assert trained.mixture == drawn[step]
    callback.on_epoch_end(None, None, None)
    assert reduction(trained.mixture, one.config) == pytest.approx(2, rel=0.1)


def test_the_smaller_is_a_part_of_the_larger():
    one = space()
    for dropped in range(5):
        for step in range(STEPS):
            larger, smaller = one.structure(dropped, step), one.structure(dropped, step + 1)
            assert larger.layers == smaller.layers
            for kind in "heads", "neurons":
                for some, more in zip(getattr(smaller, kind), getattr(larger, kind), strict=True):
                    assert set(some) <= set(more)
        assert set(one.structure(dropped + 1, 0).layers) < set(one.structure(dropped, 0).layers)
    assert one.structure(2, 0).layers == (0, 1, 2, 5)  # 4 and 3 leave first


@pytest.mark.parametrize("axes", [AXES, ("tokens",), ("width",), ("tokens", "width")], ids=".".join)
@pytest.mark.parametrize("target", [1.5, 2.0, 3.0])
def test_mixtures_meet_a_budget_by_what_may_leave(axes, target):
    one, met = space(), []
    for mixture in one.meeting(flops(target), axes):
        met.append(reduction(mixture, one.config))
        assert "tokens" in axes or not any(mixture.schedule)
        assert "width" in axes or mixture.structure == one.full
        assert "depth" in axes or len(mixture.structure.layers) == 6
    if (target, axes) == (3, ("width",)):  # a head and a block of neurons of each layer stay
        assert not met
        return
    assert met
    # Of what leaves in parts, the last one may go beyond; a layer is the largest of them.
    assert min(met) > 0.97 * target
    assert np.median(met) < 1.1 * target


@pytest.mark.parametrize(("target", "layers"), [(1.2, 5), (1.5, 4), (2.0, 3), (3.0, 2), (4.0, 1)])
def test_depth_alone_leaves_as_few_layers_as_it_takes(target, layers):
    (mixture,) = space().meeting(flops(target), ("depth",))
    assert len(mixture.structure.layers) == layers
    assert reduction(mixture, space().config) > 0.97 * target


def test_more_may_leave_means_more_to_choose_from():
    one = space()
    together = set(one.meeting(flops(2.0)))
    for axis in "tokens", "width":
        assert set(one.meeting(flops(2.0), (axis,))) <= together


def test_rows_for_a_choice_are_as_long_as_those_of_dev():
    generator = np.random.default_rng(0)
    lengths = np.concatenate([generator.integers(2, 12, 1800), generator.integers(12, 60, 200)])
    offsets = np.concatenate([[0], lengths.cumsum()])
    split = Split(np.zeros(offsets[-1], np.int32), offsets, np.zeros(2000, np.int32), None)
    of_dev = generator.integers(8, 40, 300)
    found = rows_of_lengths(split, of_dev, 100)
    assert len(set(found.numbers)) == 100
    assert np.array_equal(found.lengths, lengths[found.numbers])
    for share in 0.1, 0.5, 0.9:
        assert abs(np.quantile(found.lengths, share) - np.quantile(of_dev, share)) <= 2
    assert np.array_equal(rows_of_lengths(split, of_dev, 100).numbers, found.numbers)
    fewer = rows_of_lengths(split, of_dev, 1600)  # there are 200 so long
    assert len(fewer) == 100
    assert abs(fewer.lengths.mean() - of_dev.mean()) < 0.05 * of_dev.mean()
    assert len(rows_of_lengths(split, lengths, 4000)) == 2000  # all that there are
    assert len(rows_of_lengths(split, [500], 1000)) == 62  # none is so long


def test_joint_in_one_training(run, prepared):  # noqa: F811
    names = ["joint", "joint-tokens", "joint-width", "joint-depth"]
    flags = ("--methods", ",".join(names), "--target-flops-reduction", "1.5,2", "--search-reach", "2")
    code, out, err = run("RunBert4Glue", *QUICK, *flags)
    assert code == 0, err
    assert out.count(": training, ") == 2  # the dense model's, and one for all budgets and axes
    assert out.count("measuring") == 2
    found = records(prepared / "records/BERT/mrpc")
    assert len(found) == 9
    losses = set()
    for name in names:
        for target in 1.5, 2.0:
            record = found[f"{name}_{target:g}x_seed1"]
            losses.add(str(record["loss"]))
            assert record["schedule_source"] == "joint"
            assert record["taught_by"]["stage"] == "baseline_seed1"
            assert record["settings"]["reach"] == 2
            kept, schedule = record["kept"], record["schedule"]
            assert len(kept["layers"]) == len(schedule)
            assert math.inf > record["flops"]["reduction"] > 0.95 * target
            assert ("tokens" in name or name == "joint") or not any(schedule)
            assert ("depth" in name or name == "joint") or len(schedule) == 6
            model = PrunedBertForSequenceClassification.from_pretrained(record["model_folder"])
            assert list(model.pruning.schedule) == schedule
            assert model.config.output_hidden_states is False
    assert len(losses) == 1
    # Another budget needs no other training.
    code, out, err = run("RunBert4Glue", *QUICK, *flags[:2], "--target-flops-reduction", "1.7", *flags[4:])
    assert code == 0, err
    assert ": training, " not in out
    code, _, err = run("RunBert4Glue", *QUICK, "--methods", "joint", "--records", "other")
    assert code == 2
    assert "(target_flops_reduction): joint needs a budget; give one, as 2, or several, or --target-speedup" in err
