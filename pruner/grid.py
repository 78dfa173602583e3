"""A grid of cells: a task, a method and a seed each, trained, evaluated, measured and recorded, whatever the model."""

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from torch import nn
from transformers import TrainerCallback

from pruner.batches import Collate, SplitDataset, training_rows
from pruner.cache import Cache
from pruner.evaluate import predict, rank_correlation
from pruner.glue import Task
from pruner.latency import measure_latency
from pruner.metrics import dev_metrics, metrics_by_length
from pruner.records import (
    Log,
    check_writable,
    curve,
    environment,
    finished_record,
    finite,
    markdown,
    metric_text,
    summary,
    write_record,
)
from pruner.schedule import Learned, Pruning, schedule_name
from pruner.steps import read_step, step_folder, training_folder, write_step
from pruner.train import TrainSettings, train, training_device

EXAMPLES = 3  # sentences whose surviving words are shown


@dataclass(frozen=True)
class Cell:
    """``pruning`` is ``None`` for the baseline, the unpruned model. ``learned`` says how its schedule is learned."""

    task: Task
    pruning: Pruning | None
    seed: int
    learned: Learned | None = None

    @property
    def method(self) -> str:
        if self.learned:
            return self.learned.method
        return self.pruning.method if self.pruning else "baseline"

    @property
    def name(self) -> str:
        """The run's folder: method, schedule and seed."""
        if self.pruning is None:
            return f"baseline_seed{self.seed}"
        teacher = f"-{self.pruning.teacher}" if self.pruning.teacher else ""
        padded = "_padded" if self.pruning.count == "padded" else ""
        schedule = self.learned.name if self.learned else schedule_name(self.pruning.schedule)
        return f"{self.method}{teacher}_{schedule}{padded}_seed{self.seed}"


@dataclass(frozen=True)
class Grid(ABC):
    """What all cells of a run share. A subclass says what is particular to its kind of model."""

    max_train_rows: int | None
    latency_repeats: int
    records: Path
    models: Path | None
    steps: Path
    force: bool
    steady: bool

    decay = "linear"  # of the learning rates
    latency_batches = None  # timed at most; None: all of dev

    @abstractmethod
    def training(self, task: Task) -> TrainSettings:
        """How cells of this task are trained."""

    @abstractmethod
    def make_model(self, cell: Cell, cache: Cache) -> nn.Module:
        """The model before training, seeded by the caller."""

    @abstractmethod
    def collate(self, cell: Cell) -> Collate:
        """The collator of the cell's model."""

    @abstractmethod
    def describe(self, model: nn.Module, cell: Cell, cache: Cache) -> dict:
        """The record's ``model``, schedule or rate, ``count``, ``tokens`` and ``flops``."""

    @abstractmethod
    def examples(self, model: nn.Module, cell: Cell, cache: Cache) -> list[dict]:
        """A few sentences of dev, each with its ``sentence`` and the words ``kept``."""

    @abstractmethod
    def save_model(self, model: nn.Module, cell: Cell, folder: Path) -> None:
        """Keep the model with all that is needed to use it."""

    def latency_collates(self, cell: Cell) -> tuple[Collate, Collate]:
        """The collators of the unpruned twin and of the model."""
        return self.collate(cell), self.collate(cell)

    def callbacks(self, model: nn.Module, cell: Cell, cache: Cache) -> Sequence[TrainerCallback]:
        return ()

    def learn(self, cell: Cell, cache: Cache, log: Log) -> Cell:
        """The cell with its schedule, learned if it is to be."""
        return cell

    def trained(self, cell: Cell, cache: Cache) -> tuple[nn.Module, list[dict]]:
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

    def forget(self, cell: Cell, cache: Cache) -> None:
        """Remove what an earlier run has kept of the cell."""
        shutil.rmtree(self.step(cell, cache), ignore_errors=True)
        shutil.rmtree(training_folder(self.step(cell, cache)), ignore_errors=True)

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
        if cell.pruning and "student" in cell.pruning.methods:
            return settings | {"student_widths": list(cell.pruning.student_widths)}
        del settings["student_learning_rate"]
        return settings

    def finished(self, cell: Cell, cache: Cache) -> dict | None:
        return None if self.force else finished_record(self.folder(cell), self.settings(cell, cache))


def predict_dev(model: nn.Module, task: Task, cache: Cache, batch_size: int, collate: Collate, **options) -> dict:
    """Logits [rows, labels] of each of the task's dev sets."""
    return {name: predict(model, cache.splits[name], batch_size, collate, **options) for name in task.dev}


def train_cell(grid: Grid, cell: Cell, cache: Cache) -> tuple[nn.Module, list[dict]]:
    """The trained model, on the device, and its loss curve; both as they were kept, where they were."""
    transformers.set_seed(cell.seed)
    model, step = grid.make_model(cell, cache), grid.step(cell, cache)
    if grid.is_step(cell) and (result := read_step(step, model)):
        return model.to(training_device()), result["loss"]
    folder, callbacks, settings = training_folder(step), grid.callbacks(model, cell, cache), grid.training(cell.task)
    loss = train(model, grid.data(cell, cache), settings, cell.seed, folder, grid.collate(cell), grid.decay, callbacks)
    if grid.is_step(cell):
        write_step(step, model, {"loss": loss})
    return model, loss


