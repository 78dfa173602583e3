"""From a FLOPs reduction to a schedule, by hand and for one model with sampled schedules."""

import numpy as np
import pytest
import torch
import transformers
from conftest import small_config
from reference import make_inputs

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.tokens.budget import SCHEDULE_FAMILIES, fit_schedule, flops_reduction, path_family, rates_of_shares
from pruner.compress.tokens.sampled import CANDIDATES, SampleSchedules, candidates, steep_family
from pruner.compress.tokens.schedule import make_pruning
from pruner.models.flops import BertShape, LayerShape
from pruner.utils.errors import UserError

SHAPE = BertShape(hidden=384, labels=2, layers=(LayerShape(attention=384, intermediate=1536),) * 6)
LENGTHS = np.random.default_rng(0).integers(5, 60, 400).tolist()
PATH = [[1.0] * 6, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [0.5, 0.4, 0.3, 0.2, 0.1, 0.1]]


def all_layers(method: str):
    return make_pruning([0.5] * 6, method, 6, student_widths=(64, 64))


def test_rates_of_shares_by_hand():
    assert rates_of_shares([0.8, 0.4, 0.4]) == pytest.approx([0.2, 0.5, 0])
    assert rates_of_shares([0.5, 0.9, 0.25]) == pytest.approx([0.5, 0, 0.5])  # no layer gets back what has left
    assert max(rates_of_shares([1.0, 1e-9])) < 1


def test_a_path_family_goes_along_its_path():
    family = path_family(PATH)
    assert family(0.0) == [0.0] * 6
    assert family(0.5) == pytest.approx(rates_of_shares(PATH[1]))
    assert family(1.0) == pytest.approx(rates_of_shares(PATH[2]))
    assert family(0.75) == pytest.approx(rates_of_shares([0.7, 0.6, 0.5, 0.4, 0.3, 0.25]))


def test_steepness_says_where_tokens_leave():
    assert steep_family(6, 2.0)(0.0) == [0.0] * 6
    same = steep_family(6, 1.0)(0.1)
    assert same == pytest.approx([same[0]] * 6)
    assert steep_family(6, 2.0)(0.1) == sorted(steep_family(6, 2.0)(0.1))
    assert steep_family(6, 0.5)(0.1) == sorted(steep_family(6, 0.5)(0.1), reverse=True)
    # Whatever the steepness, the last layer retains the same.
    shares = [np.prod(np.subtract(1, steep_family(6, steepness)(0.1))) for steepness in (0.5, 1.0, 3.0)]
    assert shares == pytest.approx([shares[0]] * 3)


@pytest.mark.parametrize("target", [1.2, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("method", ["attention", "student", "random"])
@pytest.mark.parametrize("family", [*SCHEDULE_FAMILIES, "path", "steep"])
def test_a_schedule_meets_its_budget(family, method, target):
    made = {"path": path_family(PATH), "steep": steep_family(6, 2.0)}
    chosen = made[family] if family in made else SCHEDULE_FAMILIES[family](6)
    pruning = all_layers(method)
    schedule = fit_schedule(chosen, target, LENGTHS, SHAPE, pruning)
    assert flops_reduction(SHAPE, LENGTHS, pruning.with_schedule(schedule)) == pytest.approx(target, rel=0.03)
    assert schedule == [round(rate, 3) for rate in schedule]  # ready to paste


def test_a_budget_that_cannot_be_met_is_an_error():
    pruning = all_layers("emission")  # needs an unpruned pass
    with pytest.raises(UserError, match=r"\(target_flops_reduction\): 2 cannot be met within 3 %, the nearest is 1\."):
        fit_schedule(SCHEDULE_FAMILIES["uniform"](6), 2.0, LENGTHS, SHAPE, pruning)


def test_the_choice_is_among_all_steepnesses():
    pruning = all_layers("random")

    def fit(family):
        return fit_schedule(family, 2.0, LENGTHS, SHAPE, pruning)

    assert list(candidates(6, fit)) == [fit(steep_family(6, steepness)) for steepness in CANDIDATES]


def test_the_choice_leaves_out_what_cannot_meet_the_budget():
    pruning = all_layers("attention")

    def fit(target):
        return lambda family: fit_schedule(family, target, LENGTHS, SHAPE, pruning)

    assert 0 < len(list(candidates(6, fit(4.0)))) < len(CANDIDATES)  # the steepest drop too little in the first layers
    with pytest.raises(UserError, match=r"\(target_flops_reduction\): 1000 cannot be met"):
        list(candidates(6, fit(1000.0)))


def pruned_model(method: str) -> PrunedBertForSequenceClassification:
    transformers.set_seed(1)
    model = PrunedBertForSequenceClassification(small_config(num_labels=3)).eval()
    return model.set_pruning([0.5] * 6, method, token_counts=torch.arange(model.config.vocab_size))


def test_sampled_schedules_cover_the_budgets():
    model = pruned_model("attention")
    samples = SampleSchedules(model, LENGTHS, reach=4.0, seed=1)
    reductions = []
    for step in range(100):
        schedule = samples.sample(step)
        assert schedule == samples.sample(step)  # so that a training that is resumed goes on with the same
        reductions.append(flops_reduction(samples.shape, LENGTHS, model.pruning.with_schedule(schedule)))
    assert min(reductions) < 1.1
    assert 3.5 < max(reductions) < 4.2
    assert schedule != SampleSchedules(model, LENGTHS, reach=4.0, seed=2).sample(99)
    # Between epochs the model is evaluated with one from their middle.
    samples.on_epoch_end(None, None, None)
    middle = flops_reduction(samples.shape, LENGTHS, model.pruning)
    assert middle == pytest.approx(1 / ((1 + 1 / 4) / 2), rel=0.05)
    assert len({round(rate, 2) for rate in model.pruning.schedule}) == 1


def test_students_stay_with_their_layers():
    model, inputs = pruned_model("student"), make_inputs([17, 9, 30], small_config().vocab_size)
    students = list(model.students)
    three = [0, 0.4, 0, 0.3, 0, 0.2]
    with torch.no_grad():
        model.pruning = model.pruning.with_schedule([rate or 0.001 for rate in three])  # no token of 30 leaves for it
        expected = model(**inputs).logits
        model.set_schedule(three)
        assert list(model.students) == students[1::2]
        assert torch.equal(model(**inputs).logits, expected)
    assert model.config.pruning["schedule"] == three
    with pytest.raises(UserError, match="layer 0 has no student"):
        model.set_schedule([0.1] * 6)
