"""Parts of a BERT that are removed against the same parts masked, in a BERT written out without ``transformers``."""

import copy
import json

import pytest
import torch
from conftest import small_bert, small_config, write_mrpc
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import bert_by_hand, make_inputs, masked_pass
from safetensors import safe_open
from test_modeling import SAME_PASS, kept_positions, prune
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.structure.masks import masked
from pruner.compress.structure.shrink import NoFeedForward, Structure, shrink
from pruner.models.flops import BertShape
from pruner.utils.errors import UserError

LAYERS, HEADS, NEURONS = 4, 4, 64
LENGTHS = [7, 1, 12, 4]


def dense() -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = small_config(num_hidden_layers=LAYERS, num_labels=3)
    return BertForSequenceClassification(config).eval()


@st.composite
def structures(draw) -> Structure:
    layers = sorted(draw(st.sets(st.integers(0, LAYERS - 1), min_size=1)))
    heads = [sorted(draw(st.sets(st.integers(0, HEADS - 1), min_size=1))) for _ in layers]
    some = st.sets(st.integers(0, NEURONS - 1))
    neurons = [sorted(draw(st.one_of(some, st.just({*range(NEURONS)}), st.just(set())))) for _ in layers]
    return Structure(tuple(layers), tuple(map(tuple, heads)), tuple(map(tuple, neurons)))


