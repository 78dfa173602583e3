"""Chooses the mixture that meets a budget and changes least of what a model says, and makes it.

What leaves is removed for good, what remains is corrected by least squares; nothing is trained.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.joint.budgets import Budget
from pruner.compress.joint.fisher import unlikeness
from pruner.compress.joint.mixtures import AXES, Mixture, Space
from pruner.compress.joint.reconstruct import MOST_TOKENS, reconstruct
from pruner.compress.structure.shrink import Structure, shrink
from pruner.compress.tokens.schedule import schedule_text
from pruner.data.cache import Split
from pruner.data.collate import BertCollator, training_rows
from pruner.evaluation.predict import predict
from pruner.training.stage import Say
from pruner.utils.errors import SettingError
from pruner.utils.progress import Progress

# All mixtures are compared on few rows, corrected on few tokens; the best of them on all.
FEW_ROWS, FEW_TOKENS, BEST = 128, 2**12, 8
TRIES = 3  # where what was chosen does not cost what was predicted


def make(whole: Any, structure: Structure, fitted: Split, most_tokens: int = MOST_TOKENS) -> Any:
    """Make the smaller model that a structure is, of copies of the weights of ``whole``, corrected on some rows."""
    model: Any = PrunedBertForSequenceClassification.from_unpruned(whole).eval()
    if structure == Structure.of(whole.config):
        return model
    return reconstruct(shrink(model, structure), whole, fitted, most_tokens)


def choose(
    whole: Any,
    space: Space,
    budget: Budget,
    fitted: Split,
    choice: Split,
    batch_size: int,
    axes: Sequence[str] = AXES,
    say: Say = lambda line: None,
) -> tuple[Any, dict]:
    """Return the mixture whose answers on the rows of ``choice`` differ least from those of ``whole``.

    With its model comes what is to be recorded of the choice.

    Args:
        whole: a BERT classifier of which each mixture is a part.
        budget: by what factor it is to be cheaper; ``axes`` say by what that may be met.
        fitted: the rows on which what remains is corrected; they may be those of ``choice``. Labels are not read.

    Raises:
        SettingError: no mixture meets the budget.
    """
    for left in reversed(range(TRIES)):
        mixture, found = find(whole, space, budget, fitted, choice, batch_size, axes)
        model = make(whole, mixture.structure, fitted).set_pruning(mixture.schedule, "attention")
        found |= budget.told(mixture.structure, mixture.schedule)
        corrected = budget.corrected(model, mixture.structure, mixture.schedule) if left else None
        if corrected is None:
            break
        say(f"it is not {budget.target:g}x, as was predicted; corrected, and chosen again")
        budget = corrected
    layers = len(mixture.structure.layers)
    say(f"chosen of {found['mixtures']} mixtures; answers differ from the whole model's by {found['unlikeness']:.4f}")
    say(f"schedule: {schedule_text(mixture.schedule)}; {layers} of {space.depth} layers")
    return model, found


def find(
    whole: Any, space: Space, budget: Budget, fitted: Split, choice: Split, batch_size: int, axes: Sequence[str]
) -> tuple[Mixture, dict]:
    """Return the mixture that ``choose`` asks for, by what it is predicted to cost."""
    mixtures = list(space.meeting(budget, axes))
    if not mixtures:
        more = "" if "depth" in axes else ", or --methods joint, by which layers leave too"
        raise SettingError(budget.constant, f"{budget.target:g} cannot be met by {' and '.join(axes)}; use less{more}")
    bar = Progress(desc="choosing what leaves", unit="mixture")

    def ranked(among: Sequence[Mixture], rows: Split, most_tokens: int) -> list[tuple[float, Mixture]]:
        reference = torch.from_numpy(predict(whole, rows, batch_size, BertCollator(with_lengths=True)))
        found = []
        for structure, of_structure in groupby(among, key=lambda mixture: mixture.structure):
            model = make(whole, structure, fitted, most_tokens)
            for mixture in of_structure:
                model.set_pruning(mixture.schedule, "attention")
                logits = torch.from_numpy(predict(model, rows, batch_size, BertCollator(with_lengths=True)))
                found.append((unlikeness(logits, reference, whole.config), mixture))
                bar.update()
        return sorted(found, key=lambda pair: pair[0])

    best = mixtures
    if len(mixtures) > BEST:
        few = [mixture for _, mixture in ranked(mixtures, training_rows(choice, FEW_ROWS), FEW_TOKENS)[:BEST]]
        best = sorted(few, key=mixtures.index)  # those of a structure together
    least, mixture = ranked(best, choice, MOST_TOKENS)[0]
    bar.close()
    width = space.reduction(mixture.structure)
    return mixture, {"mixtures": len(mixtures), "unlikeness": round(least, 6), "width_reduction": round(width, 4)}
