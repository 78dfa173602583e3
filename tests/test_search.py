"""PoWER-BERT's search: its soft-extract layers against the model that drops tokens, its penalty, its budget."""

import copy

import numpy as np
import pytest
import torch
import transformers
from conftest import small_config
from reference import make_inputs
from test_train import make_split

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.tokens.budget import rates_of_shares, shares_flops
from pruner.compress.tokens.flops import pruned_flops
from pruner.compress.tokens.schedule import make_pruning
from pruner.compress.tokens.select import keep_counts
from pruner.compress.tokens.soft_extract import RANKS, SoftBert, SoftExtract, SoftExtractSearch
from pruner.data.cache import Cache
from pruner.data.task import Task
from pruner.models.backbone import BertBackbone
from pruner.models.flops import BertShape, LayerShape, dense_flops
from pruner.models.packing import pack
from pruner.training.context import Context
from pruner.training.stage import Stage, Trained
from pruner.training.stages import Stages
from pruner.training.trainer import TrainSettings

LENGTHS = [17, 3, 9, 30, 1, 22]
TRAINING = TrainSettings(epochs=3, batch_size=8, learning_rate=1e-3)


def small_model(**changes) -> PrunedBertForSequenceClassification:
    transformers.set_seed(1)
    return PrunedBertForSequenceClassification(small_config(num_labels=3, **changes)).eval()


def soft_inputs(lengths, vocabulary: int) -> dict:
    return make_inputs(lengths, vocabulary) | {"lengths": list(lengths)}


def set_shares(soft: SoftBert, shares) -> None:
    """Parameters of 0 and 1: each layer retains the first ranks."""
    retained = torch.arange(RANKS) < RANKS * torch.tensor(shares)[:, None]
    with torch.no_grad():
        soft.soft_extract.retention.copy_(retained.float())


@torch.no_grad()
def test_the_soft_model_begins_as_the_unpruned_one():
    model = small_model()
    inputs = soft_inputs(LENGTHS, model.config.vocab_size)
    found = SoftBert(model).eval()(**inputs).logits
    inputs.pop("lengths")
    assert torch.allclose(found, model.unpruned_twin()(**inputs).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("lengths", "shares"),
    [
        (LENGTHS, [1, 1, 0.5, 0.5, 0.5, 0.5]),
        (LENGTHS, [0.25] * 6),
        (LENGTHS, [1, 1, 1, 1, 1 / RANKS, 1 / RANKS]),  # [CLS] alone
        ([16, 4, 32, 8, 64, 20], [1, 0.5, 0.5, 0.25, 0.25, 0.25]),  # where rounding twice is rounding once
    ],
)
@torch.no_grad()
def test_parameters_of_0_and_1_are_the_model_that_drops(lengths, shares):
    model = small_model()
    inputs = soft_inputs(lengths, model.config.vocab_size)
    soft = SoftBert(copy.deepcopy(model)).eval()
    set_shares(soft, shares)
    hard = model.set_pruning(rates_of_shares(shares), "attention")
    assert soft.soft_extract.shares() == pytest.approx(shares)
    assert torch.allclose(soft(**inputs).logits, hard(**inputs).logits, atol=1e-5)
    # And it matters what is dropped.
    unpruned = SoftBert(model.set_pruning([0] * 6)).eval()
    assert not torch.allclose(soft(**inputs).logits, unpruned(**inputs).logits, atol=1e-3)


def test_a_parameter_multiplies_the_token_of_its_rank():
    """By hand: four tokens, [CLS] first, the others by significance; rank k of n has parameter k * 32 // n."""
    extract = SoftExtract(2)
    with torch.no_grad():
        extract.retention[1] = torch.arange(RANKS) / 100
    (packing,) = pack([[4, 1]], torch.device("cpu"))
    found = extract(1, torch.tensor([0.1, 0.3, 0.9, 0.2, 5.0]), packing)
    assert found.tolist() == pytest.approx([1.0, 0.16, 0.08, 0.24, 1.0])


