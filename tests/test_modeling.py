"""The pruned model against the stock model, against masking, and against itself in other batches."""

import copy
import inspect
from itertools import pairwise

import pytest
import torch
from conftest import small_config
from reference import kept_by_rule, make_inputs, masked_pass, teacher_scores
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification, BertModel

import ModifiedModelingBert
from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.tokens.scores import scorer_names
from pruner.compress.tokens.teachers import Batch, emission, gradient
from pruner.models import attention
from pruner.models.packing import pack, round_rows
from pruner.utils.errors import UserError

ONE = [0.6, 0, 0, 0, 0, 0]
TWO = [0.3, 0, 0, 0.5, 0, 0]
SIX = [0.1, 0.2, 0.15, 0.25, 0.1, 0.3]
SAME_PASS = ("student", "attention", "random", "head", "tail", "frequency")
MIXED = ["student", "attention", "emission", "gradient", "tail", "student"]
METHODS = scorer_names("bert")
LENGTHS = [17, 3, 9, 30, 1, 22]


def prune(model, schedule, methods, **options):
    counts = torch.randint(0, 50, (model.config.vocab_size,), generator=torch.Generator().manual_seed(1))
    return model.set_pruning(schedule, methods, token_counts=counts, **options)


@torch.no_grad()
def logits(model, inputs, **options):
    return model(**inputs, **options).logits


def kept_positions(output) -> list[list[list[int]]]:
    """By layer and sentence."""
    layers = zip(output.token_positions, output.token_counts, strict=True)
    return [[row.tolist() for row in positions.split(counts)] for positions, counts in layers]


def test_rate_zero_is_stock_bert(model):
    inputs = make_inputs(LENGTHS, model.config.vocab_size, width=40)
    twin = model.unpruned_twin()
    prune(model, [0] * 6, "student")
    assert torch.allclose(logits(model, inputs), logits(twin, inputs), atol=1e-5)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    assert model(**inputs, labels=labels).loss.item() == pytest.approx(
        twin(**inputs, labels=labels).loss.item(), abs=1e-5
    )


@pytest.mark.parametrize("schedule", [ONE, TWO, SIX])
@pytest.mark.parametrize("methods", [*METHODS, MIXED])
def test_dropping_equals_masking(model, schedule, methods):
    prune(model, schedule, methods)
    inputs = make_inputs(LENGTHS, model.config.vocab_size)
    expected, kept = masked_pass(model, inputs)
    with torch.no_grad():
        output = model(**inputs)
    assert torch.allclose(output.logits, expected, atol=1e-5)
    assert kept_positions(output) == kept


@pytest.mark.parametrize("method", ["tail", "attention"])
def test_dropped_vectors_leave_the_tensors(model, method):
    prune(model, TWO, method)
    asked, fed = [], []
    for layer in model.bert.encoder.layer:
        layer.attention.self.query.register_forward_pre_hook(lambda _, inputs: asked.append(tuple(inputs[0].shape)))
        layer.intermediate.register_forward_pre_hook(lambda _, inputs: fed.append(tuple(inputs[0].shape)))
    logits(model, make_inputs([40, 20], model.config.vocab_size, width=64))
    first = [kept_by_rule(n, 0.3) for n in (40, 20)]
    second = [kept_by_rule(n, 0.5) for n in first]
    assert fed == [(sum(first), 32)] * 3 + [(sum(second), 32)] * 3
    if method == "attention":  # they leave between attention and feed-forward
        assert asked == [(60, 32)] + [(sum(first), 32)] * 3 + [(sum(second), 32)] * 2
    else:
        assert asked == fed


@pytest.mark.parametrize("methods", [*METHODS, MIXED])
def test_a_sentence_does_not_see_its_batch(model, methods):
    prune(model, SIX, methods)
    lengths = [11, *range(20, 51)]
    inputs = make_inputs(lengths, model.config.vocab_size, width=60)
    alone = {name: x[:1, :11] for name, x in inputs.items()}
    assert len(lengths) == 32
    assert torch.allclose(logits(model, inputs)[:1], logits(model, alone), atol=1e-5)
    without_mask = {name: x for name, x in inputs.items() if name != "attention_mask"}
    assert torch.equal(logits(model, inputs), logits(model, without_mask, lengths=lengths))


