"""The pruned LSTM against PyTorch's own cell, step by step, and against itself in other batches."""

import copy
import math
from decimal import Decimal

import numpy as np
import pytest
import torch
from test_flops import FlopCounter
from torch import nn

from pruner.compress.tokens.flops import pruned_flops
from pruner.compress.tokens.lstm import PrunedLstmForSequenceClassification
from pruner.compress.tokens.measures import count_tokens
from pruner.compress.tokens.schedule import make_pruning
from pruner.compress.tokens.scores import Tokens, random_scores, scorer_names
from pruner.compress.tokens.teachers import Batch, gate
from pruner.data.cache import Split
from pruner.data.collate import LstmCollator, SplitDataset
from pruner.evaluation.latency import measure_latency
from pruner.evaluation.predict import predict
from pruner.models import lstm
from pruner.models.flops import LstmShape, dense_flops
from pruner.models.lstm import CHUNK_SENTENCES, LstmConfig, LstmForSequenceClassification
from pruner.models.packing import pack
from pruner.utils.errors import UserError

WORDS = 30
RATE = 0.6
METHODS = scorer_names("lstm")
LENGTHS = [17, 3, 9, 30, 1, 22, 0]


def make_plain(layers: int = 1) -> LstmForSequenceClassification:
    torch.manual_seed(0)
    widths = {"embedding_size": 12, "hidden_size": 16, "head_size": 10}
    model = LstmForSequenceClassification(LstmConfig(vocab_size=WORDS, num_layers=layers, num_labels=3, **widths))
    with torch.no_grad():
        model.embedding.weight.mul_(10)  # far from zero, so that words matter
    return model.eval()


def make_lstm(method: str | None = None, rate: float = RATE, layers: int = 1):
    model = PrunedLstmForSequenceClassification.from_unpruned(make_plain(layers))
    if method:
        occurrences = torch.randint(0, 9, (WORDS,), generator=torch.Generator().manual_seed(1))
        model.set_pruning(rate, method, seed=3, student_widths=(20,), token_counts=occurrences)
    return model


def make_sentences(lengths=LENGTHS, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, WORDS, (n,), generator=generator).tolist() for n in lengths]


def padded(sentences: list[list[int]], width: int | None = None, left: bool = False) -> torch.Tensor:
    width = width or max(len(sentence) for sentence in sentences)
    rows = [[0] * (width - len(s)) + s if left else s + [0] * (width - len(s)) for s in sentences]
    return torch.tensor(rows, dtype=torch.int64).view(len(rows), width)


@torch.no_grad()
def logits(model, *inputs, **options):
    return model(*inputs, **options).logits


def cells(model) -> list[nn.LSTMCell]:
    """PyTorch's cells with the model's weights."""
    found = []
    for layer in model.lstm:
        cell = nn.LSTMCell(layer.input_size, layer.hidden_size)
        cell.load_state_dict({name.removesuffix("_l0"): weight for name, weight in layer.state_dict().items()})
        found.append(cell)
    return found


@torch.no_grad()
def gates_by_hand(model, words: list[int]) -> list[float]:
    """The mean input gate of each word, one step of the first layer after the other."""
    cell = cells(model)[0]
    state, memory, found = torch.zeros(1, 16), torch.zeros(1, 16), []
    for word in words:
        x = model.embedding.weight[word][None]
        gates = x @ cell.weight_ih.T + cell.bias_ih + state @ cell.weight_hh.T + cell.bias_hh
        found.append(gates[0, :16].sigmoid().mean().item())  # PyTorch's order: input, forget, cell, output
        state, memory = cell(x, (state, memory))
    return found


@torch.no_grad()
def state_by_hand(model, words: list[int]) -> torch.Tensor:
    """The last layer's state after the last word, one step after the other."""
    layers = cells(model)
    states = [(torch.zeros(1, 16), torch.zeros(1, 16)) for _ in layers]
    for word in words:
        x = model.embedding.weight[word][None]
        for index, cell in enumerate(layers):
            states[index] = cell(x, states[index])
            x = states[index][0]
    return states[-1][0]


