"""What makes trainings fast changes nothing of them: packed tokens, cheap dropout, the words that occur."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from conftest import small_config
from reference import make_inputs
from test_train import QUICK, assert_same_training, make_split
from torch import nn
from transformers import BertForSequenceClassification

from pruner.compress.tokens.methods import Unpruned
from pruner.data.cache import Cache
from pruner.data.collate import BertCollator, SplitDataset
from pruner.data.task import Task
from pruner.models import attention, dropout
from pruner.models.backbone import BertBackbone
from pruner.models.bert_layers import attend, layers_of
from pruner.models.dropout import Dropout, dropout_mask, use_fast_dropout
from pruner.models.packed_bert import PackedBert, packed
from pruner.models.packing import pack
from pruner.training import train as training
from pruner.training.context import Context
from pruner.training.embedding import used_words
from pruner.training.stage import Stage
from pruner.training.stages import Stages
from pruner.training.train import train
from pruner.training.trainer import PruningTrainer

LENGTHS = [17, 3, 9, 30, 1, 22]
WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def stock(**changes) -> BertForSequenceClassification:
    transformers.set_seed(1)
    return BertForSequenceClassification(small_config(**{"num_labels": 3, **WITHOUT_DROPOUT, **changes})).train()


@pytest.mark.parametrize("labels", [torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0.5, 1, 4, 2, 3.5, 0])])
def test_packed_bert_has_the_stock_models_loss_and_gradients(labels):
    model = stock(num_labels=1 if labels.is_floating_point() else 3)
    inputs = make_inputs(LENGTHS, model.config.vocab_size) | {"labels": labels}
    expected = model(**inputs)
    expected.loss.backward()
    gradients = {name: each.grad.clone() for name, each in model.named_parameters()}
    model.zero_grad()
    output = packed(model)(**inputs, lengths=LENGTHS)
    output.loss.backward()
    assert torch.allclose(output.logits, expected.logits, atol=1e-5)
    assert output.loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    for name, each in model.named_parameters():  # the gradients are there: the modules are the same
        assert torch.allclose(each.grad, gradients[name], atol=1e-6), name
    assert type(model) is BertForSequenceClassification


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("part", WITHOUT_DROPOUT)
def test_every_dropout_of_the_stock_model_drops(part, layers):
    """In the last layer too, of which [CLS] alone is computed."""
    model = stock(num_hidden_layers=layers, **{part: 0.5})
    inputs = make_inputs(LENGTHS, model.config.vocab_size) | {"lengths": LENGTHS}
    trained = packed(model)
    one, other = trained(**inputs).logits, trained(**inputs).logits
    assert (one - other).abs().min() > 1e-6
    assert torch.equal(trained.eval()(**inputs).logits, trained(**inputs).logits)


def test_training_packed_ends_where_training_the_stock_model_does(tmp_path):
    ends, curves = [], []
    for name in ("stock", "packed"):
        model = stock()
        trained, collate = (model, BertCollator(False)) if name == "stock" else (packed(model), BertCollator(True))
        curves.append(train(trained, SplitDataset(make_split()), QUICK, 1, tmp_path / name, collate))
        ends.append(model.state_dict())
    assert_same_training(*ends, curves)


class SmallBackbone(BertBackbone):
    def build(self, task, say):
        return stock(hidden_dropout_prob=0.1)


def test_the_baselines_stage_computes_real_tokens_and_leaves_the_stock_model(tmp_path, monkeypatch):
    split = make_split()
    task = Task("small", "small", ("text",), "label", ("a", "b", "c"), ("accuracy",))
    cache = Cache(task.name, task.labels, 64, {"train": split, "dev": split}, np.zeros(0))
    context = Context(task, cache, 1, SmallBackbone("small", None, None, None), QUICK)
    rows, classes, real = [], set(), PruningTrainer.training_step

    def watch(trainer, model, *inputs):
        classes.add(type(trainer.model))
        layer = layers_of(trainer.model.bert)[0]
        hook = layer.intermediate.register_forward_pre_hook(lambda _, given: rows.append(given[0].shape))
        loss = real(trainer, model, *inputs)
        hook.remove()
        return loss

    monkeypatch.setattr(PruningTrainer, "training_step", watch)
    model = Stages(tmp_path, print).obtain(Stage("baseline", context, Unpruned(), {})).model
    assert classes == {PackedBert}
    assert sum(shape[0] for shape in rows) == split.lengths.sum()
    assert type(model) is BertForSequenceClassification
    assert {type(each) for each in model.modules() if isinstance(each, nn.Dropout)} == {nn.Dropout}


def test_the_optimizer_is_fused_and_dropout_cheap_while_training(tmp_path, monkeypatch):
    model, seen, real = stock(hidden_dropout_prob=0.1), [], PruningTrainer._clip_groups

    def watch(trainer, optimizer, *rest):
        seen.append(all(group["fused"] for group in optimizer.param_groups))
        return real(trainer, optimizer, *rest)

    monkeypatch.setattr(PruningTrainer, "_clip_groups", watch)
    train(packed(model), SplitDataset(make_split()), QUICK, 1, tmp_path, BertCollator(True))
    assert seen
    assert all(seen)
    assert {type(each) for each in model.modules() if isinstance(each, nn.Dropout)} == {Dropout}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 1e-3])
def test_dropout_drops_its_share_and_keeps_the_mean(p, dtype):
    torch.manual_seed(0)
    number = 2**20
    mask = dropout_mask(torch.empty(number // 4, 4, dtype=dtype), p)
    assert mask.unique().tolist() == pytest.approx([0, torch.tensor(1 / (1 - p)).to(dtype).item()], rel=1e-4)
    deviation = (p * (1 - p) / number) ** 0.5
    assert (mask == 0).double().mean().item() == pytest.approx(p, abs=5 * deviation)
    for lane in (mask == 0).double().unbind(1):  # the four that share a random number
        assert lane.mean().item() == pytest.approx(p, abs=10 * deviation)
    together = np.corrcoef((mask == 0).double().T.numpy())
    assert np.abs(together - np.eye(4)).max() < 0.01


def test_dropout_is_drawn_anew_from_pytorchs_generator():
    x = torch.ones(1001, requires_grad=True)
    torch.manual_seed(0)
    one, other = dropout.dropout(x, 0.5), dropout.dropout(x, 0.5)
    assert not torch.equal(one, other)
    torch.manual_seed(0)
    again = dropout.dropout(x, 0.5)
    assert torch.equal(one, again)
    again.sum().backward()
    assert torch.equal(x.grad, again)  # of ones: what was kept, scaled alike
    assert not dropout_mask(torch.ones(2**20), 1.0).any()
    model = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.0), nn.Dropout(1.0))
    use_fast_dropout(model)
    assert torch.equal(model[1](x), x)
    assert torch.equal(model[2](x), torch.zeros(1001))
    assert torch.equal(model.eval()(x), x)


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("round_up", [False, True])
@pytest.mark.parametrize("lengths", [LENGTHS, [70, 3, 70, 70], [5] * 50])
def test_attention_has_the_gradients_that_autograd_derives(lengths, round_up, p, monkeypatch):
    """Those of the path with weights, all of them 1, where the same elements are dropped."""

    def every_third(x, p):
        return (torch.arange(x.numel()).view(x.shape) % 3 != 0).to(x.dtype) * 1.5

    monkeypatch.setattr(attention, "dropout_mask", every_third)
    monkeypatch.setattr(dropout, "dropout_mask", every_third)
    model = stock(attention_probs_dropout_prob=p)
    layer, (packing,) = layers_of(model.bert)[0], pack([lengths], torch.device("cpu"), round_up)
    hidden = torch.randn(packing.rows, model.config.hidden_size)
    hidden[packing.num_tokens :] = hidden[0]
    direction = torch.randn(packing.rows, model.config.hidden_size)
    direction[packing.num_tokens :] = 0
    found = []
    for weights in (None, torch.ones(packing.rows)):
        given = hidden.clone().requires_grad_()
        context, scores = attend(layer, given, packing, lambda maps: maps.amax(dim=(1, 2)), weights)
        projections = [part.weight for part in (layer.attention.self.query, layer.attention.self.key)]
        gradients = torch.autograd.grad((context * direction).sum(), [given, *projections])
        found.append([context[: packing.num_tokens], scores[: packing.num_tokens], *gradients])
    for own, derived in zip(*found, strict=True):
        assert torch.allclose(own, derived, atol=1e-5)


def test_words_that_do_not_occur_stay_and_cost_nothing(tmp_path, monkeypatch):
    """Training the words that occur is training all of them, to the last bit where nothing is clipped."""

    @contextlib.contextmanager
    def all_words(model: nn.Module, tokens: np.ndarray) -> Iterator[None]:
        yield

    ends, trained, real = [], set(), PruningTrainer._clip_groups

    def watch(trainer, *rest):
        trained.add(len(trainer.model.bert.embeddings.word_embeddings.weight))
        real(trainer, *rest)

    monkeypatch.setattr(PruningTrainer, "_clip_groups", watch)
    split = make_split()
    for words in (used_words, all_words):
        monkeypatch.setattr(training, "used_words", words)
        model = stock(hidden_dropout_prob=0.1)
        before = model.bert.embeddings.word_embeddings.weight.detach().clone()
        settings = replace(QUICK, clip=None)
        train(packed(model), SplitDataset(split), settings, 1, tmp_path / words.__name__, BertCollator(True))
        ends.append(model.state_dict())
    occurring = np.unique(split.tokens)
    assert trained == {len(occurring), model.config.vocab_size}
    assert type(model.bert.embeddings.word_embeddings) is nn.Embedding
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]), name
    moved = (ends[0]["bert.embeddings.word_embeddings.weight"] != before).any(dim=1)
    assert moved.nonzero().flatten().tolist() == occurring.tolist()


def test_while_training_every_word_can_be_read(tmp_path):
    """Of a dev set, say; and padding has no gradient, should a sentence hold it."""
    model = stock()
    table = model.bert.embeddings.word_embeddings
    ids = torch.arange(model.config.vocab_size)[None]
    expected = table(ids)
    with used_words(model, np.array([7, 0, 9, 9])):
        words = model.bert.embeddings.word_embeddings
        assert words.weight.shape == (2, model.config.hidden_size)
        assert torch.equal(words(ids), expected)
        with torch.no_grad():
            words.weight += 1
        changed = words(ids)
    assert model.bert.embeddings.word_embeddings is table
    assert torch.equal(table(ids), changed)
    assert (changed != expected).any(dim=2).nonzero()[:, 1].tolist() == [7, 9]