def factors(structure: Structure) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of heads [L, H], feed-forwards [L] and neurons [L, F]: 1 for what is left."""
    heads, neurons = torch.zeros(LAYERS, HEADS), torch.zeros(LAYERS, NEURONS)
    for layer, own_heads, own_neurons in zip(structure.layers, structure.heads, structure.neurons, strict=True):
        heads[layer, list(own_heads)] = 1
        neurons[layer, list(own_neurons)] = 1
    return heads, neurons.any(dim=1).float(), neurons


def by_hand(model, inputs, structure: Structure) -> torch.Tensor:
    rows = []
    for ids, types, length in zip(inputs["input_ids"], inputs["token_type_ids"], LENGTHS, strict=True):
        by_token = [x[..., None].expand(*x.shape, length).double() for x in factors(structure)]
        rows.append(bert_by_hand(model, ids[:length], types[:length], *by_token, layers=structure.layers))
    return torch.stack(rows)


@settings(max_examples=25, deadline=None)
@given(structures())
def test_removed_is_masked(structure):
    """In stock transformers and on the packed path, in the model that is masked and in the one that is smaller."""
    model = dense()
    inputs = make_inputs(LENGTHS, model.config.vocab_size)
    expected = by_hand(model, inputs, structure)
    whole = [*range(LAYERS)] == list(structure.layers)
    small = shrink(PrunedBertForSequenceClassification.from_unpruned(model), structure)
    stock = shrink(copy.deepcopy(model), structure)
    with torch.no_grad():
        outputs = [small(**inputs), stock(**inputs), small.unpruned_twin()(**inputs)]
        for one in (model, PrunedBertForSequenceClassification.from_unpruned(model)) if whole else ():
            with masked(one, *factors(structure)):
                outputs.append(one(**inputs))
    for output in outputs:
        assert torch.allclose(output.logits.double(), expected, atol=1e-5)
    # Nothing is hidden: the modules have these sizes, and no others.
    heads, neurons = ([len(part) for part in kind] for kind in (structure.heads, structure.neurons))
    shape = BertShape.of_model(small)
    assert [(layer.attention, layer.intermediate) for layer in shape.layers] == [
        (8 * n, m) for n, m in zip(heads, neurons, strict=True)
    ]
    d = model.config.hidden_size
    per_layer = [
        4 * d * 8 * n + 3 * 8 * n + d + 4 * d + ((2 * d + 1) * m + d if m else 0)
        for n, m in zip(heads, neurons, strict=True)
    ]
    assert sum(x.numel() for x in small.bert.encoder.parameters()) == sum(per_layer)


PARTS = Structure((0, 2, 3), ((0, 2), (1,), (0, 1, 2, 3)), (tuple(range(0, NEURONS, 3)), (), (5,)))


def test_a_removed_part_has_no_gradient_when_it_is_masked():
    model, structure = dense(), Structure((0, 1, 2, 3), ((1, 2), (0,), (3,), (0, 1, 2, 3)), ((), (4,), (1, 2), (3,)))
    heads, feed_forwards, neurons = factors(structure)
    inputs = make_inputs(LENGTHS, model.config.vocab_size)
    with masked(model, heads.bool(), feed_forwards.bool(), neurons.bool()):
        model(**inputs, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    layer = model.bert.encoder.layer[0]
    of_heads = layer.attention.self.value.weight.grad.unflatten(0, (HEADS, 8)).abs().sum(dim=(1, 2))
    assert (of_heads > 0).tolist() == [False, True, True, False]
    assert not layer.output.dense.weight.grad.any()
    of_neurons = model.bert.encoder.layer[2].intermediate.dense.weight.grad.abs().sum(dim=1)
    assert of_neurons.nonzero().flatten().tolist() == [1, 2]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_saved_and_loaded(tmp_path, dtype):
    model = shrink(PrunedBertForSequenceClassification.from_unpruned(dense()), PARTS).to(dtype)
    model.set_pruning([0.3, 0, 0.5], "student", student_widths=[4])
    model.save_pretrained(tmp_path)
    inputs = make_inputs(LENGTHS, model.config.vocab_size)
    with torch.no_grad():
        expected = model.eval()(**inputs).logits
        for auto in (PrunedBertForSequenceClassification, AutoModelForSequenceClassification):
            loaded = auto.from_pretrained(tmp_path, dtype=dtype).eval()
            assert torch.equal(loaded(**inputs).logits, expected)
            assert Structure.of(loaded.config) == PARTS
    saved = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert saved["compression"]["layers"] == [0, 2, 3]
    assert saved["num_hidden_layers"] == 3
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    assert shapes["bert.encoder.layer.0.attention.self.query.weight"] == [16, 32]
    assert shapes["bert.encoder.layer.0.attention.output.dense.weight"] == [32, 16]
    assert shapes["bert.encoder.layer.2.output.dense.weight"] == [32, 1]
    assert not [name for name in shapes if name.startswith("bert.encoder.layer.1.intermediate")]
    assert isinstance(loaded.bert.encoder.layer[1].output, NoFeedForward)


@pytest.mark.parametrize("method", [*SAME_PASS, "emission", "gradient"])
def test_tokens_are_dropped_from_what_is_left(method):
    model = shrink(PrunedBertForSequenceClassification.from_unpruned(dense()), PARTS)
    prune(model, [0.3, 0.4, 0.2], method)
    inputs = make_inputs([17, 3, 9, 1], model.config.vocab_size)
    expected, kept = masked_pass(model, inputs)
    with torch.no_grad():
        output = model(**inputs)
    assert torch.allclose(output.logits, expected, atol=1e-5)
    assert kept_positions(output) == kept


def test_a_smaller_model_is_shrunk_further_in_the_numbers_of_the_dense_one():
    first = Structure((0, 2, 3), ((0, 2, 3), (1,), (0, 1, 2)), (tuple(range(NEURONS)), (), (5, 6, 40)))
    second = Structure((2, 3), ((1,), (0, 2)), ((), (6, 40)))
    twice, once = shrink(shrink(dense(), first), second), shrink(dense(), second)
    assert twice.state_dict().keys() == once.state_dict().keys()
    assert all(torch.equal(x, once.state_dict()[name]) for name, x in twice.state_dict().items())
    assert Structure.of(twice.config) == second
    with pytest.raises(ValueError, match=r"layers \[0, 3\] of a BERT that has \[2, 3\]"):
        shrink(twice, Structure((0, 3), ((0,), (0,)), ((), ())))
    with pytest.raises(ValueError, match="1 is kept of what the BERT no longer has"):
        shrink(twice, Structure((3,), ((1,),), ((6,),)))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"heads": [[0], [], [1]]}, "a layer without heads"),
        ({"heads": [[0], [1, 0], [1]]}, r"\[1, 0\] are not different numbers in ascending order"),
        ({"neurons": [[0], [1]]}, "heads and neurons of another number of layers"),
        ({"layers": []}, "no layers"),
        ({"neurons": 3}, "not what is left of a BERT"),
        ({"heads": [[0], ["1"], [1]]}, "are not different numbers"),
        ({"heads": [[0], [7], [1]]}, "7 is kept of what the BERT no longer has"),
        ({"layers": [0, 1], "heads": [[0], [0]], "neurons": [[], []]}, "2 layers, but num_hidden_layers is 3"),
    ],
)
def test_a_config_that_cannot_be_is_refused(changes, problem):
    config = small_config(num_hidden_layers=3, compression=PARTS.to_dict() | changes)
    with pytest.raises(ValueError, match=problem):
        PrunedBertForSequenceClassification(config)


def test_what_has_been_removed_cannot_be_pretrained_weights(run, tmp_path):
    write_mrpc(tmp_path / "data")
    small_bert(tmp_path / "bert")
    assert run("PrepareGlue4Bert")[0] == 0
    config = json.loads((tmp_path / "bert/config.json").read_text("utf-8"))
    (tmp_path / "bert/config.json").write_text(json.dumps(config | {"compression": PARTS.to_dict()}), encoding="utf-8")
    code, _, err = run("RunBert4Glue")
    assert code == 2
    assert err == ("error: bert/config.json: heads or layers have been removed; give the model that it was made of\n")


def test_masks_of_whole_parts_narrow_a_structure():
    whole = Structure.of(small_config(num_hidden_layers=2))
    heads = torch.tensor([[True, False, True, False], [False, False, False, True]])
    left = whole.mask(heads=heads).mask(neurons=torch.tensor([False, True]))
    assert left == Structure((0, 1), ((0, 2), (3,)), ((), tuple(range(NEURONS))))
    assert left.keep_layers([1]) == Structure((1,), ((3,),), (tuple(range(NEURONS)),))
    assert Structure.from_dict(json.loads(json.dumps(left.to_dict()))) == left
    model = shrink(PrunedBertForSequenceClassification.from_unpruned(dense()), PARTS)
    with pytest.raises(UserError, match="2 rates for a model of 3 layers"):
        model.set_pruning([0.5, 0.5])