@torch.no_grad()
def kept_by_hand(model, words: list[int]) -> list[int]:
    """Positions of the words that stay."""
    if not model.pruning.methods[0] or not words:
        return list(range(len(words)))
    number = max(1, len(words) - math.floor(Decimal(str(RATE)) * len(words)))
    ids = torch.tensor([words])
    method, positions = model.pruning.methods[0], range(len(words))
    if method == "gate":
        scores = gates_by_hand(model, words)
    elif method == "student":
        scores = model.students[0](model.embedding.weight[ids])[0].tolist()
    elif method == "random":
        scores = random_scores(Tokens(ids, ids > 0, seed=model.pruning.seed))[0].tolist()
    elif method == "frequency":
        scores = [-int(model.token_counts[word]) for word in words]
    else:
        scores = [position if method == "tail" else -position for position in positions]
    return sorted(sorted(positions, key=lambda p: (-scores[p], p))[:number])


def by_hand(model, first: list[int], second: list[int] | None = None) -> torch.Tensor:
    states = [state_by_hand(model, [s[p] for p in kept_by_hand(model, s)]) for s in (first, second) if s is not None]
    return model.classifier(states[0] if second is None else states[0] - states[1])[0].detach()


@pytest.mark.parametrize("method", [None, *METHODS])
@pytest.mark.parametrize("layers", [1, 2])
def test_steps_by_hand(method, layers):
    model, sentences = make_lstm(method, layers=layers), make_sentences()
    with torch.no_grad():
        output = model(padded(sentences))
    read = output.token_positions[0].split(output.token_counts[0])
    for row, sentence in enumerate(sentences):
        assert read[row].tolist() == kept_by_hand(model, sentence)
        assert torch.allclose(output.logits[row], by_hand(model, sentence), atol=1e-5)


@pytest.mark.parametrize("method", [None, *METHODS])
def test_a_pair_is_the_difference_of_two_states(method):
    model = make_lstm(method)
    firsts, seconds = make_sentences(), make_sentences(LENGTHS[::-1], seed=1)
    found = logits(model, padded(firsts), padded(seconds))
    for row, pair in enumerate(zip(firsts, seconds, strict=True)):
        assert torch.allclose(found[row], by_hand(model, *pair), atol=1e-5)


@pytest.mark.parametrize("method", [None, *METHODS])
def test_packed_batches_as_on_a_gpu_give_the_same(method, monkeypatch):
    model, sentences = make_lstm(method, layers=2), make_sentences()
    chunks, gradients = logits(model, padded(sentences)), []
    monkeypatch.setattr(lstm, "reads_packed", lambda device: True)
    assert torch.allclose(logits(model, padded(sentences)), chunks, atol=1e-6)
    for packed in (True, False):
        monkeypatch.setattr(lstm, "reads_packed", lambda device, packed=packed: packed)
        model.zero_grad()
        model.train()(padded(sentences), labels=torch.tensor([0, 1, 2, 0, 1, 2, 0])).loss.backward()
        gradients.append(model.lstm[0].weight_ih_l0.grad.clone())
    assert gradients[0].abs().max() > 1e-3
    assert torch.allclose(*gradients, atol=1e-6)


def test_gate_scores_are_those_of_the_cell():
    model, sentences = make_lstm("gate"), make_sentences()
    (packing,) = pack([LENGTHS], torch.device("cpu"))
    found = gate(model, Batch(packing, padded(sentences)), [0])[0]
    for row, sentence in enumerate(sentences):
        assert found[row, : len(sentence)].tolist() == pytest.approx(gates_by_hand(model, sentence), abs=1e-6)
        assert not found[row, len(sentence) :].any()


@pytest.mark.parametrize("method", [None, *METHODS])
def test_a_sentence_does_not_see_its_batch_nor_padding_on_either_side(method):
    model = make_lstm(method)
    sentences = make_sentences([11, *range(1, 2 * CHUNK_SENTENCES)])  # more than one chunk
    found = logits(model, padded(sentences))
    assert torch.allclose(found[:1], logits(model, padded(sentences[:1])), atol=1e-6)
    for left in (False, True):
        wider = padded(sentences, width=150, left=left)
        assert torch.allclose(found, logits(model, wider), atol=1e-6)
    spread = torch.zeros(len(sentences), 300, dtype=torch.int64)
    spread[:, ::2] = padded(sentences, width=150)  # padding between the words
    assert torch.allclose(found, logits(model, spread), atol=1e-6)
    lengths = [len(sentence) for sentence in sentences]
    assert torch.equal(found, logits(model, padded(sentences), lengths=lengths))