def test_kept_tokens_nest_keep_their_order_and_cls(model):
    prune(model, SIX, MIXED)
    with torch.no_grad():
        output = model(**make_inputs(LENGTHS, model.config.vocab_size))
    before = [set(range(n)) for n in LENGTHS]
    for layer in kept_positions(output):
        for row, kept in enumerate(layer):
            assert kept[0] == 0
            assert kept == sorted(set(kept))
            assert set(kept) <= before[row]
            before[row] = set(kept)


def test_teachers_agree_with_the_stock_models_attention_and_autograd(model):
    inputs = make_inputs(LENGTHS, model.config.vocab_size)
    packing = pack([LENGTHS], torch.device("cpu"))[0]
    batch = Batch(packing, inputs["input_ids"], inputs["token_type_ids"])
    for layer, expected in enumerate(teacher_scores(model, inputs, "emission")):
        found = emission(model, batch, range(6))[layer].double().exp()
        assert torch.allclose(found[packing.real], torch.tensor(expected)[packing.real], rtol=1e-4)
    for layer, expected in enumerate(teacher_scores(model, inputs, "gradient")):
        found = gradient(model, batch, range(6))[layer].exp()
        assert torch.allclose(found[packing.real], torch.tensor(expected)[packing.real], rtol=1e-3, atol=1e-9)


def test_teachers_score_without_dropout_and_restore_the_mode(model):
    inputs = make_inputs(LENGTHS, model.config.vocab_size)
    for teacher in ("emission", "gradient"):
        prune(model, TWO, "student", teacher=teacher)
        quiet = model.eval()(**inputs, follow_teacher=True).student_scores[0][1]
        noisy = model.train()(**inputs).student_scores[0][1]
        assert torch.equal(quiet, noisy)
        assert all(module.training for module in model.modules())


@pytest.mark.parametrize("methods", [*METHODS, MIXED])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_evaluation_changes_nothing(model, methods, context):
    prune(model, SIX, methods)
    before = copy.deepcopy(model.state_dict())
    inputs = make_inputs(LENGTHS, model.config.vocab_size)
    with context():
        first, second = model(**inputs).logits, model(**inputs).logits
    assert torch.equal(first, second)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not model.training


@pytest.mark.parametrize("methods", [*METHODS, MIXED])
def test_labels_do_not_decide_what_stays(model, methods):
    prune(model, TWO, methods)
    model.config.hidden_dropout_prob = 0
    inputs = make_inputs(LENGTHS, model.config.vocab_size)
    for training in (True, False):
        kept = []
        for labels in ([0] * 6, [1] * 6, [2, 1, 0, 2, 1, 0]):
            torch.manual_seed(0)
            output = model.train(training)(**inputs, labels=torch.tensor(labels))
            kept.append(output.token_positions[-1])
        assert torch.equal(kept[0], kept[1])
        assert torch.equal(kept[0], kept[2])


@pytest.mark.parametrize("teacher", ["emission", "gradient"])
def test_a_student_needs_its_teacher_only_where_asked(model, teacher):
    prune(model, TWO, "student", teacher=teacher)
    inputs = make_inputs(LENGTHS, model.config.vocab_size)
    own, led = (model(**inputs, follow_teacher=follow) for follow in (False, True))
    assert own.student_loss is None
    assert len(led.student_scores) == 2
    taught = copy.deepcopy(model).set_pruning(TWO, teacher)
    assert torch.allclose(led.logits, logits(taught, inputs), atol=1e-6)
    loss = model.train()(**inputs, labels=torch.zeros(6, dtype=torch.long))
    assert loss.loss.item() > loss.student_loss.item() > 0


