"""int8, zeros, factorised embeddings, distillation and freezing in a whole BERT, each against what it should equal."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import small_config
from reference import make_inputs
from test_run import QUICK, prepared, records  # noqa: F401
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.knowledge.frozen import freeze, trainable
from pruner.compress.method import weights_of
from pruner.compress.precision.factorised import FactorisedEmbedding, factorise
from pruner.compress.precision.int8 import Int8Embedding, Int8Linear
from pruner.compress.precision.quantise import round_in_training, to_int8
from pruner.compress.precision.sparse import Sparsify, cubic, largest, matrices
from pruner.compress.structure.shrink import Structure, shrink
from pruner.training.distillation import Distillation, HiddenStates, logits_loss

LENGTHS = [7, 1, 12, 4]


def dense(**changes) -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(small_config(num_labels=3, **changes)).eval()


@pytest.fixture
def model() -> PrunedBertForSequenceClassification:
    """A BERT of which a feed-forward and a layer are gone."""
    stock = dense()
    left = Structure.of(stock.config).mask(neurons=torch.tensor([1, 1, 0, 1, 1, 1]).bool()).keep_layers([0, 2, 5])
    return PrunedBertForSequenceClassification.from_unpruned(shrink(stock, left))


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
    with pytest.raises(ValueError, match=r"precision: \{'weights': 'int4'\} is unknown; this code has int8"):
        PrunedBertForSequenceClassification(small_config(precision={"weights": "int4"}))
    with pytest.raises(ValueError, match="embedding_rank: 99 is none from 1 to hidden_size 32"):
        PrunedBertForSequenceClassification(small_config(embedding_rank=99))


def test_what_rounds_in_training_is_what_is_kept(model):
    inputs = make_inputs(LENGTHS, model.config.vocab_size)
    fake = round_in_training(copy.deepcopy(model))
    assert fake.state_dict().keys() == model.state_dict().keys()
    rounded = to_int8(copy.deepcopy(fake))
    assert torch.allclose(logits(fake, inputs), logits(rounded, inputs), atol=1e-5)
    fake.train()(**inputs, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    assert all(layer.attention.self.query.weight.grad.any() for layer in fake.bert.encoder.layer)


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
        zeros = [weight == 0 for weight in matrices(model)]
        for weight, zero in zip(matrices(model), zeros, strict=True):
            assert int(zero.sum()) == weight.numel() - int(weight.numel() * (1 - cubic((step + 1) / 10, 0.9)) + 1e-9)
        assert before is None or all((old <= new).all() for old, new in zip(before, zeros, strict=True))
        before = zeros
    assert len(matrices(model)) == 36


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
    found = HiddenStates(teacher)(inputs | {"labels": torch.zeros(4)}, output)
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
    methods = f"int8,int8-training,top-layers,distil,{chain}"
    options += ("--schedule", "0.3,0,0.3,0", "--layers-trained", "0", "--methods", methods, "--save-models", "models")
    code, out, err = run("RunBert4Glue", *QUICK, *options)
    assert code == 0, err
    found = records(prepared / "records/BERT/mrpc")
    full = found["layers-odd_2.factorised_8.student-emission_0.3-0-0.3-0.distil-hidden.sparse_0.9.int8_seed1"]
    assert full["kept"]["layers"] == [0, 1, 3, 5]
    assert full["precision"] == {"weights": "int8", "embeddings": True}
    assert full["embedding_rank"] == 8
    assert full["schedule"] == [0.3, 0, 0.3, 0]
    loaded = PrunedBertForSequenceClassification.from_pretrained(
        prepared
        / "models/mrpc/layers-odd_2.factorised_8.student-emission_0.3-0-0.3-0.distil-hidden.sparse_0.9.int8_seed1"
    )
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
    after = found["int8_seed1"]
    assert after["loss"] == found["baseline_seed1"]["loss"]  # nothing is trained after the baseline
    assert after["bytes"]["pruned"] < 0.5 * dense_bytes
    assert found["int8-training_seed1"]["bytes"] == after["bytes"]
    assert found["top-layers_0_seed1"]["trainable_parameters"] == 32 * 32 + 32 + 2 * 32 + 2
    assert found["distil_seed1"]["settings"]["structure"] == [
        {"name": "distil", "share": 0.5, "temperature": 2.0, "hidden": False}
    ]
    assert "drop odd layers, factorised embeddings, student of emission" in out