def test_a_token_that_is_gone_can_come_back():
    """Parameters of 0 have gradients, and none that is not a number."""
    model = small_model()
    soft = SoftBert(model).train()
    set_shares(soft, [0.5] * 6)
    inputs = soft_inputs([30, 22], model.config.vocab_size)
    soft(**inputs, labels=torch.tensor([0, 1])).loss.backward()
    gradient = soft.soft_extract.retention.grad
    assert gradient.isfinite().all()
    assert (gradient[:-1, RANKS // 2 :] != 0).any(dim=1).all()


def test_the_loss_has_the_penalty_while_training():
    model = small_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    soft = SoftBert(model, penalty=1e-2, mean_length=20.0)
    inputs = soft_inputs(LENGTHS, model.config.vocab_size) | {"labels": torch.tensor([0, 1, 2, 0, 1, 2])}
    set_shares(soft, [1, 1, 0.5, 0.5, 0.25, 0.25])
    # Lambda times the sum of layer number times mass, in tokens.
    penalty = 1e-2 * 20 * (1 + 2 + 3 * 0.5 + 4 * 0.5 + 5 * 0.25 + 6 * 0.25)
    assert (soft.train()(**inputs).loss - soft.eval()(**inputs).loss).item() == pytest.approx(penalty, rel=1e-4)


def test_masses_are_made_non_increasing_and_parameters_possible():
    extract = SoftExtract(4)
    with torch.no_grad():
        extract.retention.copy_(torch.randn(4, RANKS, generator=torch.Generator().manual_seed(0)) + 0.5)
    extract.project()
    assert (extract.retention.diff(dim=1) <= 0).all()
    assert extract.retention.min() >= 0
    assert extract.retention.max() <= 1
    assert (extract.retention[:, 0] == 1).all()
    shares = extract.shares()
    assert shares == sorted(shares, reverse=True)
    assert shares == np.minimum.accumulate(extract.masses().tolist()).tolist()


class SmallBackbone(BertBackbone):
    def build(self, task, say):
        return small_model().unpruned_twin()


def run_search(tmp_path, settings: SoftExtractSearch, name: str = "search", say=lambda text: None) -> Trained:
    split = make_split()
    task = Task("small", "small", ("text",), "label", ("a", "b", "c"), ("accuracy",))
    cache = Cache(task.name, task.labels, 64, {"train": split, "dev": split}, np.zeros(0))
    context = Context(task, cache, 1, SmallBackbone("small", None, None, None), TRAINING)
    return Stages(tmp_path / name, say).obtain(Stage("search", context, settings, {}))


def test_without_a_penalty_nothing_is_pruned(tmp_path):
    path = run_search(tmp_path, SoftExtractSearch(None, 0.0, 1e-2)).result["path"]
    assert path == [[1.0] * 6] * len(path)


def test_a_larger_penalty_never_retains_more(tmp_path):
    retained = []
    for penalty in (1e-5, 1e-3, 1e-1):
        path = run_search(tmp_path, SoftExtractSearch(None, penalty, 5e-2), str(penalty)).result["path"]
        assert all(shares == sorted(shares, reverse=True) for shares in path)
        retained.append(path[-1])
    # To the third decimal, as in a schedule. (All of the last layer leaves at any penalty: nothing reads it.)
    assert (np.diff(retained, axis=0) <= 1e-3).all(), retained
    assert sum(retained[-1]) < 0.8 * sum(retained[0])


def test_a_search_for_budgets_shrinks_to_its_reach(tmp_path):
    searched = run_search(tmp_path, SoftExtractSearch(3.0, None, 1e-2))
    shape, lengths = BertShape.of_model(searched.model), make_split().lengths.astype(float)
    flops = [shares_flops(shape, lengths, shares) for shares in searched.result["path"]]
    assert flops[0] == pytest.approx(dense_flops(shape, lengths.astype(int)))
    assert (np.diff(flops) <= 0).all()
    assert flops[0] / flops[-1] == pytest.approx(3.3, rel=0.05)  # a tenth further than asked


def test_flops_of_shares_are_those_of_the_schedule():
    shape = BertShape(hidden=32, labels=2, layers=(LayerShape(32, 64),) * 3)
    lengths, shares = [16, 32, 64], [1.0, 0.5, 0.25]
    pruning = make_pruning(rates_of_shares(shares), "attention", 3)
    counts = keep_counts(lengths, pruning.schedule)
    assert shares_flops(shape, np.array(lengths, float), shares) == pruned_flops(shape, lengths, counts, pruning)


def test_an_interrupted_search_goes_on(tmp_path):
    settings = SoftExtractSearch(3.0, None, 1e-2)
    whole = run_search(tmp_path, settings, "whole")
    said = []

    def interrupt(text):
        said.append(text)
        if text.startswith("search, epoch 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_search(tmp_path, settings, "broken", interrupt)
    again = run_search(tmp_path, settings, "broken", said.append)
    # The second epoch was not finished, the first was.
    assert [text[:15] for text in said if text.startswith("search")] == [f"search, epoch {n}" for n in (1, 2, 2, 3)]
    assert (again.result, again.loss) == (whole.result, whole.loss)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    kept = run_search(tmp_path, settings, "broken")
    assert (kept.result, kept.loss) == (whole.result, whole.loss)
