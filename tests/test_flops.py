"""The FLOPs formulas against PyTorch's own counter, which watches the operations that really run."""

import pytest
import torch
from reference import make_inputs
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from transformers.pytorch_utils import prune_linear_layer

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.precision.factorised import factorise
from pruner.compress.tokens.flops import pruned_flops
from pruner.compress.tokens.schedule import Pruning, make_pruning
from pruner.compress.tokens.scores import scorer_names
from pruner.compress.tokens.select import keep_counts
from pruner.models.flops import BertShape, LayerShape, dense_flops

LENGTH = 40


class FlopCounter(TorchDispatchMode):
    """PyTorch's own formulas, applied to every operation that runs, those of ``autograd.grad`` included."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.total += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


def counted(model) -> int:
    model.set_attn_implementation("eager")  # the formulas know matrix products, not the CPU's fused attention
    attention = torch.nn.attention.SDPBackend.MATH
    with torch.no_grad(), torch.nn.attention.sdpa_kernel(attention), FlopCounter() as counter:
        model(**make_inputs([LENGTH], model.config.vocab_size))
    return counter.total


def test_by_hand():
    """Two layers of different sizes, sentences of 3 and 5 tokens, of which 2 and 3 leave the first attention."""
    shape = BertShape(hidden=4, labels=2, layers=(LayerShape(attention=2, intermediate=6), LayerShape(4, 0)))
    lengths, kept = [3, 5], [[2, 3], [2, 3]]
    first = 6 * 8 * 4 * 2 + 4 * (9 + 25) * 2 + 8 * 2 * 2 * 4 + 8 * 4 * 4 * 6
    second = 8 * 8 * 4 * 4 + 4 * (9 + 25) * 4
    head = 2 * (2 * 4 * 4 + 2 * 4 * 2)
    assert dense_flops(shape, lengths) == first + second + head
    first = 6 * 8 * 4 * 2 + 4 * (9 + 25) * 2 + 5 * 2 * 2 * 4 + 5 * 4 * 4 * 6
    second = 8 * 5 * 4 * 4 + 4 * (4 + 9) * 4
    assert pruned_flops(shape, lengths, kept, make_pruning([0.4, 0], "attention", 2)) == first + second + head


def test_baseline(model):
    assert BertShape.of(model.config) == BertShape.of_model(model)
    assert dense_flops(BertShape.of(model.config), [LENGTH]) == counted(model.unpruned_twin())


def shrink(model) -> None:
    """Take the second and fourth of four heads from layer 1, and half the neurons from layer 3."""
    attention = model.bert.encoder.layer[1].attention
    features = torch.arange(32).view(4, 8)[::2].flatten()
    for name in ("query", "key", "value"):
        setattr(attention.self, name, prune_linear_layer(getattr(attention.self, name), features))
    attention.output.dense = prune_linear_layer(attention.output.dense, features, dim=1)
    attention.self.num_attention_heads, attention.self.all_head_size = 2, 16
    layer, neurons = model.bert.encoder.layer[3], torch.arange(0, 64, 2)
    layer.intermediate.dense = prune_linear_layer(layer.intermediate.dense, neurons)
    layer.output.dense = prune_linear_layer(layer.output.dense, neurons, dim=1)


@pytest.mark.parametrize("methods", [None, *scorer_names("bert"), "student+attention"])
def test_a_shrunk_model(model, methods):
    shrink(model)
    shape = BertShape.of_model(model)
    sizes = [(32, 64), (16, 64), (32, 64), (32, 32), (32, 64), (32, 64)]
    assert shape.layers == tuple(LayerShape(*each) for each in sizes)
    assert dense_flops(shape, [LENGTH]) == counted(model.unpruned_twin())
    pruned = PrunedBertForSequenceClassification.from_unpruned(model.unpruned_twin())  # as small as it is
    schedule = [0, 0.2, 0, 0.5, 0, 0] if methods else [0] * 6
    pruned.set_pruning(schedule, methods or "student", token_counts=torch.zeros(model.config.vocab_size))
    counts = keep_counts([LENGTH], schedule)
    assert pruned_flops(shape, [LENGTH], counts, pruned.pruning) == counted(pruned)


def test_a_factorised_embedding_is_widened_for_every_token(model):
    factorise(model, 8)
    model.set_pruning([0.6, 0, 0, 0, 0, 0], "tail")
    counts, shape = keep_counts([LENGTH], [0.6, 0, 0, 0, 0, 0]), BertShape.of_model(model)
    assert shape == BertShape.of(model.config)
    assert pruned_flops(shape, [LENGTH], counts, model.pruning) == counted(model)
    assert dense_flops(shape, [LENGTH]) == counted(model.unpruned_twin())


@pytest.mark.parametrize("method", scorer_names("bert"))
@pytest.mark.parametrize("schedule", [[0.6, 0, 0, 0, 0, 0], [0, 0.2, 0, 0.5, 0, 0.3]])
def test_pruned(model, method, schedule):
    model.set_pruning(schedule, method, token_counts=torch.zeros(model.config.vocab_size))
    counts = keep_counts([LENGTH], schedule)
    assert pruned_flops(BertShape.of(model.config), [LENGTH], counts, model.pruning) == counted(model)


def test_sentences_add_up_and_padding_is_free(model):
    shape, schedule = BertShape.of(model.config), [0.5, 0, 0, 0, 0, 0]
    pruning = make_pruning(schedule, "student", 6, student_widths=(32, 32))
    together = pruned_flops(shape, [7, 40], keep_counts([7, 40], schedule), pruning)
    apart = sum(pruned_flops(shape, [n], keep_counts([n], schedule), pruning) for n in (7, 40))
    assert together == apart
    nothing = Pruning.none(6)
    assert pruned_flops(shape, [7, 40], keep_counts([7, 40], nothing.schedule), nothing) == dense_flops(shape, [7, 40])