def test_regression_selects_although_its_prediction_is_its_own_label():
    torch.manual_seed(0)
    model = PrunedBertForSequenceClassification(small_config(num_labels=1)).eval()
    inputs = make_inputs(LENGTHS, model.config.vocab_size)
    prune(model, ONE, "gradient")
    kept = model(**inputs).token_positions[0]
    prune(model, ONE, "head")  # all-equal scores would keep the earliest
    assert not torch.equal(kept, model(**inputs).token_positions[0])
    loss = model(**inputs, labels=torch.full((6,), 2.5)).loss
    expected = (logits(model, inputs).squeeze(-1) - 2.5).square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_saves_and_loads_to_the_same_logits(model, tmp_path):
    prune(model, SIX, ["student", "frequency", "emission", "gradient", "random", "student"], teacher="gradient", seed=5)
    inputs = make_inputs(LENGTHS, model.config.vocab_size)
    model.save_pretrained(tmp_path)
    loaded = PrunedBertForSequenceClassification.from_pretrained(tmp_path).eval()
    assert loaded.pruning == model.pruning
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))
    stock = BertForSequenceClassification.from_pretrained(tmp_path).eval()  # plain transformers can load it too
    assert torch.equal(logits(stock, inputs), logits(model.unpruned_twin(), inputs))


@pytest.mark.parametrize("sizes", [{"num_hidden_layers": 2}, {"hidden_size": 48, "num_attention_heads": 3}])
def test_any_bert_checkpoint_loads(tmp_path, sizes):
    BertModel(small_config(**sizes)).save_pretrained(tmp_path)
    pruned = PrunedBertForSequenceClassification.from_pretrained(tmp_path, num_labels=2).eval()
    inputs = make_inputs(LENGTHS, pruned.config.vocab_size)
    assert torch.allclose(logits(pruned, inputs), logits(pruned.unpruned_twin(), inputs), atol=1e-6)
    pruned.set_pruning([0.5] + [0] * (pruned.config.num_hidden_layers - 1), "emission")
    assert logits(pruned, inputs).isfinite().all()


def test_students_follow_the_model_and_survive_a_new_rate(model):
    prune(model, TWO, "student")
    names = {name for name, _ in model.named_parameters() if name.startswith("students.")}
    assert len(names) == 2 * 3 * 2
    assert all(name in model.state_dict() for name in names)
    assert not any(module.training for module in model.students.modules())
    model.to(torch.bfloat16)
    assert all(p.dtype == torch.bfloat16 for p in model.students.parameters())
    before = model.students[0]
    prune(model, [0.1, 0, 0, 0.9, 0, 0], "student")
    assert model.students[0] is before  # the same layers: what was learned is kept
    prune(model, ONE, "student")
    assert len(model.students) == 1
    prune(model, ONE, "frequency")
    assert len(model.students) == 0
    assert "token_counts" in model.state_dict()
    prune(model, ONE, "head")
    assert "token_counts" not in model.state_dict()


@pytest.mark.parametrize("method", ["emission", "gradient", "student"])
def test_autocast_trains_every_weight(model, method):
    # The teacher's pass runs first and without a graph; the casts it leaves in autocast's cache must not be reused.
    prune(model, ONE, method)
    inputs = make_inputs(LENGTHS, model.config.vocab_size)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.train()(**inputs, labels=torch.zeros(6, dtype=torch.long)).loss.backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert missing == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("methods", [None, *SAME_PASS])
def test_half_precision(model, dtype, methods):
    """As near to float32 as the stock model is, in few sizes of rows, each sentence as if it were alone."""
    inputs = make_inputs(LENGTHS, model.config.vocab_size)
    exact = logits(model.unpruned_twin(), inputs)
    model.to(dtype)
    if methods is None:
        error = (logits(model.unpruned_twin(), inputs).float() - exact).abs().max()
        assert (logits(model, inputs).float() - exact).abs().max() <= 2 * error
        return
    prune(model, SIX, methods)
    rows = set()
    for layer in model.bert.encoder.layer:
        layer.intermediate.register_forward_pre_hook(lambda _, inputs: rows.add(len(inputs[0])))
    with torch.no_grad():
        output = model(**inputs)
    assert all(number == round_rows(number) for number in rows)
    assert output.logits.dtype == dtype
    # What is kept is what the masked twin of the same precision keeps, wherever scores do not depend on rounding.
    assert output.token_counts == [
        [kept_by_rule(n, rate) for n in before]
        for before, rate in zip([LENGTHS, *output.token_counts], SIX, strict=False)
    ]
    if methods in ("random", "head", "tail", "frequency"):
        expected = masked_pass(copy.deepcopy(model).float(), inputs)
        assert kept_positions(output) == expected[1]
        assert torch.allclose(output.logits.float(), expected[0], atol=0.1)


