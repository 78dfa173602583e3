"""compress(), and models that are made cheaper on texts without labels and without training."""

import copy
import sys

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, small_config
from sklearn.linear_model import Ridge
from test_run import QUICK, prepared, records  # noqa: F401
from transformers import AlbertConfig, AlbertForSequenceClassification, BertForSequenceClassification, BertTokenizer

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner import compress
from pruner.compress.joint import fisher, reconstruct
from pruner.compress.joint.budgets import FlopsBudget
from pruner.compress.joint.fisher import agreement, directions, fisher_scores, unlikeness
from pruner.compress.joint.texts import encode_texts
from pruner.compress.joint.untrained import calibrate
from pruner.compress.structure.masks import masked
from pruner.compress.structure.shrink import Structure, shrink
from pruner.data.cache import Split
from pruner.data.collate import BertCollator, make_batch
from pruner.models.flops import BertShape, dense_flops
from pruner.utils.errors import UserError

KINDS = {
    "two classes": {"num_labels": 2},
    "five classes": {"num_labels": 5},
    "several labels": {"num_labels": 3, "problem_type": "multi_label_classification"},
    "a regression": {"num_labels": 1},
}
CPU = torch.device("cpu")


def bert(**changes) -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(small_config(**changes)).eval()


def rows(count: int, seed: int = 0, longest: int = 20) -> Split:
    """Sentences of random words, a part of them with a second segment."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(3, longest, count)
    tokens = generator.integers(5, len(VOCABULARY), lengths.sum()).astype(np.int32)
    return Split(tokens, np.concatenate([[0], lengths.cumsum()]), (lengths // 2 + 1).astype(np.int32), None)


def logits_of(model, split: Split) -> torch.Tensor:
    with torch.no_grad():
        return model(**make_batch(split, range(len(split)), BertCollator(with_lengths=False), CPU)).logits


WORDS = VOCABULARY[5:12]


def texts(count: int, seed: int = 0) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(4, 16))) for _ in range(count)]


@pytest.fixture
def tokenizer(tmp_path) -> BertTokenizer:
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return BertTokenizer(str(tmp_path / "vocab.txt"), model_max_length=128)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_say_how_much_the_answers_change(kind, monkeypatch):
    """A part that computes a little less changes the answers by what its score says, to second order."""
    monkeypatch.setattr(fisher, "DIRECTIONS", 5)  # with as many classes nothing is left to chance
    model, split = bert(num_hidden_layers=2, **KINDS[kind]).double(), rows(5)
    scores, before, little = fisher_scores(model, split, 2), logits_of(model, split), 1e-3
    half = 1 if kind == "a regression" else 2
    for layer in range(2):
        for part in range(4):
            factors = torch.ones(2, 4, dtype=torch.float64)
            factors[layer, part] -= little
            with masked(model, heads=factors):
                change = unlikeness(logits_of(model, split), before, model.config)
            assert change * half / little**2 == pytest.approx(scores.heads[layer, part].item() ** 2, rel=0.03, abs=1e-9)
        factors = torch.ones(2, 64, dtype=torch.float64)
        factors[layer, 7] -= little
        with masked(model, neurons=factors):
            change = unlikeness(logits_of(model, split), before, model.config)
        assert change * half / little**2 == pytest.approx(scores.neurons[layer, 7].item() ** 2, rel=0.03, abs=1e-9)
    assert scores.neurons.shape == (2, 64)
    assert scores.feed_forwards.shape == (2,)


def test_random_mixtures_of_many_classes_are_right_in_the_mean(monkeypatch):
    assert torch.equal(directions(3, torch.Generator()), torch.eye(3))
    drawn = torch.cat([directions(9, torch.Generator().manual_seed(seed)) for seed in range(2000)])
    torch.testing.assert_close(drawn.T @ drawn / len(drawn), torch.eye(9), atol=0.06, rtol=0)
    model, split = bert(num_hidden_layers=1, num_labels=6), rows(40)
    some = fisher_scores(model, split, 8).neurons
    monkeypatch.setattr(fisher, "DIRECTIONS", 6)
    exact = fisher_scores(model, split, 8).neurons
    assert (some / exact).median() == pytest.approx(1, abs=0.1)
    assert not torch.equal(some, exact)


def test_scores_do_not_depend_on_batches_and_leave_the_model():
    model, split = bert(num_labels=2).train(), rows(9)
    before = copy.deepcopy(model.state_dict())
    one, other = fisher_scores(model, split, 9), fisher_scores(model, split, 2)
    torch.testing.assert_close(one.heads, other.heads, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(one.neurons, other.neurons, rtol=1e-4, atol=1e-9)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_least_squares_are_those_of_scikit_learn():
    torch.manual_seed(1)
    linear, inputs, outputs = torch.nn.Linear(6, 4), torch.randn(50, 6) + 1, torch.randn(50, 4)
    before = copy.deepcopy(linear)
    with torch.no_grad():
        reconstruct.fit(linear, inputs, outputs)
        error = (outputs - before(inputs)).numpy()
    centred = inputs - inputs.mean(dim=0)
    ridge = Ridge(alpha=reconstruct.RIDGE * (centred.square().sum(dim=0)).mean().item()).fit(inputs.numpy(), error)
    change = (linear.weight - before.weight).detach()
    torch.testing.assert_close(change, torch.tensor(ridge.coef_), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(
        (linear.bias - before.bias).detach(), torch.tensor(ridge.intercept_), rtol=1e-3, atol=1e-5
    )


def test_what_remains_is_corrected():
    dense, split = bert(num_labels=3), rows(60)
    same = reconstruct.reconstruct(PrunedBertForSequenceClassification.from_unpruned(dense), dense, split)
    torch.testing.assert_close(logits_of(same, split), logits_of(dense, split), rtol=1e-4, atol=1e-4)
    full = Structure.of(dense.config)
    left = Structure(full.layers, ((0, 2, 3),) * 6, (tuple(range(0, 64, 2)),) * 6)
    smaller = shrink(PrunedBertForSequenceClassification.from_unpruned(dense), left).eval()
    reference, others = logits_of(dense, rows(60, seed=1)), rows(60, seed=1)
    without = unlikeness(logits_of(smaller, others), reference, dense.config)
    before = copy.deepcopy(dense.state_dict())
    corrected = unlikeness(logits_of(reconstruct.reconstruct(smaller, dense, split), others), reference, dense.config)
    assert corrected < 0.5 * without
    assert all(torch.equal(x, before[name]) for name, x in dense.state_dict().items())


def test_a_layer_does_the_work_of_those_that_left():
    """Where a layer leaves that computes what a matrix can, the answers stay."""
    dense, split, others = bert(num_labels=3, num_hidden_layers=3), rows(80), rows(60, seed=1)
    with torch.no_grad():  # a layer that turns what it is given, and a norm that no other has
        layer = dense.bert.encoder.layer[1]
        layer.attention.output.dense.weight.mul_(0)
        layer.output.dense.weight.mul_(0)
        layer.output.LayerNorm.weight.copy_(torch.linspace(0.5, 2, 32))
    full = Structure.of(dense.config)
    smaller = shrink(PrunedBertForSequenceClassification.from_unpruned(dense), full.keep_layers([0, 2])).eval()
    reference = logits_of(dense, others)
    without = unlikeness(logits_of(smaller, others), reference, dense.config)
    corrected = unlikeness(logits_of(reconstruct.reconstruct(smaller, dense, split), others), reference, dense.config)
    assert corrected < 0.25 * without
    last = shrink(PrunedBertForSequenceClassification.from_unpruned(dense), full.keep_layers([1, 2])).eval()
    assert logits_of(reconstruct.reconstruct(last, dense, split), others).isfinite().all()


def test_long_texts_are_corrected_in_parts():
    """What does not fit into memory at once is left out; the first row never is."""
    dense, split = bert(num_labels=2), rows(30)
    left = Structure.of(dense.config).mask(heads=torch.tensor([[True, True, True, False]] * 6))
    models = []
    for most in int(split.lengths[:10].sum()), 1:
        model = shrink(PrunedBertForSequenceClassification.from_unpruned(dense), left).eval()
        models.append(reconstruct.reconstruct(model, dense, split, most))
    first = Split(split.tokens[: split.offsets[10]], split.offsets[:11], split.second[:10], None)
    model = shrink(PrunedBertForSequenceClassification.from_unpruned(dense), left).eval()
    expected = logits_of(reconstruct.reconstruct(model, dense, first), split)
    torch.testing.assert_close(logits_of(models[0], split), expected)
    assert logits_of(models[1], split).isfinite().all()


@pytest.mark.parametrize("axes", [("tokens", "width"), ("tokens",), ("width",)], ids=" and ".join)
def test_a_budget_is_met_by_what_may_leave(axes):
    dense, split = bert(num_labels=2), rows(60)
    lengths = [int(length) for length in split.lengths]
    budget = FlopsBudget(1.5, dense.config, lengths)
    model, found = calibrate(dense, split, lengths, budget, axes, 32, print)
    flops = dense_flops(BertShape.of_model(dense), lengths) / dense_flops(BertShape.of_model(model), lengths)
    assert found["width_reduction"] == pytest.approx(flops, abs=1e-3)
    assert (flops > 1.001) <= ("width" in axes)
    assert any(model.pruning.schedule) <= ("tokens" in axes)
    if axes == ("width",):
        assert 1.5 <= flops < 1.6
    if len(axes) == 2:  # no mixture that was left out is better
        alone = [calibrate(dense, split, lengths, budget, (axis,), 32, print)[1] for axis in axes]
        assert found["unlikeness"] <= min(one["unlikeness"] for one in alone) + 1e-6
        assert found["mixtures"] > sum(one["mixtures"] for one in alone)


@pytest.mark.parametrize("kind", KINDS)
def test_compress_in_five_lines(kind, tokenizer, tmp_path):
    model = bert(**KINDS[kind])
    before = copy.deepcopy(model.state_dict())
    smaller = compress(model, tokenizer, texts(80), target_flops_reduction=1.5)
    smaller.save_pretrained(tmp_path / "smaller")
    loaded = PrunedBertForSequenceClassification.from_pretrained(tmp_path / "smaller").eval()
    inputs = tokenizer(texts(3, seed=5), padding=True, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, smaller(**inputs).logits)
        single = tokenizer(texts(3, seed=5)[0], return_tensors="pt")
        torch.testing.assert_close(smaller(**single).logits, smaller(**inputs).logits[:1], rtol=1e-4, atol=1e-4)
    assert loaded.config.precision["weights"] == "int8"
    assert BertTokenizer.from_pretrained(tmp_path / "smaller").get_vocab() == tokenizer.get_vocab()
    assert smaller.flops_reduction == pytest.approx(1.5, rel=0.06)
    assert smaller.held_out == 20
    assert -1 <= smaller.agreement <= 1
    assert smaller.bytes[1] < 0.6 * smaller.bytes[0]
    lines = smaller.report().splitlines()
    assert [line.split()[0] for line in lines] == ["tokens", "heads", "neurons", "FLOPs", "weights", "answers"]
    assert ("rank correlation" in lines[-1]) == (kind == "a regression")
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert not hasattr(model.config, "compression")


def test_what_may_not_leave_stays(tokenizer):
    model = bert(num_labels=2)
    plain = compress(model, tokenizer, texts(60), 1.2, width=False, int8=False)
    assert not hasattr(plain.model.config, "compression")
    assert getattr(plain.model.config, "precision", None) is None
    assert plain.width_reduction == 1
    assert plain.bytes[0] == plain.bytes[1]
    for name, weights in model.state_dict().items():
        assert torch.equal(weights, plain.model.state_dict()[name]), name
    dense_tokens = compress(model, tokenizer, texts(60), 1.2, tokens=False, int8=False)
    assert not any(dense_tokens.model.pruning.schedule)
    # An unpruned model of the pruned class is a plain one, and keeps its dtype.
    half = PrunedBertForSequenceClassification.from_unpruned(model).to(torch.bfloat16)
    assert compress(half, tokenizer, texts(60), 1.2, int8=False).model.dtype == torch.bfloat16


def test_agreement_counts_answers():
    reference = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0], [0.0, 2.0]])
    other = torch.tensor([[5.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 9.0]])
    assert agreement(other, reference, small_config(num_labels=2)) == 0.75
    labels = small_config(num_labels=2, problem_type="multi_label_classification")
    assert agreement(torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[3.0, -2.0], [1.0, -1.0]]), labels) == 0.5
    assert agreement(torch.arange(4.0)[:, None], torch.arange(4.0)[:, None] ** 3, small_config(num_labels=1)) == 1


def test_texts_are_read_as_the_tokenizer_reads_them(tokenizer):
    pairs = [("a fine film .", "not bad"), ["a", "dull plot is good"]] * 5
    split = encode_texts(pairs, tokenizer, 128, len(VOCABULARY))
    batch = make_batch(split, range(10), BertCollator(with_lengths=False), CPU)
    expected = tokenizer([pair[0] for pair in pairs], [pair[1] for pair in pairs], padding=True, return_tensors="pt")
    for name in "input_ids", "token_type_ids", "attention_mask":
        assert torch.equal(batch[name], expected[name]), name
    short = encode_texts(["film " * 50] * 8, tokenizer, 16, len(VOCABULARY))
    assert set(short.lengths) == {16}


def pruned(model: BertForSequenceClassification) -> PrunedBertForSequenceClassification:
    return PrunedBertForSequenceClassification.from_unpruned(model)


REFUSED = {
    "another model": (
        lambda model: AlbertForSequenceClassification(
            AlbertConfig(vocab_size=30, hidden_size=16, num_attention_heads=2)
        ),
        {},
        "AlbertForSequenceClassification: not supported; give a classifier of one of BERT and distilbert, roberta",
    ),
    "tokens dropped": (
        lambda model: pruned(model).set_pruning([0.5] * 6, "attention"),
        {},
        "tokens are dropped already",
    ),
    "heads removed": (
        lambda model: shrink(pruned(model), Structure.of(model.config).keep_layers([0, 1])),
        {},
        "compress: heads or layers have been removed; give the model that it was made of",
    ),
    "no numbers": (
        lambda model: model.classifier.weight.data.fill_(float("nan")) is None or model,
        {},
        "classifier.weight holds numbers that are not finite",
    ),
    "few texts": (lambda model: model, {"texts": ["a film"] * 7}, "texts: 7 are too few; give a few hundred"),
    "one text": (lambda model: model, {"texts": "a film"}, "texts: str is no list; give a list of texts"),
    "no texts": (lambda model: model, {"texts": ["a film"] * 8 + [None]}, "texts: number 8 is None, not a text"),
    "triples": (lambda model: model, {"texts": [("a", "film", ".")] * 8}, "texts: number 0 is ('a', 'film', '.')"),
    "no reduction": (lambda model: model, {"target_flops_reduction": 1}, "1 is no factor; use a number above 1"),
    "none": (lambda model: model, {"target_flops_reduction": None}, "None is no factor; use a number above 1"),
    "no number": (lambda model: model, {"target_flops_reduction": "2x"}, "'2x' is no factor"),
    "nothing may leave": (lambda model: model, {"tokens": False, "width": False}, "neither tokens nor width may leave"),
    "too much": (
        lambda model: model,
        {"target_flops_reduction": 500.0},
        "500 cannot be met by tokens and width; use",
    ),
    "too much width": (lambda model: model, {"target_flops_reduction": 20, "tokens": False}, "20 cannot be met"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_compressed_is_refused_by_name(case, tokenizer):
    make, settings, line = REFUSED[case]
    settings = {"texts": texts(40)} | settings
    with pytest.raises(UserError) as error:
        compress(make(bert(num_labels=2)), tokenizer, **settings)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_tokenizer_of_another_model_is_refused(tokenizer):
    with pytest.raises(UserError, match=r"tokenizer: knows .* words at least, the model 8; give the tokenizer that"):
        compress(bert(num_labels=2, vocab_size=8), tokenizer, texts(40))


def test_the_room_can_be_called_and_entered():
    import pruner.compress.structure.importance as room

    assert sys.modules["pruner.compress"] is compress
    assert room.importance


def test_methods_without_training(run, prepared):  # noqa: F811
    names = ["calibrated", "calibrated-tokens", "calibrated-width", "calibrated-uniform"]
    flags = ("--methods", ",".join(names), "--target-flops-reduction", "1.3", "--calibration-texts", "16")
    code, out, err = run("RunBert4Glue", *QUICK, *flags)
    assert code == 0, err
    assert out.count("training, ") == 1  # the dense model's
    found = records(prepared / "records/BERT/mrpc")
    dense = found["baseline_seed1"]
    for name in names:
        record = found[f"{name}_1.3x_seed1"]
        assert record["loss"] == dense["loss"]
        assert record["choice"].get("rows", 16) == 16
        assert 0 <= record["choice"]["agreement"] <= 1
        assert record["schedule_source"] == "calibrated"
        assert record["target_flops_reduction"] == 1.3
        assert record["flops"]["reduction"] == pytest.approx(1.3, rel=0.06)
        assert any(record["schedule"]) or "width" in name or name == "calibrated"
        assert (record["weights_remaining"] < 1) <= (name in ("calibrated", "calibrated-width"))
        model = PrunedBertForSequenceClassification.from_pretrained(record["model_folder"])
        assert list(model.pruning.schedule) == record["schedule"]
    assert len({*found["calibrated-uniform_1.3x_seed1"]["schedule"]}) == 1
    code, _, err = run("RunBert4Glue", *QUICK, "--methods", "calibrated", "--records", "other")
    assert code == 2
    assert "(target_flops_reduction): calibrated needs a budget; give one, as 2, or several" in err
    code, _, err = run("RunBert4Glue", *QUICK, *flags[:-1], "3", "--records", "other")
    assert code == 2
    assert "--calibration-texts (calibration_texts): 3 is out of range" in err
