"""The FLOPs formulas against PyTorch's own counter, which watches the operations that really run."""

import pytest
import torch
from reference import make_inputs
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from pruner.compress.tokens.flops import BertShape, baseline_flops, pruned_flops
from pruner.compress.tokens.schedule import METHODS, Pruning, make_pruning
from pruner.compress.tokens.select import keep_counts

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


def test_baseline(model):
    assert baseline_flops(BertShape.of(model.config), [LENGTH]) == counted(model.unpruned_twin())


@pytest.mark.parametrize("method", METHODS)
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
    assert pruned_flops(shape, [7, 40], keep_counts([7, 40], nothing.schedule), nothing) == baseline_flops(
        shape, [7, 40]
    )