@pytest.mark.parametrize("method", METHODS)
def test_odd_sentences(method):
    model = make_lstm(method)
    alone = padded([[], [7], [1, 1, 1, 1]])  # empty, one word, all unknown
    found = logits(model, alone)
    assert torch.allclose(found[0], model.classifier(torch.zeros(16)), atol=1e-6)
    assert torch.allclose(found[1], by_hand(model, [7]), atol=1e-6)
    assert torch.allclose(found[2], by_hand(model, [1, 1, 1, 1]), atol=1e-6)
    assert logits(model, torch.zeros(2, 3, dtype=torch.int64)).isfinite().all()  # nothing but empty sentences
    labels = torch.tensor([0, 1, 2])
    loss = model.train()(alone, labels=labels).loss
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_dropped_words_are_not_read():
    model, steps = make_lstm("head", rate=0.9), []
    model.lstm[0].register_forward_pre_hook(lambda module, inputs: steps.append(tuple(inputs[0].shape)))
    logits(model, padded(make_sentences([30] * 10 + [20] * 10)))
    assert steps == [(20, 3, 12)]  # 30 words keep 3, 20 keep 2


def test_unknown_words_and_padding_say_nothing_before_training():
    config = LstmConfig(vocab_size=9, embedding_size=4, hidden_size=4, head_size=4)
    weight = LstmForSequenceClassification(config).embedding.weight
    assert not weight[:2].any()
    assert weight[2:].abs().min() > 0


@pytest.mark.parametrize("method", METHODS)
def test_evaluation_changes_no_weight_and_needs_no_label(method):
    model = make_lstm(method)
    before = copy.deepcopy(model.state_dict())
    ids, labels = padded(make_sentences()), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    with torch.no_grad():
        first = model(ids, labels=labels).logits
        model(ids, labels=labels, follow_teacher=True)
        assert torch.equal(first, model(ids, labels=2 - labels).logits)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_students_loss_moves_nothing_but_the_student():
    model = make_lstm("student").train()
    model(padded(make_sentences())).student_loss.backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {name for name, _ in model.named_parameters() if name.startswith("students.")}


def test_teacher_leads_in_training_and_the_student_in_evaluation():
    gate, student = make_lstm("gate"), make_lstm("student")
    ids = padded(make_sentences())
    assert torch.equal(logits(gate, ids), logits(student.train(), ids))
    assert torch.equal(logits(gate, ids), logits(student.eval(), ids, follow_teacher=True))
    assert not torch.allclose(logits(gate, ids), logits(student, ids))


def test_the_table_of_scores_follows_the_weights():
    model, ids = make_lstm("student"), padded(make_sentences())
    one = logits(model, ids)
    other = make_lstm("student")
    with torch.no_grad():
        for parameter in other.students.parameters():
            parameter.neg_()
    expected = logits(other, ids)
    assert not torch.allclose(one, expected)
    model.load_state_dict(other.state_dict())  # in evaluation mode, between two batches
    assert torch.equal(logits(model, ids), expected)
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, expected)
        assert torch.equal(copy.deepcopy(model)(ids).logits, expected)  # whose weights count no versions
    assert torch.equal(logits(model.double().float(), ids), expected)


def test_no_student_runs_once_the_table_is_made():
    model, calls = make_lstm("student"), []
    model.students[0].register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        logits(model, padded(make_sentences()))
    assert len(calls) == 1
    logits(model.eval(), padded(make_sentences()))  # a new pass makes it again, so that passes are timed with it
    assert len(calls) == 2


