"""Runs a grid, cell by cell: those that are finished are not run again, and other processes may share the work."""

import os
import time
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from traceback import format_exception

from pruner import NO_MEMORY, STOPPED, is_want_of_memory
from pruner.data.cache import Cache
from pruner.data.task import Task
from pruner.experiments.cell import Cell, Grid, make_cells
from pruner.experiments.plan import drop_plans, print_plan, write_plan
from pruner.experiments.run_cell import predict_finished, run_cell
from pruner.models.backbone import Backbone
from pruner.report.comparisons import comparisons
from pruner.report.page import report_grid
from pruner.report.records import Log, Record
from pruner.report.tables import markdown, summary, to_frame
from pruner.training.context import Context
from pruner.training.stages import Stages
from pruner.training.trainer import TrainSettings
from pruner.utils.distributed import from_main, is_main, num_processes
from pruner.utils.errors import CellError, SettingError, UserError, flag_name
from pruner.utils.files import check_writable, remove, write_whole
from pruner.utils.locks import Lock
from pruner.utils.progress import close_bars, duration

Prepared = list[tuple[Task, Cache, TrainSettings]]


def run_tasks(options: Namespace, backbone: Backbone, prepared: Prepared, steady: bool) -> None:
    """Run all cells of the prepared tasks, or show them (``dry_run``); ``steady`` is what ``start_run`` returned."""
    together: dict[int, list[Context]] = {seed: [] for seed in options.seeds}
    rows, held_out = options.max_train_rows, getattr(options, "held_out", 0.0)
    contexts = [
        Context(task, cache, seed, backbone, settings, rows, together[seed], held_out)
        for task, cache, settings in prepared
        for seed in options.seeds
    ]
    for context in contexts:
        together[context.seed].append(context)
        if not any(context.dev_lengths):
            name = context.task.name
            raise UserError(f"{name}: no sentence of its dev set has a word of the vocabulary; prepare {name} again")
    cells = [cell for context in contexts for cell in make_cells(context, options)]
    log, curves = Log(), Path(options.tensorboard) if options.tensorboard else None
    grid = Grid(options, Stages(Path(options.cache) / "stages", log, curves), steady, log)
    check_places(grid)
    (print_plan if options.dry_run else run_grid)(grid, cells)


def check_places(grid: Grid) -> None:
    """Refuse one folder for two things: each would take what the other keeps for its own."""
    options = grid.options
    places = {"records": grid.records, "save_models": grid.models, "tensorboard": grid.stages.tensorboard}
    taken = {os.path.realpath(grid.stages.root): "cache"}
    for name, place in places.items():
        if place and not (name == "save_models" and options.discard_models):
            other = taken.setdefault(os.path.realpath(place), name)
            if other != name:
                raise SettingError(name, f"{place} is a folder of {flag_name(other)} too; choose another")


def run_grid(grid: Grid, cells: Sequence[Cell]) -> None:
    """Run the cells that are not finished, baselines before what is compared with them; print the table of all.

    Other processes may be running the same grid, side by side: each cell is computed by one of them. What is wrong with
    finished cells or folders raises a ``UserError`` before the first hour is spent, a failed cell after all others.
    """
    failed: dict[int, str] = {}
    finished = from_main(lambda: start(grid, cells, failed))
    try:
        run_cells(grid, cells, finished, failed)
    except KeyboardInterrupt:
        if is_main() and any(finished):
            close_bars()
            report_grid(grid.records)
        raise
    if is_main() and any(finished):
        frame = to_frame([record for record in finished if record])
        for table in (summary(frame), *comparisons(frame)):
            print("\n" + markdown(table))
        report_grid(grid.records)
    if failed:
        idle = sum(record is None and index not in failed for index, record in enumerate(finished))
        counts = {"more": len(failed) - 1, "not run, for want of their baseline": idle}
        more = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
        raise CellError(next(iter(failed.values())) + (f" (and {more})" if more else ""))


