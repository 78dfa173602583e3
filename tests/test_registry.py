"""Scorers that somebody else registers are scorers like all others: in both models, their FLOPs and their folders."""

import pytest
import torch
from conftest import small_config
from reference import kept_by_rule, make_inputs
from test_flops import LENGTH, counted
from test_lstm import make_plain
from torch import nn
from transformers import BertForSequenceClassification

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.tokens.flops import pruned_flops
from pruner.compress.tokens.lstm import PrunedLstmForSequenceClassification
from pruner.compress.tokens.schedule import Pruning, make_pruning
from pruner.compress.tokens.scores import SCORERS, register_scorer, scorer_names
from pruner.compress.tokens.select import keep_counts
from pruner.models.flops import BertShape, LstmShape, dense_flops
from pruner.utils.errors import UserError

LENGTHS = [17, 3, 9, 30, 1, 22]
IDS = torch.randint(1, 24, (6, 30), generator=torch.Generator().manual_seed(0))
IDS *= torch.arange(30) < torch.tensor(LENGTHS)[:, None]
PIECE_LENGTHS = torch.randint(1, 9, (30,), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def registered():
    """A scorer of each kind, as a user would add them."""
    before = dict(SCORERS)

    @register_scorer("longest")
    def longest_piece_first(tokens):
        return PIECE_LENGTHS[tokens.input_ids]

    def feature_flops(shape, tokens, layers, widths):
        return 2.0 * sum(tokens[layer].sum() for layer in layers) * getattr(shape, "embedding", shape.hidden)

    register_scorer("feature", reads="hidden", flops=feature_flops)(lambda hidden: hidden[..., 0])
    register_scorer("largest", reads="attention", models=("bert",))(lambda attention: attention.amax(dim=(1, 2)))

    @register_scorer("linear", reads="hidden", learned=True)
    class Linear(nn.Linear):
        def __init__(self, hidden_size, widths):
            super().__init__(hidden_size, 1)

        def forward(self, hidden):
            return super().forward(hidden.detach()).squeeze(-1)

    @register_scorer("middle", reads="model", flops=lambda shape, tokens, *_: dense_flops(shape, tokens[0]))
    def middle_tokens_first(model, batch, layers):
        assert not model.training  # whatever the pass is that asks
        assert not torch.is_grad_enabled()
        middle = batch.packing.cu_seqlens.diff()[:, None] / 2
        return dict.fromkeys(layers, -(torch.arange(batch.packing.max_seqlen) - middle).abs())

    yield
    SCORERS.clear()
    SCORERS.update(before)


def longest_kept(words: list[int], rate: float, always: list[int]) -> list[int]:
    order = sorted(range(len(words)), key=lambda at: (at not in always, -PIECE_LENGTHS[words[at]], at))
    return sorted(order[: kept_by_rule(len(words), rate)])


def test_names_are_in_the_published_order_and_new_ones_behind_them(registered):
    published = ["student", "attention", "gate", "emission", "gradient", "random", "head", "tail", "frequency"]
    assert list(SCORERS)[:9] == published
    assert scorer_names("bert")[-5:] == ["longest", "feature", "largest", "linear", "middle"]
    assert scorer_names("lstm")[-4:] == ["longest", "feature", "linear", "middle"]
    assert scorer_names("lstm", unpruned_pass=True) == ["gate", "middle"]
    with pytest.raises(
        UserError, match=r"unknown method 'largest'; did you mean longest\? choose from student, gate, .*, longest"
    ):
        make_pruning(0.5, "largest", model="lstm")
    for name in ("longest", "a+b"):
        with pytest.raises(ValueError, match="is taken, or has a"):
            register_scorer(name)


def test_bert_by_hand(model, registered):
    inputs = make_inputs(LENGTHS, model.config.vocab_size)
    model.set_pruning([0.6, 0, 0, 0, 0, 0], "longest")
    output = model(**inputs)
    kept = output.token_positions[0].split(output.token_counts[0])
    for ids, length, positions in zip(inputs["input_ids"], LENGTHS, kept, strict=True):
        assert positions.tolist() == longest_kept(ids[:length].tolist(), 0.6, [0])


def test_lstm_by_hand(registered):
    model = PrunedLstmForSequenceClassification.from_unpruned(make_plain()).set_pruning(0.6, "longest")
    output = model(IDS)
    kept = output.token_positions[0].split(output.token_counts[0])
    for ids, length, positions in zip(IDS, LENGTHS, kept, strict=True):
        assert positions.tolist() == longest_kept(ids[:length].tolist(), 0.6, [])


@pytest.mark.parametrize("method", ["longest", "feature", "largest", "linear", "middle", "longest+feature+student"])
@torch.no_grad()
def test_bert_runs_counts_saves_and_loads(model, registered, method, tmp_path):
    schedule = [0.3, 0, 0.4, 0, 0, 0.2]
    model.set_pruning(schedule, method, teacher="middle")
    inputs = make_inputs(LENGTHS, model.config.vocab_size)
    output = model(**inputs)
    assert output.token_counts == keep_counts(LENGTHS, schedule)
    alone = {name: x[:1, :17] for name, x in inputs.items()}
    assert torch.allclose(output.logits[:1], model(**alone).logits, atol=1e-5)
    model.save_pretrained(tmp_path)
    loaded = PrunedBertForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(**inputs).logits, output.logits)
    shape, kept = BertShape.of(model.config), keep_counts([LENGTH], schedule)
    if method in ("longest", "largest"):
        assert pruned_flops(shape, [LENGTH], kept, model.pruning) == counted(model)
    elif method == "middle":  # which says that it runs the whole model
        dense = dense_flops(shape, [LENGTH])
        assert pruned_flops(shape, [LENGTH], kept, model.pruning) == counted(model) + dense