@pytest.mark.parametrize("method", [None, *METHODS])
def test_saved_and_loaded(method, tmp_path):
    model, ids = make_lstm(method, layers=2), padded(make_sentences())
    model.save_pretrained(tmp_path)
    found = PrunedLstmForSequenceClassification.from_pretrained(tmp_path)
    assert found.pruning == model.pruning
    assert torch.equal(logits(found, ids), logits(model, ids))
    assert torch.equal(logits(found.unpruned_twin(), ids), logits(model.unpruned_twin(), ids))


def test_a_plain_model_becomes_a_pruned_one_and_back(tmp_path):
    plain, ids, second = make_plain(2), padded(make_sentences()), padded(make_sentences(LENGTHS[::-1], seed=1))
    expected = logits(plain, ids, second)
    state = torch.random.get_rng_state()
    pruned = PrunedLstmForSequenceClassification.from_unpruned(plain)
    assert torch.equal(state, torch.random.get_rng_state())  # no random number is drawn
    assert torch.equal(logits(pruned, ids, second), expected)
    pruned.set_pruning(RATE, "tail")
    assert not torch.allclose(logits(pruned, ids, second), expected)
    assert torch.equal(logits(pruned.unpruned_twin(), ids, second), expected)
    assert torch.equal(logits(plain, ids, second), expected)  # its weights are its own
    plain.save_pretrained(tmp_path)
    assert torch.equal(logits(PrunedLstmForSequenceClassification.from_pretrained(tmp_path), ids, second), expected)


def test_a_model_saved_before_the_plain_one_had_a_class_loads(tmp_path):
    model, ids = make_lstm("student"), padded(make_sentences())
    model.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text("utf-8").replace('"model_type": "lstm"', '"model_type": "pruned_lstm"'), "utf-8")
    assert "pruned_lstm" in config.read_text("utf-8")
    found = PrunedLstmForSequenceClassification.from_pretrained(tmp_path)
    assert found.pruning == model.pruning
    assert torch.equal(logits(found, ids), logits(model, ids))


def test_wrong_rates_and_methods_are_refused():
    model = make_lstm()
    with pytest.raises(UserError, match=r"^--target-prune-rate \(target_prune_rate\): rate 1 is out of range"):
        model.set_pruning(1, "head")
    with pytest.raises(
        UserError, match=r"^--methods \(pruning_methods\): unknown method 'emission'; choose from student, gate"
    ):
        model.set_pruning(0.5, "emission")
    with pytest.raises(UserError, match=r"^--teacher \(teacher\): unknown teacher 'emission'; choose from gate$"):
        model.set_pruning(0.5, "student", teacher="emission")


@pytest.mark.parametrize("method", [None, *METHODS])
@pytest.mark.parametrize("layers", [1, 2])
def test_flops_are_those_of_the_operations_that_run(method, layers):
    lengths = [20] * 4
    model, ids = make_lstm(method, layers=layers), padded(make_sentences(lengths))
    # oneDNN's fused LSTM has no formula in PyTorch; its own loop is made of matrix products that have.
    with torch.backends.mkldnn.flags(enabled=False), FlopCounter() as counter:
        logits(model, ids)
    shape, kept = LstmShape.of(model.config), [8] * 4 if method else lengths
    assert pruned_flops(shape, lengths, [kept], model.pruning) == counter.total
    if method is None:
        assert dense_flops(shape, lengths) == counter.total


def test_flops_of_pairs_by_hand():
    """Two pairs: words of all four sentences, the classifier twice."""
    shape = LstmShape(vocabulary=9, embedding=3, hidden=4, lstms=2, head_size=5, labels=2, sentences=2)
    word = 8 * 4 * (3 + 4) + 8 * 4 * (4 + 4)
    head = 2 * (2 * 4 * 5 + 2 * 5 * 2)
    assert dense_flops(shape, [3, 1, 0, 6]) == 10 * word + head
    student = make_pruning(0.5, "student", student_widths=(7,), model="lstm")
    table = 9 * (2 * 3 * 7 + 2 * 7 * 1)  # each word of the vocabulary, once
    assert pruned_flops(shape, [3, 1, 0, 6], [[2, 1, 0, 3]], student) == 6 * word + head + table


