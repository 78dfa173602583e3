"""Running a grid: each cell trained, evaluated, measured and recorded; those that are finished are not run again."""

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import nn

from pruner import STOPPED
from pruner.compress.tokens.measures import rank_correlation
from pruner.data.cache import Cache
from pruner.evaluation.latency import measure_latency
from pruner.evaluation.metrics import dev_metrics, metrics_by_length
from pruner.evaluation.predict import predict_dev
from pruner.evaluation.submission import predict_tests, submission_names
from pruner.experiments.grid import Cell, Grid
from pruner.report.page import report_grid
from pruner.report.records import Log, check_writable, environment, finite, write_record
from pruner.report.tables import by_target, markdown, metric_text, summary
from pruner.training.steps import training_folder
from pruner.training.train import training_device
from pruner.utils.distributed import Lock, count, from_main, is_main, locked
from pruner.utils.errors import CellError, UserError
from pruner.utils.files import remove_folder, whole_folder, write_whole


def run_cell(grid: Grid, cell: Cell, cache: Cache, baseline: dict | None) -> dict | None:
    """Train, evaluate, measure and record one cell; ``baseline`` is the finished record of its baseline.

    The main process alone does what comes after the training, and returns the record.
    """
    started, log = time.monotonic(), grid.log
    cell = grid.learn(cell, cache)
    task, pruning, settings, collate = cell.task, cell.pruning, grid.training(cell.task), grid.collate(cell)
    model, loss = grid.trained(cell, cache)
    if not is_main():
        return None

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
    kept = keep_model(grid, model, cell, cache)
    files = predict_tests(model, task, cache, settings.batch_size, collate) if grid.predict_test else {}

    report(record, log)
    log(f"-> {grid.folder(cell)}")
    record |= {
        "model_folder": kept,
        "loss": loss,
        "settings": grid.settings(cell, cache),
        "environment": environment(grid.steady),
        "seconds": round(time.monotonic() - started, 1),
    }
    write_record(grid.folder(cell), record, log, files)
    remove_folder(training_folder(grid.step(cell, cache)))
    return record


def keep_model(grid: Grid, model: nn.Module, cell: Cell, cache: Cache) -> str | None:
    """Keep the cell's model; the folder. Where that cannot be done, the result need not be lost too."""
    folder = grid.kept_model(cell, cache)
    if folder is None:
        return None
    try:
        with whole_folder(folder) as temporary:
            grid.save_model(model, cell, temporary)
    except UserError as error:
        grid.log(f"the model is not kept: {error}")
        return None
    grid.log(f"model: {folder}")
    return folder.as_posix()