@pytest.mark.parametrize("methods", [*METHODS, MIXED])
def test_training_computes_what_evaluation_does(methods):
    torch.manual_seed(0)
    config = small_config(num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = prune(PrunedBertForSequenceClassification(config), SIX, methods)
    inputs = make_inputs(LENGTHS, config.vocab_size)
    trained = model.train()(**inputs, follow_teacher=False)
    evaluated = model.eval()(**inputs)
    assert torch.allclose(trained.logits, evaluated.logits, atol=1e-6)
    assert all(map(torch.equal, trained.token_positions, evaluated.token_positions))


@pytest.mark.parametrize("round_up", [False, True])
def test_gradients_are_those_of_stock_bert(round_up, monkeypatch):
    monkeypatch.setattr(ModifiedModelingBert, "pack", lambda counts, device, _: pack(counts, device, round_up))
    torch.manual_seed(0)
    config = small_config(num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = PrunedBertForSequenceClassification(config)
    twin = model.unpruned_twin()
    inputs = make_inputs(LENGTHS, config.vocab_size) | {"labels": torch.tensor([0, 1, 2, 0, 1, 2])}
    for each in (model, twin):
        each.train()(**inputs).loss.backward()
    for (name, own), (_, stock) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        assert torch.allclose(own.grad, stock.grad, atol=1e-6), name


def test_dropout_is_random_in_training_only(model):
    inputs = make_inputs(LENGTHS, model.config.vocab_size)
    with torch.no_grad():
        assert not torch.equal(model.train()(**inputs).logits, model(**inputs).logits)
        assert torch.equal(model.eval()(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("methods", ["student", "attention", "random"])
@pytest.mark.parametrize("lengths", [LENGTHS, [30] * 20, list(range(5, 30))])
def test_the_fused_attention_of_long_sentences(model, methods, lengths, monkeypatch):
    monkeypatch.setattr(attention, "SHORT", 0)
    prune(model, TWO, methods)
    inputs = make_inputs(lengths, model.config.vocab_size)
    assert torch.allclose(logits(model, inputs), masked_pass(model, inputs)[0], atol=1e-5)


@pytest.mark.parametrize("short", [0, 64])
def test_attention_drops_out_in_training(short, monkeypatch):
    monkeypatch.setattr(attention, "SHORT", short)
    torch.manual_seed(0)
    config = small_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5)
    model = PrunedBertForSequenceClassification(config)
    inputs = make_inputs(LENGTHS, config.vocab_size)
    assert not torch.equal(logits(model.train(), inputs), logits(model, inputs))
    assert torch.equal(logits(model.eval(), inputs), logits(model, inputs))


@pytest.mark.parametrize("methods", ["student", "attention"])
def test_variable_length_attention(model, methods, monkeypatch):
    """The path of a GPU, with the kernel replaced: it gets what PyTorch's own takes, and the sentences one by one."""
    real = pytest.importorskip("torch.nn.attention.varlen").varlen_attn

    def one_by_one(*arguments, **options):
        given = inspect.signature(real).bind(*arguments, **options).arguments
        q, k, v = given["query"], given["key"], given["value"]
        ends = given["cu_seq_q"].tolist()
        assert given["cu_seq_q"].dtype == torch.int32
        assert given["max_q"] == given["max_k"] == max(b - a for a, b in pairwise(ends))
        found = []
        for start, end in pairwise(ends):
            parts = [x[start:end].transpose(0, 1) for x in (q, k, v)]
            part = torch.nn.functional.scaled_dot_product_attention(*parts)
            found.append(part.transpose(0, 1))
        return torch.cat(found)

    prune(model, TWO, methods)
    inputs = make_inputs(LENGTHS, model.config.vocab_size)
    expected = logits(model, inputs)
    monkeypatch.setattr(attention, "varlen_attn", one_by_one)
    monkeypatch.setattr(attention, "has_varlen", lambda q: True)
    assert torch.allclose(logits(model, inputs), expected, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("methods", [*SAME_PASS, "emission"])
def test_no_forward_pass_waits_for_the_gpu(model, methods, dtype):
    prune(model, SIX, methods)
    inputs = make_inputs(LENGTHS, model.config.vocab_size)
    expected = logits(model, inputs)
    model.to("cuda", dtype)
    inputs = {name: x.to("cuda") for name, x in inputs.items()}
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = logits(model, inputs, lengths=LENGTHS)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    if dtype == torch.float32:
        assert torch.allclose(found.cpu(), expected, atol=1e-3)


def test_wrong_use_is_refused(model):
    ids = torch.full((1, 4), 7)
    with pytest.raises(ValueError, match="attention_mask"):
        model(ids, torch.tensor([[0, 1, 1, 1]]))
    with pytest.raises(ValueError, match="output_attentions"):
        model(ids, output_attentions=True)
    with pytest.raises(UserError, match="token_counts"):
        model.set_pruning(ONE, "frequency")
    with pytest.raises(UserError, match="token_counts"):
        model.set_pruning(ONE, "frequency", token_counts=torch.zeros(3))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("seed", value) for value in (-1, 2**32, 1.5, "1", None, True)),
        *(("student_widths", value) for value in (8, "8", [0], [-1], [10**9], [8.0], [None], [True])),
        *(("padded_length", value) for value in (0, -5, 2**31, 20.0, "20")),
        *(("count", value) for value in ("most", None, [])),
        *(("teacher", value) for value in ("nobody", 3, ["emission"])),
        *(("methods", value) for value in (3, {"head"}, ["head", 3], "heads")),
        *(("schedule", value) for value in (SIX[:-1], [*SIX[:-1], 10**400], [*SIX[:-1], None], "0.5", 0.5)),
    ],
)
def test_wrong_settings_are_refused_by_name(model, name, value):
    """By ``set_pruning``, and where they are in the config of a model that is loaded."""
    right = {"schedule": SIX, "methods": "student", "count": "padded", "padded_length": 20}
    before = model.pruning
    with pytest.raises(UserError, match=rf"\({name}\): |\(pruning_{name}\): "):
        model.set_pruning(**(right | {name: value}))
    assert model.pruning is before


@pytest.mark.parametrize(
    "change",
    [
        {"seed": -1},
        {"student_widths": [10**9]},
        {"padded_length": 0},
        {"schedule": [0.5]},
        {"schedule": ["x"] * 6},
        {"methods": ["student"]},
        {"invented": 1},
        {"schedule": None},
    ],
)
def test_a_config_that_cannot_be_run_is_refused(model, change):
    config = copy.deepcopy(model.set_pruning(SIX, "student").config)
    config.pruning = config.pruning | change
    with pytest.raises(UserError):
        PrunedBertForSequenceClassification(config)


def test_padded_counting(model):
    prune(model, [0.5, 0, 0, 0, 0, 0], "tail", count="padded", padded_length=20)
    with torch.no_grad():
        output = model(**make_inputs([4, 10, 18], model.config.vocab_size))
    assert output.token_counts[0] == [4, 10, 10]


def test_real_weights(shared):
    """MiniLM as downloaded: rate 0 is stock, dropping is masking, a sentence alone is a sentence in a batch."""
    folder = shared / "models" / "minilm-l6"
    torch.manual_seed(0)
    model = PrunedBertForSequenceClassification.from_pretrained(folder, num_labels=2, dtype=torch.float32).eval()
    stock = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, dtype=torch.float32).eval()
    stock.load_state_dict(model.state_dict())
    lengths = [12, *range(20, 51)]
    inputs = make_inputs(lengths, 30522)
    assert torch.allclose(logits(model, inputs), logits(stock, inputs), atol=1e-5)
    for methods in SAME_PASS:
        prune(model, SIX, methods)
        found = logits(model, inputs)
        assert torch.allclose(found, masked_pass(model, inputs)[0], atol=1e-5)
        assert torch.allclose(found[:1], logits(model, {name: x[:1, :12] for name, x in inputs.items()}), atol=1e-5)
