"""Scorers: importance scores of tokens, higher = keep; the registry of all of them, and those that read tokens alone.

A scorer is a function and one registration, after which ``set_pruning`` and ``--methods`` know its name:

    @register_scorer("longest")
    def longest_word_piece_first(tokens: Tokens) -> Tensor:
        return piece_lengths[tokens.input_ids]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from pruner.compress.tokens import student, teachers
from pruner.models.flops import Shape

Function = TypeVar("Function", bound=Callable)


@dataclass(frozen=True)
class Tokens:
    """A batch as a scorer of tokens sees it."""

    input_ids: Tensor  # [B, L]
    real: Tensor  # [B, L] false at padding
    layer: int = 0  # that is scored for
    seed: int = 0  # of the run
    occurrences: Tensor | None = None  # [vocabulary] in the training set, for scorers that need them


@dataclass(frozen=True)
class Scorer:
    """A way of scoring tokens. What its function ``reads`` says when it is called and with what:

    - ``"tokens"``: ``Tokens`` -> [B, L]; before the pruned pass.
    - ``"model"``: model, ``teachers.Batch`` and layers -> {layer: [B, L]}; by an unpruned pass, which saves nothing,
      in evaluation mode and without gradients. Students can imitate it.
    - ``"hidden"``: the hidden states entering the layer [..., D] -> [...]; in the same pass. A ``learned`` one is given
      D and hidden widths, and makes the module that does it.
    - ``"attention"``: the layer's own attention maps [b, H, n, n], 0 where padding asks -> [b, n]; tokens then leave
      between attention and feed-forward. BERT only.

    ``models`` are those that can use it. ``flops`` is what scoring costs at inference, given the shape of the model,
    the real tokens [B] entering each layer and leaving the last one, the layers that it scores for, and the widths.
    """

    name: str
    function: Callable[..., Any]
    reads: Literal["tokens", "model", "hidden", "attention"] = "tokens"
    models: tuple[str, ...] = ("bert", "lstm")
    learned: bool = False
    needs_occurrences: bool = False
    flops: Callable[[Shape, Sequence[np.ndarray], Sequence[int], Sequence[int]], float] = lambda *_: 0.0

    @property
    def unpruned_pass(self) -> bool:
        return self.reads == "model"


SCORERS: dict[str, Scorer] = {}


def register_scorer(name: str, **properties: Any) -> Callable[[Function], Function]:
    """Register the decorated function as the scorer ``name``; ``properties`` are fields of ``Scorer``."""
    if name in SCORERS or "+" in name:  # which joins the names of several layers
        raise ValueError(f"register_scorer: {name!r} is taken, or has a + in it")

    def register(function: Function) -> Function:
        SCORERS[name] = Scorer(name, function, **properties)
        return function

    return register


def scorer_names(model: str, unpruned_pass: bool | None = None) -> list[str]:
    """List the scorers of a model, ``"bert"`` or ``"lstm"``: all, or by whether they need an unpruned pass."""
    fitting = [scorer for scorer in SCORERS.values() if model in scorer.models]
    return [scorer.name for scorer in fitting if unpruned_pass in (None, scorer.unpruned_pass)]


def by_scorer(methods: Sequence[str | None]) -> list[tuple[Scorer, list[int]]]:
    """List the scorers among ``methods``, one per layer, each with its layers."""
    used = dict.fromkeys(filter(None, methods))
    return [(SCORERS[name], [layer for layer, method in enumerate(methods) if method == name]) for name in used]


def scores_before(model: Any, batch: teachers.Batch, teach: bool) -> dict[int, Tensor]:
    """Compute the importance scores [B, L], by layer, of scorers that need not wait for the pruned pass.

    With ``teach``, layers of students have the scores of their teacher.
    """
    pruning, known = model.pruning, dict[int, Tensor]()
    names = [pruning.teacher if teach and method and SCORERS[method].learned else method for method in pruning.methods]
    for scorer, layers in by_scorer(names):
        if scorer.unpruned_pass:
            with teachers.teaching(model):
                by_layer = scorer.function(model, batch, layers)
            known |= {layer: by_layer[layer] for layer in layers}
        if scorer.reads == "tokens" and batch.input_ids.is_floating_point():
            raise ValueError(f"inputs_embeds: {scorer.name!r} reads which words there are; give input_ids")
        for layer in layers if scorer.reads == "tokens" else ():
            tokens = Tokens(batch.input_ids, batch.packing.real, layer, pruning.seed, model.token_counts)
            scores = scorer.function(tokens)
            # Whole numbers in double: a float32 would tie those above 2**24, and there is no infinity among them.
            known[layer] = scores if scores.is_floating_point() else scores.double()
    return known


register_scorer("student", reads="hidden", learned=True, flops=student.student_flops)(student.Student)


@register_scorer("attention", reads="attention", models=("bert",))
def received_attention(attention: Tensor) -> Tensor:
    """Sum over heads and queries, PoWER-BERT's significance (Goyal et al. 2020, section 3.2): [b, H, n, n] -> [b, n]"""
    return attention.sum(dim=(1, 2))


register_scorer("gate", reads="model", models=("lstm",), flops=teachers.gate_flops)(teachers.gate)
register_scorer("emission", reads="model", models=("bert",), flops=teachers.emission_flops)(teachers.emission)
register_scorer("gradient", reads="model", models=("bert",), flops=teachers.gradient_flops)(teachers.gradient)


@register_scorer("random")
def random_scores(tokens: Tokens) -> Tensor:
    """Draw from [0, 1) by a hash of seed, layer and sentence, so that no batch mate, padding or device changes it."""
    positions = torch.arange(tokens.input_ids.shape[1], device=tokens.input_ids.device)
    hashes = _mix(_mix(tokens.input_ids.long() + 1) + positions) * tokens.real
    sentence = _mix(hashes.sum(dim=1, keepdim=True) + tokens.seed * 1000 + tokens.layer)
    bits = _mix(sentence + _mix(positions + 1))
    return _shift_right(bits, 40).to(torch.float32) / (1 << 24)


@register_scorer("head")
def head_scores(tokens: Tokens) -> Tensor:
    """Keep earlier tokens first."""
    return -tail_scores(tokens)


@register_scorer("tail")
def tail_scores(tokens: Tokens) -> Tensor:
    """Keep later tokens first."""
    positions = torch.arange(tokens.input_ids.shape[1], device=tokens.input_ids.device, dtype=torch.float32)
    return positions.expand(tokens.input_ids.shape)


@register_scorer("frequency", needs_occurrences=True)
def frequency_scores(tokens: Tokens) -> Tensor:
    """Keep words first that are rarer in the training set."""
    assert tokens.occurrences is not None  # models take no such scorer without them
    return -tokens.occurrences[tokens.input_ids]


def _shift_right(x: Tensor, bits: int) -> Tensor:
    # Logical shift: int64 is signed in torch, and its >> drags the sign along.
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """Scatter int64 values over all 64 bits: the finaliser of SplitMix64 (Steele et al. 2014, fig. 16)."""
    x = (x ^ _shift_right(x, 30)) * (0xBF58476D1CE4E5B9 - (1 << 64))
    x = (x ^ _shift_right(x, 27)) * (0x94D049BB133111EB - (1 << 64))
    return x ^ _shift_right(x, 31)