def make_split(pairs: bool = False, rows: int = 90, seed: int = 0) -> Split:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, 40, rows)
    second = generator.integers(0, lengths + 1) if pairs else lengths
    return Split(
        generator.integers(2, WORDS, lengths.sum()).astype(np.int32),
        np.concatenate([[0], np.cumsum(lengths)]),
        second.astype(np.int32),
        generator.integers(0, 3, rows),
    )


@pytest.mark.parametrize("pairs", [False, True])
def test_predictions_of_a_split(pairs):
    model, split = make_lstm("student"), make_split(pairs)
    found = predict(model, split, 16, LstmCollator(pairs))
    for row in (0, 41, 89):
        first, second = np.split(split.sentence(row), [split.second[row]])
        expected = by_hand(model, first.tolist(), second.tolist() if pairs else None)
        assert np.allclose(found[row], expected.numpy(), atol=1e-5)
    batch = LstmCollator(pairs)([SplitDataset(split)[row] for row in range(3)])
    assert set(batch) == {"labels", "input_ids", "lengths"} | ({"second_ids", "second_lengths"} if pairs else set())


def test_latency_compares_with_the_baseline_that_it_is_given():
    model, collate = make_lstm("student"), LstmCollator(False)
    twin = model.unpruned_twin()
    assert type(twin) is LstmForSequenceClassification
    assert torch.equal(twin.lstm[0].weight_hh_l0, model.lstm[0].weight_hh_l0)
    found = measure_latency(twin, model, make_split(), 16, (collate, collate), torch.float32, repeats=2)
    assert found["speedup"] == pytest.approx(found["baseline_ms"] / found["pruned_ms"], rel=1e-2)
    assert (found["batch_size"], found["dtype"], found["repeats"]) == (16, "float32", 2)


def test_tokens_of_empty_sentences():
    found = count_tokens([0, 10, 1], make_pruning(0.9, "head", model="lstm"))
    assert found == {"real": 11, "nominal_rate": 0.9, "effective_rate": round(9 / 11, 6), "kept_by_layer": [0.181818]}


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("lengths", [[5, 1, 0, 8, 3, 8], [1, 1], [0, 4], [6] * 7])
def test_training_has_the_loss_and_the_gradients_of_pytorchs_lstm(layers, lengths):
    """What is computed once for each word that occurs, time by time, is what ``nn.LSTM`` derives from one sentence."""
    torch.manual_seed(1)
    config = LstmConfig(vocab_size=9, embedding_size=6, hidden_size=5, head_size=4, num_labels=3, num_layers=layers)
    model = LstmForSequenceClassification(config)
    ids = torch.randint(1, 9, (len(lengths), 8)) * (torch.arange(8) < torch.tensor(lengths)[:, None])
    direction = torch.randn(len(lengths), 5)
    states = model.last_states(ids, lengths)
    (states * direction).sum().backward()
    gradients = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    expected = []
    for row, length in enumerate(lengths):
        x = model.embedding(ids[row, :length])
        for layer in model.lstm:
            x = layer(x)[0] if length else x.new_zeros(1, 5)
        expected.append(x[-1])
    expected = torch.stack(expected)
    assert torch.allclose(states, expected, atol=1e-6)
    (expected * direction).sum().backward()
    assert len(gradients) == 1 + 4 * layers
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, model.get_parameter(name).grad, atol=1e-6), name
    assert torch.allclose(states, model.eval().last_states(ids, lengths), atol=1e-6)


def test_the_lstm_trains_in_mixed_precision_too():
    model = LstmForSequenceClassification(LstmConfig(vocab_size=9, embedding_size=6, hidden_size=5, head_size=4))
    ids, lengths, labels = torch.tensor([[1, 2, 3], [4, 5, 0]]), [3, 2], torch.tensor([0, 1])
    losses = []
    for half in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = model(ids, lengths=lengths, labels=labels).loss
        loss.backward()
        losses.append(loss.item())
        assert all(each.grad.isfinite().all() for each in model.parameters())
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert model.bfloat16()(ids, lengths=lengths, labels=labels).loss.item() == pytest.approx(losses[0], rel=0.02)