def predict_finished(grid: Grid, cell: Cell, cache: Cache) -> None:
    """The test sets' predictions of a cell that was finished without them, by its kept model."""
    folder, kept = grid.folder(cell), grid.kept_model(cell, cache)
    if all((folder / name).is_file() for name in submission_names(cell.task, cache).values()):
        return
    if kept is None or not kept.is_dir():
        raise UserError(
            f"{folder}: finished without predictions, and its model was not kept{f' in {kept}' if kept else ''}; "
            "name its folder with --save-models, or run it again with --force"
        )
    try:
        model = grid.load_kept(kept).to(training_device())
    except Exception as error:  # safetensors, pickle, JSON and torch each raise their own
        raise UserError(f"{kept}: not a kept model ({error}); remove it and run with --force") from None
    size, collate = grid.training(cell.task).batch_size, grid.collate(cell)
    for name, content in predict_tests(model, cell.task, cache, size, collate).items():
        write_whole(folder / name, content.encode())
        print(f"-> {folder / name}")


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

    Other processes may be running the same grid, side by side: each cell is computed by one of them.

    Raises:
        UserError: a finished cell was made with other settings, or the records' folder cannot be written: both before
            the first hour is spent. Or a cell came to no end, when all others have.
    """
    finished = from_main(lambda: start(grid, cells))
    failed: dict[Cell, str] = {}
    locks = {cell: Lock(grid.folder(cell)) for cell, _ in cells}
    started, done = time.monotonic(), 0
    while (index := from_main(lambda: take_cell(grid, cells, finished, failed, locks))) is not None:
        cell, cache = cells[index]
        waiting = sum(record is None for record in finished.values())
        left = "" if not done else f", about {(time.monotonic() - started) / done * waiting / 60:.0f} min left"
        grid.log.start_cell()
        grid.log(f"\n[{done + 1}/{done + waiting}{left}] {cell.task.name}: {cell.name}")
        baseline = finished[cell.baseline] if cell.pruning else None
        try:
            with nullcontext() if grid.is_step(cell) else locked(grid.step(cell, cache), grid.log):
                finished[cell] = run_cell(grid, cell, cache, baseline)
        except KeyboardInterrupt:
            if not grid.force:
                raise
            raise KeyboardInterrupt(STOPPED.replace("again", "again without --force")) from None
        except CellError as error:
            if count() > 1:  # the processes may be at different places now
                raise
            failed[cell] = f"{cell.task.name}, {cell.name}: {error}"
            grid.log(failed[cell])
        finally:
            if is_main():
                locks[cell].release()
        done += 1
    if is_main():
        print_tables([record for record in finished.values() if record])
        if any(finished.values()):
            report_grid(grid.records)
    if failed:
        more = f" (and {len(failed) - 1} more cells)" if len(failed) > 1 else ""
        raise CellError(next(iter(failed.values())) + more)


def start(grid: Grid, cells: Sequence[tuple[Cell, Cache]]) -> dict[Cell, dict | None]:
    """The records of all cells, ``None`` for those to run, when everything is found to be in order."""
    if grid.force:
        for cell, cache in cells:
            grid.forget(cell, cache)
    finished = {cell: grid.finished(cell, cache) for cell, cache in cells}
    tidy(grid, cells)
    for folder in filter(None, (grid.records, grid.models, grid.tensorboard)):
        check_writable(folder)
    if grid.predict_test:
        for cell, cache in cells:
            if finished[cell] is not None:
                predict_finished(grid, cell, cache)
    waiting = sum(record is None for record in finished.values())
    print(f"{len(cells)} cells, {len(cells) - waiting} of them finished already; records go to {grid.records}/")
    return finished


def tidy(grid: Grid, cells: Sequence[tuple[Cell, Cache]]) -> None:
    """Remove what killed processes have left that no other step of a run would come upon."""
    for root in filter(None, (grid.records, grid.models, grid.steps, grid.cached_models)):
        for old in root.glob("*/.*.old"):
            shutil.rmtree(old, ignore_errors=True)
    for cell, cache in cells:
        for lock in (Lock(grid.folder(cell)), Lock(grid.step(cell, cache))):
            if lock.file.is_file() and lock.take(wait=False):
                lock.release()


def take_cell(
    grid: Grid,
    cells: Sequence[tuple[Cell, Cache]],
    finished: dict[Cell, dict | None],
    failed: Mapping[Cell, str],
    locks: Mapping[Cell, Lock],
) -> int | None:
    """The next cell to run, whose lock is ours now; ``None`` if all are finished that can be.

    What other processes have finished goes into ``finished``. They are waited for when they have all that is left.
    """
    while True:
        busy = []
        for index, (cell, cache) in enumerate(cells):
            if finished[cell] is not None or cell in failed:
                continue
            if cell.pruning and finished[cell.baseline] is None:
                continue  # there is nothing to compare it with yet
            if not locks[cell].take(wait=False):
                busy.append(cell)
                continue
            finished[cell] = grid.finished(cell, cache)
            if finished[cell] is None:
                return index
            locks[cell].release()
        if not busy:
            return None
        print(f"waiting for another process, which runs {', '.join(cell.name for cell in busy)}")
        locks[busy[0]].take(wait=True)
        locks[busy[0]].release()


def print_tables(records: list[dict]) -> None:
    """What was found, in a table or several."""
    if not records:
        return
    for table in (summary(records), *by_target(records)):
        print("\n" + markdown(table))