def run_cells(grid: Grid, cells: Sequence[Cell], finished: list[Record | None], failed: dict[int, str]) -> None:
    """Run the cells whose records are not in ``finished`` yet, and put them there, or what went wrong in ``failed``."""
    locks = [Lock(grid.folder(cell)) for cell in cells]
    started, done = time.monotonic(), 0
    while (index := from_main(lambda: take_cell(grid, cells, finished, failed, locks))) is not None:
        cell = cells[index]
        waiting = sum(record is None for record in finished)
        left = "" if not done else f", about {duration((time.monotonic() - started) / done * waiting)} left"
        if is_main():
            write_plan(grid, cells, finished)
        grid.log.start_cell()
        grid.log(f"\n[{done + 1}/{done + waiting}{left}] {cell.task}: {cell.name}")
        try:
            finished[index] = run_cell(grid, cell, finished[cells.index(cell.baseline)] if cell.baseline else None)
            remove(error_file(grid, cell))
        except KeyboardInterrupt:
            if not grid.options.force:
                raise
            raise KeyboardInterrupt(STOPPED.replace("again", "again without --force")) from None
        except Exception as error:  # whatever it is, the other cells can be run
            if num_processes() > 1:  # the processes may be at different places now
                raise
            failed[index] = failure(grid, cell, error)
        finally:
            if is_main():
                locks[index].release()
                drop_plans(grid)
        done += 1


def error_file(grid: Grid, cell: Cell) -> Path:
    return grid.stages.root / f"{cell.task}/{cell.name}.error.txt"


def failure(grid: Grid, cell: Cell, error: Exception) -> str:
    """Say in a line what has ended a cell; where nobody has foreseen it, with the file that says where it was."""
    if is_want_of_memory(error):
        what = NO_MEMORY
    elif isinstance(error, UserError | OSError):
        what = str(error)
    else:
        path = error_file(grid, cell)
        what = f"{type(error).__name__}: {error}; where that was is in {path}"
        with suppress(UserError):
            write_whole(path, "".join(format_exception(error)).encode(errors="backslashreplace"))
    line = f"{cell.task}, {cell.name}: {' '.join(what.split())}"
    grid.log(line)
    return line


def start(grid: Grid, cells: Sequence[Cell], failed: dict[int, str]) -> list[Record | None]:
    """Return the records of all cells, ``None`` for those to run, when everything is found to be in order.

    Predicts the test sets with the models of finished cells; puts into ``failed`` where that cannot be.
    """
    for folder in (grid.records, grid.options.save_models, grid.options.tensorboard):
        for task in {cell.task for cell in cells} if folder else ():
            check_writable(Path(folder))
            check_writable(Path(folder, task))
    for cell in cells if grid.options.force else ():
        grid.forget(cell)
    finished = [grid.finished(cell) for cell in cells]
    tidy(grid, cells)
    for index, cell in enumerate(cells) if grid.options.predict_test else ():
        if finished[index] is not None:
            try:
                predict_finished(grid, cell)
            except Exception as error:  # whatever it is, the other cells can be run
                failed[index] = failure(grid, cell, error)
    waiting = sum(record is None for record in finished)
    print(f"{len(cells)} cells, {len(cells) - waiting} of them finished already; records go to {grid.records}/")
    return finished


def tidy(grid: Grid, cells: Sequence[Cell]) -> None:
    """Remove the locks that killed processes have left."""
    folders = {folder for cell in cells for folder in (grid.folder(cell), *map(grid.stages.folder, cell.lineage))}
    for lock in map(Lock, folders):
        if lock.file.is_file() and lock.take(wait=False):
            lock.release()


def take_cell(
    grid: Grid,
    cells: Sequence[Cell],
    finished: list[Record | None],
    failed: dict[int, str],
    locks: Sequence[Lock],
) -> int | None:
    """Return the next cell to run, whose lock is ours now; ``None`` if all are finished that can be.

    What other processes finish goes into ``finished``; they are waited for when they have all that is left.
    """
    while True:
        busy = []
        for index, cell in enumerate(cells):
            if finished[index] is not None or index in failed:
                continue
            if cell.baseline and finished[cells.index(cell.baseline)] is None:
                continue  # there is nothing to compare it with yet
            if not locks[index].take(wait=False):
                busy.append(index)
                continue
            try:
                finished[index] = grid.finished(cell)
            except UserError as error:
                failed[index] = failure(grid, cell, error)
            else:
                if finished[index] is None:
                    return index
            locks[index].release()
        if not busy:
            return None
        print(f"waiting for another process, which runs {', '.join(cells[index].name for index in busy)}")
        locks[busy[0]].take(wait=True)
        locks[busy[0]].release()
