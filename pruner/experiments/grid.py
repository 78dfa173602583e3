"""A grid of cells: a task, a method and a seed each, trained, evaluated, measured and recorded, whatever the model."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import transformers
from torch import Tensor, nn
from transformers import TrainerCallback

from pruner.compress.tokens.schedule import Learned, Pruning, schedule_name
from pruner.data.cache import Cache
from pruner.data.collate import Collate, SplitDataset, training_rows
from pruner.data.task import Task
from pruner.evaluation.metrics import dev_metrics
from pruner.evaluation.predict import predict_dev
from pruner.report.records import Log, Record, finished_record, mark_outdated
from pruner.training.curves import Curves
from pruner.training.steps import read_step, remove_step, step_folder, training_folder, write_step
from pruner.training.train import train, training_device
from pruner.training.trainer import TrainSettings
from pruner.utils.distributed import from_main, is_main, locked

EXAMPLES = 3  # sentences whose surviving words are shown

Model = TypeVar("Model", bound=nn.Module)  # a grid's kind of model


@dataclass(frozen=True)
class Cell:
    """``pruning`` is ``None`` for the baseline, the unpruned model.

    ``learned`` says how its schedule is learned, ``target`` what FLOPs reduction a schedule was made for, if any.
    """

    task: Task
    pruning: Pruning | None
    seed: int
    learned: Learned | None = None
    target: float | None = None

    @property
    def method(self) -> str:
        if self.learned:
            return self.learned.method
        return self.pruning.method if self.pruning else "baseline"

    @property
    def baseline(self) -> "Cell":
        """The cell that it is compared with, of the same seed."""
        return Cell(self.task, None, self.seed)

    @property
    def name(self) -> str:
        """The run's folder: method, schedule and seed."""
        if self.pruning is None:
            return f"baseline_seed{self.seed}"
        schedule = schedule_name(self.pruning.schedule)
        if self.learned and self.target:
            schedule = f"{'soft-extract' if self.learned.search else 'learned'}-{self.target:g}x"
        elif self.learned and self.learned.search:
            schedule = self.learned.search.name
        return self.named(self.pruning, schedule)

    def named(self, pruning: Pruning, schedule: str) -> str:
        """A name that says ``schedule`` of the schedule of the cell's ``pruning``."""
        teacher = f"-{pruning.teacher}" if pruning.teacher else ""
        padded = "_padded" if pruning.count == "padded" else ""
        return f"{self.method}{teacher}_{schedule}{padded}_seed{self.seed}"


