"""Makes a fine-tuned BERT cheaper without any training: what leaves is chosen on unlabelled texts.

Heads and neurons leave first, by Fisher information, and what remains is corrected; then tokens, by their attention.
How much of each is the mixture with which the model's answers change least.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.calibrated.fisher import fisher_scores, unlikeness
from pruner.compress.calibrated.reconstruct import reconstruct
from pruner.compress.structure.shrink import Structure, shrink
from pruner.compress.structure.width import largest_reduction, narrowed
from pruner.compress.tokens.budget import ScheduleFamily, fit_schedule, uniform_family
from pruner.compress.tokens.sampled import CANDIDATES, candidates
from pruner.compress.tokens.schedule import make_pruning
from pruner.data.cache import Split
from pruner.data.collate import BertCollator, some_rows
from pruner.evaluation.predict import predict
from pruner.models.flops import BertShape, dense_flops
from pruner.utils.errors import SettingError
from pruner.utils.progress import Progress

SHARES = (0.0, 0.5, 0.75, 1.0)  # of a budget, on a logarithmic scale, that fewer heads and neurons meet
CHOICE = 1 / 3  # share of the texts on which mixtures are compared; the others say what leaves, and correct the rest
NEGLIGIBLE = 1.005  # a reduction for which no token need leave


@dataclass(frozen=True)
class Mixture:
    """One way of meeting a budget: its model, without a schedule, the schedule, and what it does to the answers."""

    model: Any
    schedule: list[float]
    width: float  # the FLOPs reduction of its heads and neurons
    unlikeness: float


@dataclass(frozen=True)
class Calibration:
    """What may leave until the budget is met: a FLOPs reduction on sentences of these ``lengths``."""

    target: float
    lengths: Sequence[int]
    tokens: bool = True
    width: bool = True
    uniform: bool = False  # one rate for all layers
    batch_size: int = 32

    def run(self, dense: Any, split: Split, say: Callable[[str], None] = lambda line: None) -> tuple[Any, dict]:
        """Return a smaller copy of a BERT classifier, chosen on the rows of a split, and what was found.

        Raises:
            SettingError: no mixture meets the budget.
        """
        order = np.random.default_rng(0).permutation(len(split))
        held = max(1, round(CHOICE * len(split)))
        fitted, choice = some_rows(split, np.sort(order[held:])), some_rows(split, np.sort(order[:held]))
        reference = torch.from_numpy(predict(dense, choice, self.batch_size, BertCollator(with_lengths=False)))
        bar, mixtures = Progress(desc="choosing what leaves", unit="mixture"), []
        for model, width, schedule in self.mixtures(dense, fitted):
            model.set_pruning(schedule, "attention")
            logits = torch.from_numpy(predict(model, choice, self.batch_size, BertCollator(with_lengths=True)))
            mixtures.append(Mixture(model, schedule, width, unlikeness(logits, reference, dense.config)))
            bar.update()
        bar.close()
        if not mixtures:
            raise SettingError("target_flops_reduction", f"{self.target:g} cannot be met; use less")
        best = min(mixtures, key=lambda mixture: mixture.unlikeness)
        say(f"chosen of {len(mixtures)} mixtures; unlike the dense model by {best.unlikeness:.4f}")
        found = {"texts": len(split), "unlikeness": round(best.unlikeness, 6), "width_reduction": round(best.width, 4)}
        return best.model.set_pruning(best.schedule, "attention"), found

    def mixtures(self, dense: Any, split: Split) -> Iterator[tuple[Any, float, list[float]]]:
        """Yield a model that is narrower, by how much, and a schedule that does what is left to do."""
        whole = dense_flops(BertShape.of_model(dense), self.lengths)
        scores = fisher_scores(dense, split, self.batch_size) if self.width else None
        most = largest_reduction(dense.config, dense.config.num_hidden_layers, self.lengths)
        for share in SHARES if self.tokens and self.width else (1.0,) if self.width else (0.0,):
            model = PrunedBertForSequenceClassification.from_unpruned(dense).eval()
            if share:
                if self.target**share > most:
                    continue
                everything = Structure.of(dense.config)
                left = narrowed(everything, dense.config, self.lengths, self.target**share, scores, squared=True)
                reconstruct(shrink(model, left), dense, split)
            width = whole / dense_flops(BertShape.of_model(model), self.lengths)
            for schedule in self.schedules(model, self.target / width):
                yield model, width, schedule

    def schedules(self, model: Any, target: float) -> Iterator[list[float]]:
        """Yield the schedules that reduce a model's FLOPs by the target."""
        shape = BertShape.of_model(model)
        none = make_pruning([0.5] * shape.depth, "attention", shape.depth)

        def fitting(family: ScheduleFamily) -> list[float]:
            return fit_schedule(family, target, self.lengths, shape, none)

        if target <= NEGLIGIBLE:
            yield [0.0] * shape.depth
        elif self.uniform:
            yield fitting(uniform_family(shape.depth))
        else:
            try:
                yield from candidates(shape.depth, fitting, CANDIDATES[::2])
            except SettingError:
                return
