"""int8, zeros, factorised embeddings, distillation and freezing in a whole BERT, each against what it should equal."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import small_config
from reference import make_inputs
from safetensors.torch import load_file
from test_run import QUICK, prepared, records  # noqa: F401
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.knowledge.families import Distil
from pruner.compress.knowledge.frozen import freeze, on_features, reads_features, trainable
from pruner.compress.knowledge.states import States
from pruner.compress.method import weights_of
from pruner.compress.precision.csr import CsrLinear, csr_speedup, to_csr
from pruner.compress.precision.factorised import FactorisedEmbedding, factorise
from pruner.compress.precision.int8 import Int8Embedding, Int8Linear
from pruner.compress.precision.linears import linears_of
from pruner.compress.precision.quantise import round_in_training, to_int8
from pruner.compress.precision.sparse import Sparsify, cubic, largest
from pruner.compress.structure.shrink import Structure, shrink
from pruner.models.flops import BertShape
from pruner.training.distillation import Distillation, logits_loss

LENGTHS = [7, 1, 12, 4]


def dense(**changes) -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(small_config(num_labels=3, **changes)).eval()


def shrunk() -> BertForSequenceClassification:
    """Make a BERT of which a feed-forward and three layers are gone."""
    stock = dense()
    left = Structure.of(stock.config).mask(neurons=torch.tensor([1, 1, 0, 1, 1, 1]).bool()).keep_layers([0, 2, 5])
    return shrink(stock, left)


@pytest.fixture
def model() -> PrunedBertForSequenceClassification:
    return PrunedBertForSequenceClassification.from_unpruned(shrunk())


@torch.no_grad()
def logits(model, inputs) -> torch.Tensor:
    return model.eval()(**inputs).logits


def test_int8_is_near_and_does_not_depend_on_the_batch(model):
    inputs = make_inputs(LENGTHS, model.config.vocab_size)
    expected = logits(model, inputs)
    to_int8(model)
    found = logits(model, inputs)
    assert 0 < (found - expected).abs().max() < 0.05 * expected.abs().max()
    for row, length in enumerate(LENGTHS):
        alone = {name: x[row : row + 1, :length] for name, x in inputs.items()}
        assert torch.allclose(logits(model, alone)[0], found[row], atol=1e-6)
    model.set_pruning([0.4, 0, 0.3], "tail")  # what is dropped does not change what is computed of the rest
    found = logits(model, inputs)
    alone = {name: x[2:3] for name, x in inputs.items()}
    assert torch.allclose(logits(model, alone)[0], found[2], atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zeros_are_left_out_and_nothing_else_changes(model, tmp_path, dtype):
    generator = torch.Generator().manual_seed(0)
    for linear in linears_of(model):
        linear.weight.data *= torch.rand(linear.weight.shape, generator=generator) < 0.1
    linears_of(model)[1].weight.data[:] = 0  # and a layer without any weight
    inputs = make_inputs(LENGTHS, model.config.vocab_size)
    expected, nonzeros = logits(model, inputs), [int((x.weight != 0).sum()) for x in linears_of(model)]
    whole = [linear.weight.detach().clone() for linear in linears_of(model)]
    to_csr(model)
    found = [module for module in model.modules() if isinstance(module, CsrLinear)]
    assert [module.values.numel() for module in found] == nonzeros
    assert all(torch.equal(module.weight, weight) for module, weight in zip(found, whole, strict=True))
    assert torch.allclose(logits(model, inputs), expected, atol=1e-5)
    model.to(dtype).save_pretrained(tmp_path)
    for auto in (PrunedBertForSequenceClassification, AutoModelForSequenceClassification):
        loaded = auto.from_pretrained(tmp_path, dtype=dtype)
        assert torch.equal(logits(loaded, inputs), logits(model, inputs))
    shape = BertShape.of_model(loaded)
    assert shape == BertShape.of_model(PrunedBertForSequenceClassification.from_unpruned(shrunk()))
    assert csr_speedup(linears_of(shrunk())) > 0
    rounded = to_int8(loaded)  # whose product has no zeros to leave out
    assert [int((x.weight != 0).sum()) > 0 for x in linears_of(rounded)] == [n > 0 for n in nonzeros]


@pytest.mark.parametrize("change", [to_int8, to_csr, lambda model: factorise(model, 8)])
def test_the_unpruned_twin_has_the_same_layers(model, change):
    change(model).set_pruning([0, 0.5, 0], "attention")
    inputs = make_inputs(LENGTHS, model.config.vocab_size)
    twin = model.unpruned_twin()
    assert type(twin) is BertForSequenceClassification
    assert not torch.allclose(logits(model, inputs), logits(twin, inputs), atol=1e-4)
    model.set_pruning([0, 0, 0], "attention")
    assert torch.allclose(logits(model, inputs), logits(twin, inputs), atol=1e-5)


def test_nonzeros_that_cannot_be_are_refused():
    for counts, line in (
        ([1, 2], "nonzeros .* are not those of the layers"),
        ([1] * 37, "nonzeros .* are not those of the layers"),
        ([10**9] * 36, "nonzeros .* are not those of the layers"),
        ("many", "nonzeros are not whole numbers"),
        ([True] * 36, "nonzeros are not whole numbers"),
    ):
        with pytest.raises(ValueError, match=line):
            PrunedBertForSequenceClassification(small_config(precision={"weights": "csr", "nonzeros": counts}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [None, 8])
def test_what_is_rounded_is_saved_and_loaded_as_it_is(model, tmp_path, dtype, rank):
    if rank:
        factorise(model, rank)
    to_int8(model, embeddings=True).to(dtype)
    model.save_pretrained(tmp_path)
    inputs = make_inputs(LENGTHS, model.config.vocab_size)
    for auto in (PrunedBertForSequenceClassification, AutoModelForSequenceClassification):
        loaded = auto.from_pretrained(tmp_path, dtype=dtype)
        assert torch.equal(logits(loaded, inputs), logits(model, inputs))
        whole = [module for module in loaded.modules() if isinstance(module, Int8Linear | Int8Embedding)]
        assert len(whole) == 6 * 3 - 2 + 1
        assert all(module.weight.dtype == torch.int8 and module.scale.dtype == torch.float32 for module in whole)
    # A byte for each weight of the encoder, and four for the scale of a row.
    rows = sum(len(module.scale) for module in whole)
    size = sum(module.weight.numel() for module in whole)
    assert sum(x.nbytes for module in whole for x in (module.weight, module.scale)) == size + 4 * rows
    kept = (tmp_path / "model.safetensors").stat().st_size
    floats = sum(x.nbytes for x in loaded.parameters())
    assert size + 4 * rows + floats < kept < size + 4 * rows + floats + 20_000


def test_a_precision_that_is_unknown_is_refused():
    with pytest.raises(ValueError, match=r"precision: \{'weights': 'int4'\} is unknown; this code has int8 and csr"):
        PrunedBertForSequenceClassification(small_config(precision={"weights": "int4"}))
    with pytest.raises(ValueError, match="embedding_rank: 99 is none from 1 to hidden_size 32"):
        PrunedBertForSequenceClassification(small_config(embedding_rank=99))


@pytest.mark.parametrize("scheme", ["rows", "published"])
def test_what_rounds_in_training_is_what_is_kept(model, scheme, tmp_path):
    inputs = make_inputs(LENGTHS, model.config.vocab_size)
    fake = round_in_training(copy.deepcopy(model), scheme)
    more = fake.state_dict().keys() - model.state_dict().keys()
    assert len(more) == (16 if scheme == "published" else 0)
    assert all(name.endswith(".range") for name in more)
    fake.train()(**inputs, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    assert all(layer.attention.self.query.weight.grad.any() for layer in fake.bert.encoder.layer)
    rounded = to_int8(copy.deepcopy(fake))
    assert torch.allclose(logits(fake, inputs), logits(rounded, inputs), atol=1e-5)
    rounded.save_pretrained(tmp_path)
    loaded = PrunedBertForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded, inputs), logits(rounded, inputs))
    alone = {name: x[2:3] for name, x in inputs.items()}  # a fixed scale for all that enters is no batch's
    assert torch.allclose(logits(loaded, alone)[0], logits(loaded, inputs)[2], atol=1e-6)


def test_a_factorised_embedding_is_the_nearest_of_its_rank():
    embedding = dense().bert.embeddings.word_embeddings
    table = embedding.weight.detach().numpy()
    singular = np.linalg.svd(table, compute_uv=False)
    for rank in (4, 16, min(table.shape)):
        made = FactorisedEmbedding.of(embedding, rank)
        error = np.linalg.norm(made.weight.detach().numpy() - table)
        assert error == pytest.approx(np.sqrt((singular[rank:] ** 2).sum()), abs=1e-3)
        assert sum(x.numel() for x in made.parameters()) == rank * sum(table.shape)
    ids = torch.tensor([[3, 5], [1, 0]])
    assert torch.allclose(made(ids), embedding(ids), atol=1e-4)


def test_zeros_grow_by_the_cube_and_stay_zero():
    assert [round(cubic(t, 0.8), 4) for t in (0, 0.25, 0.5, 1, 2)] == [0, 0.4625, 0.7, 0.8, 0.8]
    weight = torch.tensor([[1.0, -4.0, 2.0], [2.0, 0.0, -3.0]])
    assert largest(weight, 0.5).tolist() == [[False, True, True], [False, False, True]]  # of equal ones, the first
    assert largest(weight, 0).all()
    assert not largest(weight, 1).any()
    model = PrunedBertForSequenceClassification.from_unpruned(dense())
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.0)
    callback, before = Sparsify(model, 0.9), None
    inputs = make_inputs(LENGTHS, model.config.vocab_size)
    for step in range(10):
        model.train()(**inputs, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        callback.on_optimizer_step(None, SimpleNamespace(global_step=step, max_steps=10), None)
        weights = [linear.weight for linear in linears_of(model)]
        zeros = [weight == 0 for weight in weights]
        for weight, zero in zip(weights, zeros, strict=True):
            assert int(zero.sum()) == weight.numel() - int(weight.numel() * (1 - cubic((step + 1) / 10, 0.9)) + 1e-9)
        assert before is None or all((old <= new).all() for old, new in zip(before, zeros, strict=True))
        before = zeros
    assert len(weights) == 36


def test_the_teachers_share_by_hand():
    own, taught = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    p, q = (taught / 2).softmax(1), (own / 2).softmax(1)
    divergence = (p * (p / q).log()).sum() / 2
    expected = 0.75 * 0.9 + 0.25 * 4 * divergence
    assert Distillation(0.25, 2.0).loss(torch.tensor(0.9), own, taught).item() == pytest.approx(expected.item())
    assert Distillation(1.0, 1.0).loss(torch.tensor(0.9), own, taught).item() == pytest.approx(
        logits_loss(own, taught).item()
    )
    scores = torch.tensor([[1.0], [2.0]])
    assert Distillation(0.5, 3.0).loss(torch.tensor(4.0), scores, scores + 2).item() == pytest.approx(0.5 * 4 + 0.5 * 4)


def test_hidden_states_are_those_of_the_layers_in_proportion_and_of_real_tokens():
    teacher = PrunedBertForSequenceClassification.from_unpruned(dense(num_hidden_layers=6))
    student = PrunedBertForSequenceClassification.from_unpruned(dense(num_hidden_layers=3))
    student.set_pruning([0, 0.5, 0], "tail")
    inputs = make_inputs(LENGTHS, teacher.config.vocab_size, width=15) | {"lengths": LENGTHS}
    teacher.train()  # and is put into evaluation mode, whatever it was
    output = student(**inputs, output_hidden_states=True)
    found = States(student, teacher)(inputs | {"labels": torch.zeros(4)}, output)
    assert not teacher.training
    with torch.no_grad():
        states = teacher(**inputs, output_hidden_states=True).hidden_states
    kept = [LENGTHS, *output.token_counts]
    errors = []
    for number, (own, counts) in enumerate(zip(output.hidden_states, kept, strict=True)):
        if number < 2:
            at = [range(length) for length in LENGTHS]
        else:
            at = [places.tolist() for places in output.token_positions[number - 1].split(counts)]
        pairs = [(own[row, p], states[2 * number][row, p]) for row, places in enumerate(at) for p in places]
        errors.append(F.mse_loss(*map(torch.stack, zip(*pairs, strict=True))))
    assert found.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)
    found.backward()
    assert student.bert.encoder.layer[0].output.dense.weight.grad.any()


@pytest.mark.parametrize("heads", [4, 3])
def test_attention_is_imitated_over_the_pairs_that_are_left(heads):
    teacher = PrunedBertForSequenceClassification.from_unpruned(dense(num_hidden_layers=6))
    stock = dense(num_hidden_layers=3)
    kept = torch.ones(3, 4).bool()
    kept[:, heads:] = False
    student = PrunedBertForSequenceClassification.from_unpruned(shrink(stock, Structure.of(stock.config).mask(kept)))
    student.set_pruning([0, 0.5, 0], "tail")
    inputs = make_inputs(LENGTHS, teacher.config.vocab_size) | {"lengths": LENGTHS}
    output = student.eval()(**inputs, output_hidden_states=True)
    with torch.no_grad():
        states = teacher.eval()(**inputs, output_hidden_states=True).hidden_states
    errors = []
    for number, (layer, other) in enumerate(
        zip(student.bert.encoder.layer, list(teacher.bert.encoder.layer)[1::2], strict=True)
    ):
        maps = []
        for block, entering in ((layer, output.hidden_states[number]), (other, states[2 * number + 1])):
            attention = block.attention.self
            q, k = (part(entering).unflatten(-1, (-1, 8)) for part in (attention.query, attention.key))
            maps.append(torch.einsum("bqhd,bkhd->bhqk", q, k) / 8**0.5)
        own, wanted = maps if heads == 4 else [x.mean(dim=1, keepdim=True) for x in maps]
        at = output.token_positions[number].split(output.token_counts[number])
        pairs = [
            (own[row, :, i, j] - wanted[row, :, i, j]) ** 2
            for row, places in enumerate(at)
            for i in places.tolist()
            for j in places.tolist()
        ]
        errors.append(torch.stack(pairs).mean())
    hidden = States(student, teacher)(inputs, output)
    found = States(student, teacher, attention=True)(inputs, output) - hidden
    assert found.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-3)


def test_what_is_encoded_once_trains_as_if_it_were_encoded_each_time():
    first = PrunedBertForSequenceClassification.from_unpruned(freeze(dense(classifier_dropout=0.0), 0)).train()
    second, inputs = copy.deepcopy(first), make_inputs(LENGTHS, first.config.vocab_size) | {"lengths": LENGTHS}
    assert reads_features(first)
    assert not reads_features(PrunedBertForSequenceClassification.from_unpruned(freeze(dense(), 1)))
    cached, calls = on_features(second), []
    second.bert.encoder.layer[0].register_forward_hook(lambda *_: calls.append(1))
    second.bert.embeddings.register_forward_hook(lambda *_: calls.append(1))
    labels = torch.tensor([0, 1, 2, 0])
    optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in (first, second)]
    for _ in range(3):
        losses = []
        for model, optimizer in zip((first, cached), optimizers, strict=True):
            optimizer.zero_grad()
            loss = model(**inputs, labels=labels).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert len(calls) == 1  # of the first step
    some = {name: x[1:] for name, x in inputs.items()}
    assert torch.allclose(cached(**some).logits, first(**some).logits, atol=1e-5)
    assert len(calls) == 1
    with torch.no_grad():
        second.bert.encoder.layer[2].output.dense.weight += 1.0
    before = cached(**some).logits
    assert len(calls) == 2  # what was remembered is that of other weights
    assert torch.allclose(before, second(**some).logits, atol=1e-5)
    first.set_pruning([0.5] + [0] * 5, "student")
    assert not reads_features(first)  # which choose by what they learn


def test_what_is_frozen_stays_to_the_last_bit():
    model = PrunedBertForSequenceClassification.from_unpruned(dense())
    before = copy.deepcopy(model.state_dict())
    freeze(model, 2)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    inputs = make_inputs(LENGTHS, model.config.vocab_size)
    states = []
    for _ in range(2):
        output = model.train()(**inputs, labels=torch.tensor([0, 1, 2, 0]), output_hidden_states=True)
        states.append(output.hidden_states)
        output.loss.backward()
        optimizer.step()
    assert torch.equal(states[0][4], states[1][4])  # no dropout below what is trained
    changed = {name for name, x in model.state_dict().items() if not torch.equal(x, before[name])}
    assert {name.split(".")[3] for name in changed if "encoder" in name} == {"4", "5"}
    assert not [name for name in changed if "embeddings" in name]
    assert {"classifier.weight", "bert.pooler.dense.weight"} <= changed
    assert trainable(model) == sum(x.numel() for name, x in model.named_parameters() if name in {*changed} | ALL_TOP)


ALL_TOP = {f"bert.encoder.layer.{n}.attention.self.key.bias" for n in (4, 5)}  # whose gradient is 0


def test_they_join_in_one_chain(run, prepared):  # noqa: F811
    chain = "layers-odd.factorised.student.distil-hidden.sparse.int8"
    options = ("--layers-dropped", "2", "--embedding-rank", "8", "--sparsity", "0.9", "--int8-embeddings")
    methods = f"bfloat16,int8,q8bert,top-layers,distil,{chain},layers-odd.distil-attention.sparse.int8-training"
    options += ("--schedule", "0.3,0,0.3,0", "--layers-trained", "0", "--methods", methods, "--save-models", "models")
    code, out, err = run("RunBert4Glue", *QUICK, *options)
    assert code == 0, err
    found = records(prepared / "records/BERT/mrpc")
    parts = "layers-odd_2", "factorised_8", "student-emission_0.3-0-0.3-0", "distil-hidden", "sparse_0.9"
    cell = ".".join((*parts, "int8_embeddings_seed1"))
    full = found[cell]
    assert full["kept"]["layers"] == [0, 1, 3, 5]
    assert full["precision"] == {"weights": "int8", "embeddings": True, "scheme": "rows"}
    assert full["embedding_rank"] == 8
    assert full["schedule"] == [0.3, 0, 0.3, 0]
    loaded = PrunedBertForSequenceClassification.from_pretrained(prepared / "models/mrpc" / cell)
    weights = weights_of(loaded)
    assert full["parameters"]["pruned"] == sum(x.numel() for x in weights)
    assert full["bytes"]["pruned"] == sum(x.nbytes for x in weights)
    zeros = [
        (module.weight == 0).double().mean().item()
        for module in loaded.bert.encoder.modules()
        if isinstance(module, Int8Linear)
    ]
    assert min(zeros) > 0.89
    assert not loaded.config.output_hidden_states
    dense_bytes = found["baseline_seed1"]["bytes"]["pruned"]
    assert full["bytes"]["pruned"] < 0.55 * dense_bytes
    half = found["bfloat16_seed1"]
    assert half["precision"] == {"weights": "bfloat16"}
    assert 2 * half["bytes"]["pruned"] == dense_bytes
    loaded = PrunedBertForSequenceClassification.from_pretrained(prepared / "models/mrpc/bfloat16_seed1")
    assert {x.dtype for x in loaded.parameters()} == {torch.bfloat16}
    after = found["int8_embeddings_seed1"]
    assert after["loss"] == found["baseline_seed1"]["loss"]  # nothing is trained after the baseline
    assert after["bytes"]["pruned"] < 0.5 * dense_bytes
    assert found["q8bert_embeddings_seed1"]["precision"]["scheme"] == "published"
    assert 0 < found["q8bert_embeddings_seed1"]["bytes"]["pruned"] - after["bytes"]["pruned"] == 36 * 4
    last = found["layers-odd_2.distil-attention.sparse_0.9.int8-training_embeddings_seed1"]
    assert last["encoder_sparsity"] == 0.9
    assert 0 < last["sparsity"] < 0.9
    kept = load_file(prepared / "models/mrpc/top-layers_0_seed1/model.safetensors")
    for name, weights in load_file(prepared / "bert/model.safetensors").items():
        if "encoder" in name or "embeddings" in name:
            assert torch.equal(kept[f"bert.{name.removeprefix('bert.')}"], weights), name
    teachers = {record["taught_by"]["sha256"] for record in (full, last, found["distil_seed1"])}
    assert len(teachers) == 1
    assert not {"taught_by"} & {*after, *found["top-layers_0_seed1"]}
    assert found["top-layers_0_seed1"]["trainable_parameters"] == 32 * 32 + 32 + 2 * 32 + 2
    assert found["distil_seed1"]["settings"]["structure"] == [
        {"name": "distil", "share": 0.5, "temperature": 2.0, "states": ""}
    ]
    assert "drop odd layers, factorised embeddings, student of emission" in out


def test_settings_that_cannot_be_are_refused(run, prepared):  # noqa: F811
    for options, line in (
        (("--methods", "sparse", "--sparsity", "1"), "--sparsity (sparsity): 1.0 is out of range"),
        (("--methods", "distil", "--distil-share", "1.1"), "--distil-share (distil_share): 1.1 is no share"),
        (("--methods", "distil", "--distil-temperature", "0"), "--distil-temperature (distil_temperature): 0.0 is out"),
        (("--methods", "top-layers", "--layers-trained", "7"), "--layers-trained (layers_trained): 7 of 6; use less"),
        (("--methods", "layers-top.top-layers", "--layers-dropped", "4", "--layers-trained", "3"), "3 of 2; use less"),
        (("--methods", "factorised", "--embedding-rank", "33"), "--embedding-rank (embedding_rank): 33 is out of"),
        (("--methods", "int8.sparse"), "then zeros, then a precision"),
        (("--methods", "int8.q8bert"), "a chain has one of each at most"),
        (("--methods", "distil.top-layers"), "a chain has one of each at most"),
    ):
        code, _, err = run("RunBert4Glue", *QUICK, *options)
        assert (code, err.count("\n")) == (2, 1), err
        assert line in err
    assert not (prepared / "records").exists()


@pytest.mark.parametrize("faster", [True, False])
def test_zeros_are_left_out_where_that_pays(run, prepared, monkeypatch, faster):  # noqa: F811
    monkeypatch.setattr("pruner.compress.precision.families.csr_speedup", lambda linears: 2.0 if faster else 0.5)
    options = ("--methods", "sparse", "--sparsity", "0.5,0.9", "--csr", "--save-models", "models")
    code, _, err = run("RunBert4Glue", *QUICK, *options)
    assert code == 0, err
    found = records(prepared / "records/BERT/mrpc")
    half, most = found["sparse_0.5-csr_seed1"], found["sparse_0.9-csr_seed1"]
    assert half["csr"] == {"used": False, "speedup": None}
    assert most["csr"] == {"used": faster, "speedup": 2.0 if faster else 0.5}
    loaded = PrunedBertForSequenceClassification.from_pretrained(prepared / "models/mrpc/sparse_0.9-csr_seed1")
    matrices = [linear.weight for linear in linears_of(loaded)]
    assert all((weight == 0).double().mean().item() == pytest.approx(0.9, abs=1e-3) for weight in matrices)
    whole = sum(weight.numel() for weight in matrices)
    left = sum(int((weight != 0).sum()) for weight in matrices)
    dense, total = found["baseline_seed1"], found["baseline_seed1"]["parameters"]["pruned"]
    assert most["sparsity"] > half["sparsity"]
    assert total - whole + left - 2 * 32 * 6 < (1 - most["sparsity"]) * total <= total - whole + left
    if faster:
        assert most["parameters"]["pruned"] == total - whole + left
        rows = sum(len(weight) + 1 for weight in matrices)
        assert most["bytes"]["pruned"] == 4 * (total - whole + 2 * left + rows)
        assert most["bytes"]["pruned"] < dense["bytes"]["pruned"]
    else:
        assert most["parameters"] == dense["parameters"]
    assert most["flops"]["reduction"] == 1


def test_the_usual_teacher_has_no_numbers_in_its_name():
    usual, control = Distil(0.5, 2.0), Distil(0.0, 2.0, "hidden")
    assert (usual.level, usual.variant) == ("", "")
    assert (control.level, control.variant) == ("0-2", "teacher's share 0, temperature 2")