@dataclass(frozen=True)
class Grid(ABC, Generic[Model]):
    """What all cells of a run share. A subclass says what is particular to its kind of model.

    ``models`` is where the trained models are to be kept; without it they are kept in the cache folder.
    """

    max_train_rows: int | None
    student_learning_rate: float
    latency_repeats: int
    records: Path
    models: Path | None
    discard_models: bool
    tensorboard: Path | None
    steps: Path
    predict_test: bool
    force: bool
    steady: bool
    log: Log

    decay: ClassVar[str] = "linear"  # of the learning rates
    latency_batches: ClassVar[int | None] = None  # timed at most; None: all of dev

    @abstractmethod
    def training(self, task: Task) -> TrainSettings:
        """How cells of this task are trained."""

    @abstractmethod
    def make_model(self, cell: Cell, cache: Cache) -> Model:
        """The model before training, seeded by the caller."""

    @abstractmethod
    def collate(self, cell: Cell) -> Collate:
        """The collator of the cell's model."""

    @abstractmethod
    def describe(self, model: Model, cell: Cell, cache: Cache) -> dict:
        """The record's ``model``, schedule or rate, ``count``, ``tokens`` and ``flops``."""

    @abstractmethod
    def examples(self, model: Model, cell: Cell, cache: Cache) -> list[dict]:
        """A few sentences of dev, each with its ``sentence`` and the words ``kept``."""

    @abstractmethod
    def load_kept(self, folder: Path) -> Model:
        """A model that ``save_model`` has kept."""

    @abstractmethod
    def save_model(self, model: Model, cell: Cell, folder: Path) -> None:
        """Keep the model with all that is needed to use it."""

    def latency_collates(self, cell: Cell) -> tuple[Collate, Collate]:
        """The collators of the unpruned twin and of the model."""
        return self.collate(cell), self.collate(cell)

    def first_weights(self, cell: Cell, cache: Cache) -> dict[str, Tensor]:
        """Weights to begin training with, in place of those of ``make_model``."""
        return {}

    def callbacks(self, model: Model, cell: Cell, cache: Cache) -> Sequence[TrainerCallback]:
        return ()

    def learn(self, cell: Cell, cache: Cache) -> Cell:
        """The cell with its schedule, learned if it is to be."""
        return cell

    def trained(self, cell: Cell, cache: Cache) -> tuple[Model, list[dict]]:
        """The cell's model on the device, and its loss curve."""
        return train_cell(self, cell, cache)

    def data(self, cell: Cell, cache: Cache) -> SplitDataset:
        """What the cell is trained on."""
        return SplitDataset(training_rows(cache.splits["train"], self.max_train_rows))

    def is_step(self, cell: Cell) -> bool:
        """Whether others build on the cell's weights, so that they are kept."""
        return False

    def step(self, cell: Cell, cache: Cache) -> Path:
        return step_folder(self.steps, cell.task.name, cell.name, self.settings(cell, cache))

    def curves(self, name: str, task: Task, cache: Cache, collate: Collate) -> Curves | None:
        """Where a training of that name is logged for TensorBoard, if it is."""
        if self.tensorboard is None:
            return None
        size = self.training(task).batch_size

        def measure(model: nn.Module) -> dict[str, float]:
            return dev_metrics(task, cache, predict_dev(model, task, cache, size, collate))

        return Curves(self.tensorboard / task.name / name, measure, self.log)

    @property
    def cached_models(self) -> Path:
        """Where models are kept, unless the user wants them elsewhere."""
        return self.steps.with_name("models")

    def kept_model(self, cell: Cell, cache: Cache) -> Path | None:
        """Where the cell's model is to be kept: in the cache folder by a name that goes with its settings, since runs
        of other settings, with records of their own, have the same cache.
        """
        if self.discard_models:
            return None
        if self.models:
            return self.models / cell.task.name / cell.name
        return step_folder(self.cached_models, cell.task.name, cell.name, self.settings(cell, cache))

    def forget(self, cell: Cell, cache: Cache) -> None:
        """Let the cell be run again from its beginning."""
        mark_outdated(self.folder(cell))
        remove_step(self.step(cell, cache))

    def folder(self, cell: Cell) -> Path:
        return self.records / cell.task.name / cell.name

    def settings(self, cell: Cell, cache: Cache) -> dict:
        """Everything that decides a cell's result beside its name; a finished cell must have been made with it."""
        available = len(cache.splits["train"])
        settings = asdict(self.training(cell.task)) | {
            "max_length": cache.max_length,
            "train_rows": min(self.max_train_rows or available, available),
            "train_rows_available": available,
        }
        if cell.task.fingerprint:
            settings["data"] = cell.task.fingerprint  # its name may have been given to other rows before
        if cell.pruning and "student" in cell.pruning.methods:
            settings["student_learning_rate"] = self.student_learning_rate
            settings["student_widths"] = list(cell.pruning.student_widths)
        return settings

    def finished(self, cell: Cell, cache: Cache) -> Record | None:
        """The record of a cell that is not to be run again."""
        return finished_record(self.folder(cell), self.settings(cell, cache))


def train_cell(grid: Grid[Model], cell: Cell, cache: Cache, name: str | None = None) -> tuple[Model, list[dict]]:
    """The trained model, on the device, and its loss curve; both as they were kept, where they were.

    ``name`` is what TensorBoard shows the training as, if it is not to be the cell's.
    """
    transformers.set_seed(cell.seed)
    model, step = grid.make_model(cell, cache), grid.step(cell, cache)
    with locked(step, grid.log) if grid.is_step(cell) else nullcontext():
        if grid.is_step(cell) and from_main(step.is_dir):
            return model.to(training_device()), read_step(step, model)["loss"]
        model.load_state_dict(grid.first_weights(cell, cache), strict=False)
        loss = train(
            model,
            grid.data(cell, cache),
            grid.training(cell.task),
            cell.seed,
            training_folder(step),
            grid.collate(cell),
            grid.decay,
            grid.callbacks(model, cell, cache),
            {"students.": grid.student_learning_rate},
            say=grid.log,
            curves=grid.curves(name or cell.name, cell.task, cache, grid.collate(cell)),
        )
        if grid.is_step(cell) and is_main():
            write_step(step, model, {"loss": loss})
    return model, loss


def shorten(words: Sequence[str], kept: set[int]) -> str:
    """The kept words in order, ``...`` where some were left out."""
    shown: list[str] = []
    for position, word in enumerate(words):
        if position in kept:
            shown.append(word)
        elif not shown or shown[-1] != "...":
            shown.append("...")
    return " ".join(shown)
