"""Cells: a task, a method and a seed each, and the grid that they are part of."""

import hashlib
import json
from argparse import Namespace
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pruner.compress import builtin as builtin
from pruner.compress.method import Method, dense_stage, make_methods
from pruner.compress.tokens.methods import Unpruned
from pruner.report.records import Log, Record, finished_record, mark_outdated
from pruner.training.context import Context, identity
from pruner.training.stage import Stage, unique
from pruner.training.stages import Stages


@dataclass(frozen=True, eq=False)
class Cell:
    """One evaluation and one record. ``baseline`` is the dense cell that it is compared with, ``None`` for that one."""

    context: Context
    method: Method
    baseline: "Cell | None"

    @property
    def task(self) -> str:
        return self.context.task.name

    @property
    def name(self) -> str:
        """Return the name of its folder: method, schedule or the like, and seed."""
        return f"{self.method.label}_seed{self.context.seed}"

    @cached_property
    def dense(self) -> Stage:
        """Return the plain fine-tuning of its task and seed."""
        return dense_stage(self.context)

    @cached_property
    def stages(self) -> list[Stage]:
        """List the trainings whose models its method gets, the one that is evaluated last."""
        return self.method.stages(self.context, self.dense)

    @property
    def lineage(self) -> list[Stage]:
        """List all trainings that it needs, in order: the dense one is what it is measured against."""
        return unique([self.dense, *(stage for last in self.stages for stage in last.lineage())])

    def settings(self) -> dict:
        """Return all that decides its result beside its name; a finished cell must have been made with it."""
        return self.context.settings() | self.method.settings(self.context)


def make_cells(context: Context, options: Namespace) -> list[Cell]:
    """Make the cells of a task and seed, the baseline before what is compared with it."""
    baseline = Cell(context, Unpruned(), None)
    methods = [method for name in options.pruning_methods for method in make_methods(name, options, context)]
    return [baseline, *{method.label: Cell(context, method, baseline) for method in methods}.values()]


@dataclass(frozen=True)
class Grid:
    """Where the results of cells go; ``options`` are the settings of the run script."""

    options: Namespace
    stages: Stages
    steady: bool  # whether ``latency.steady_allocator`` is in effect
    log: Log

    @property
    def records(self) -> Path:
        return Path(self.options.records)

    @property
    def models(self) -> Path:
        return Path(self.options.save_models) if self.options.save_models else self.stages.root.with_name("models")

    def folder(self, cell: Cell) -> Path:
        return self.records / cell.task / cell.name

    def model_folder(self, cell: Cell) -> Path | None:
        """Return where the cell's model is to be kept; runs of several settings share those of the cache folder."""
        if self.options.discard_models:
            return None
        key = hashlib.sha256(json.dumps(identity(cell.settings()), sort_keys=True).encode()).hexdigest()[:12]
        return self.models / cell.task / (cell.name if self.options.save_models else f"{cell.name}-{key}")

    def finished(self, cell: Cell) -> Record | None:
        """Return the record of a cell that is not to be run again."""
        return finished_record(self.folder(cell), cell.settings())

    def forget(self, cell: Cell) -> None:
        """Let the cell be run again from its beginning."""
        mark_outdated(self.folder(cell))
        for stage in cell.lineage:
            self.stages.remove(stage)