def run_cell(grid: Grid, cell: Cell, cache: Cache, baseline: dict | None, log: Log) -> dict:
    """Train, evaluate, measure and record one cell; ``baseline`` is the finished record of its baseline."""
    started = time.monotonic()
    cell = grid.learn(cell, cache, log)
    task, pruning, settings, collate = cell.task, cell.pruning, grid.training(cell.task), grid.collate(cell)
    model, loss = grid.trained(cell, cache)

    logits = predict_dev(model, task, cache, settings.batch_size, collate)
    metrics = finite(dev_metrics(task, cache, logits), task.name)
    record = {
        "task": task.name,
        "method": cell.method,
        "teacher": pruning.teacher if pruning else None,
        "seed": cell.seed,
        "status": "complete",
        "metrics": metrics,
        "baseline_metrics": baseline["metrics"] if baseline else metrics,
        "metrics_by_length": metrics_by_length(task, cache, logits),
        "latency": None,
    }
    record = grid.describe(model, cell, cache) | record
    if pruning:
        gpu = next(model.parameters()).is_cuda
        dtype = torch.bfloat16 if gpu and torch.cuda.is_bf16_supported() else torch.float32
        dev = cache.splits[task.dev[0]]
        record["latency"] = measure_latency(
            model,
            dev,
            settings.batch_size,
            grid.latency_collates(cell),
            dtype,
            grid.latency_repeats,
            grid.latency_batches,
        )
        record["examples"] = grid.examples(model, cell, cache)
        if pruning.teacher:
            led = predict_dev(model, task, cache, settings.batch_size, collate, follow_teacher=True)
            correlation = rank_correlation(model, dev, settings.batch_size, collate)
            record |= {
                "teacher_metrics": dev_metrics(task, cache, led),
                "student_rank_correlation": round(correlation, 4),
            }
    if grid.models:
        grid.save_model(model, cell, grid.models / task.name / cell.name)

    report(record, log)
    log(f"-> {grid.folder(cell)}")
    record |= {
        "loss": loss,
        "settings": grid.settings(cell, cache),
        "environment": environment(grid.steady),
        "seconds": round(time.monotonic() - started, 1),
    }
    write_record(grid.folder(cell), record, log)
    shutil.rmtree(training_folder(grid.step(cell, cache)), ignore_errors=True)
    return record


def report(record: dict, log: Log) -> None:
    """A finished cell in a few lines."""
    if record["method"] == "baseline":
        log(f"result: {metric_text([record['metrics']])} (unpruned baseline)")
        return
    log(f"result: {metric_text([record['metrics']])} (baseline: {metric_text([record['baseline_metrics']])})")
    if record["teacher"]:
        log(
            f"the student alone; led by its teacher: {metric_text([record['teacher_metrics']])}; "
            f"rank correlation with it {record['student_rank_correlation']:.2f}"
        )
    tokens, flops, latency = record["tokens"], record["flops"], record["latency"]
    log(
        f"tokens not computed {tokens['effective_rate']:.1%}, FLOPs reduction {flops['reduction']:.2f}x, "
        f"speed-up {latency['speedup']:.2f}x ({latency['baseline_ms']:.1f} -> {latency['pruned_ms']:.1f} ms per batch)"
    )
    for example in record["examples"]:
        log(f"  {example['sentence']}\n  -> {example['kept']}")


def run_grid(grid: Grid, cells: Sequence[tuple[Cell, Cache]]) -> None:
    """Run the cells that are not finished, baselines before what is compared with them; print the table of all.

    Raises:
        UserError: a finished cell was made with other settings, or the records' folder cannot be written: both before
            the first hour is spent.
    """
    if grid.force:
        for cell, cache in cells:
            grid.forget(cell, cache)
    finished = {cell: grid.finished(cell, cache) for cell, cache in cells}
    check_writable(grid.records)
    waiting = sum(record is None for record in finished.values())
    print(f"{len(cells)} cells, {len(cells) - waiting} of them finished already; records go to {grid.records}/")
    log, started, done = Log(), time.monotonic(), 0
    for cell, cache in cells:
        if finished[cell] is not None:
            continue
        left = "" if not done else f", about {(time.monotonic() - started) / done * (waiting - done) / 60:.0f} min left"
        log.start_cell()
        log(f"\n[{done + 1}/{waiting}{left}] {cell.task.name}: {cell.name}")
        baseline = finished[Cell(cell.task, None, cell.seed)] if cell.pruning else None
        finished[cell] = run_cell(grid, cell, cache, baseline, log)
        done += 1
    print("\n" + markdown(summary(list(finished.values()))))
    if len({record.get("target_prune_rate", 0) for record in finished.values()}) > 2:  # a rate of 0 is the baseline's
        print("\n" + markdown(curve(list(finished.values()))))


def shorten(words: Sequence[str], kept: set[int]) -> str:
    """The kept words in order, ``...`` where some were left out."""
    shown: list[str] = []
    for position, word in enumerate(words):
        if position in kept:
            shown.append(word)
        elif not shown or shown[-1] != "...":
            shown.append("...")
    return " ".join(shown)