@pytest.mark.parametrize("method", ["longest", "feature", "linear", "middle"])
@torch.no_grad()
def test_lstm_runs_counts_saves_and_loads(registered, method, tmp_path):
    model = PrunedLstmForSequenceClassification.from_unpruned(make_plain(2))
    model.set_pruning(0.5, method, teacher="middle")
    output = model(IDS)
    assert torch.allclose(output.logits[:1], model(IDS[:1, :17]).logits, atol=1e-6)
    model.save_pretrained(tmp_path)
    loaded = PrunedLstmForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(IDS).logits, output.logits)
    shape, kept = LstmShape.of(model.config), output.token_counts
    adds = {"feature": 2.0 * sum(LENGTHS) * 12, "middle": dense_flops(shape, LENGTHS)}.get(method, 0)
    assert pruned_flops(shape, LENGTHS, kept, model.pruning) == dense_flops(shape, kept[0]) + adds


@pytest.mark.parametrize("method", ["student", "linear"])
def test_a_new_teacher_is_imitated_by_what_is_learned(model, registered, method):
    schedule, inputs = [0.5, 0, 0, 0, 0, 0], make_inputs(LENGTHS, model.config.vocab_size)
    led = model.set_pruning(schedule, method, teacher="middle")(**inputs, follow_teacher=True)
    assert led.student_loss.item() > 0
    taught = model.set_pruning(schedule, "middle")(**inputs)
    assert torch.equal(led.token_positions[0], taught.token_positions[0])
    lstm = PrunedLstmForSequenceClassification.from_unpruned(make_plain()).set_pruning(0.5, method, teacher="middle")
    lstm.train()(IDS, labels=torch.zeros(6, dtype=torch.long)).loss.backward()
    assert all(parameter.grad is not None for parameter in lstm.students.parameters())


def test_a_saved_scorer_that_is_not_registered_is_one_line(model, registered, tmp_path):
    model.set_pruning([0.5, 0, 0, 0, 0, 0], "longest").save_pretrained(tmp_path)
    del SCORERS["longest"]
    with pytest.raises(UserError, match=r"^pruning: 'longest' is not a registered scorer; register it before .*$"):
        PrunedBertForSequenceClassification.from_pretrained(tmp_path)


def test_mixed_methods_take_no_other_schedule(model):
    model.set_pruning([0.5, 0, 0.5, 0, 0, 0], "student+random")
    for change in (model.set_schedule, model.pruning.with_schedule):
        with pytest.raises(UserError, match=r"^--methods \(pruning_methods\): with 'student\+random' it is not known"):
            change([0.5, 0.5, 0, 0, 0, 0])
    with pytest.raises(UserError, match=r"^--methods \(pruning_methods\): with 'none'"):
        Pruning.none(6).with_schedule([0.5] * 6)
    assert Pruning.none(6).with_schedule([0] * 6).methods == (None,) * 6


def test_a_plain_bert_becomes_a_pruned_one():
    torch.manual_seed(0)
    plain = BertForSequenceClassification(small_config(num_labels=3)).eval()
    inputs = make_inputs(LENGTHS, plain.config.vocab_size)
    with torch.no_grad():
        expected, state = plain(**inputs).logits, torch.random.get_rng_state()
        pruned = PrunedBertForSequenceClassification.from_unpruned(plain)
        assert torch.equal(state, torch.random.get_rng_state())  # no random number is drawn
        assert torch.allclose(pruned(**inputs).logits, expected, atol=1e-5)
        pruned.set_pruning([0.5] * 6, "tail").bert.pooler.dense.weight.zero_()
        assert torch.equal(plain(**inputs).logits, expected)  # its weights are its own, and so is its config
    assert not hasattr(plain.config, "pruning")


def test_what_is_told_of_tokens_is_an_entry_while_training_alone(model):
    model.set_pruning([0.5, 0, 0, 0, 0, 0], "student", teacher="emission")
    inputs = make_inputs(LENGTHS, model.config.vocab_size) | {"labels": torch.tensor([0, 1, 2, 0, 1, 2])}
    told = {"student_loss", "student_scores", "student_counts", "token_positions", "token_counts", "score_sum"}
    for options in ({}, {"follow_teacher": True}):
        output = model(**inputs, **options)
        assert list(output) == ["loss", "logits"]  # pipelines and Trainer cut every entry into rows
        assert all(
            getattr(output, name) is not None for name in (told if options else ("token_positions", "score_sum"))
        )
    assert set(model.train()(**inputs)) == {"loss", "logits"} | told  # DDP hands on nothing else
