"""The work of both LSTM run scripts; they differ in their constants and tasks."""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pruner.compress.tokens.schedule import check_rate, make_lstm_pruning
from pruner.data import sample as sample
from pruner.data.cache import Cache, read_cache
from pruner.data.glue import Task
from pruner.data.vocabulary import Vocabulary, read_vectors, read_vocabulary
from pruner.experiments.grid import Cell
from pruner.experiments.grid_run import run_grid
from pruner.experiments.lstm_cells import LstmGrid
from pruner.experiments.settings import check_settings, grid_options, prepared_tasks, start_run, train_settings
from pruner.utils.distributed import from_main
from pruner.utils.errors import SettingError

BATCH_SIZES = {"mrpc": 64}  # published; of all other tasks 256


def check_rates(args: argparse.Namespace) -> list[float]:
    """The target rates; the start of the ramp must not be above any of them."""
    rates = [check_rate(rate, "target_prune_rate") for rate in args.target_prune_rate]
    if args.pruning_rate_start is not None:
        start = check_rate(args.pruning_rate_start, "pruning_rate_start")
        if start > min(rates):
            raise SettingError("pruning_rate_start", f"{start} is above target_prune_rate {min(rates)}; start lower")
    return rates


def run_lstm(args: argparse.Namespace, tasks: Mapping[str, Task], prepare: str, with_own: bool = False) -> None:
    """Train, evaluate, measure and record every cell.

    ``prepare`` is the script that makes the caches of ``tasks``; ``with_own`` adds users' own.
    """
    sizes = ("embedding_size", "hidden_size", "num_layers", "head_size")
    check_settings(args)
    rates = check_rates(args)
    steady = start_run()
    folder = Path(args.cache)
    if args.demo:
        from_main(lambda: sample.make_lstm_demo(folder))
        tasks = {sample.TASK.name: sample.TASK}

    found: list[tuple[Task, Cache, Vocabulary]] = []
    for task in prepared_tasks(args, tasks, prepare, with_own and not args.demo):
        vocabulary = read_vocabulary(folder, task.name, prepare)
        found.append((task, read_cache(folder, task.name, "lstm", vocabulary.fingerprint, prepare), vocabulary))
    vectors = {}
    if args.vectors:
        for task, _, vocabulary in found:
            vectors[task.name] = read_vectors(Path(args.vectors), vocabulary, args.embedding_size)
            print(f"{task.name}: {len(vectors[task.name])} of {vocabulary.size} words have a vector in {args.vectors}")
    grid = LstmGrid(
        train_settings={
            task.name: replace(
                train_settings(args, args.batch_size or BATCH_SIZES.get(task.name, 256)),
                student_learning_rate=args.student_learning_rate,
            )
            for task, *_ in found
        },
        vocabularies={task.name: vocabulary for task, _, vocabulary in found},
        cache_folder=folder,
        sizes={name: getattr(args, name) for name in sizes},
        vectors=vectors,
        vectors_name=Path(args.vectors).name if args.vectors else None,
        rate_start=args.pruning_rate_start,
        **grid_options(args, steady),
    )
    cells: list[tuple[Cell, Cache]] = []
    for task, cache, _ in found:
        for seed in args.seeds:
            prunings = [
                make_lstm_pruning(rate, method, args.count, cache.max_length, seed, args.student_widths)
                for rate in rates
                for method in args.pruning_methods
            ]
            cells += [(Cell(task, pruning, seed), cache) for pruning in (None, *prunings)]
    run_grid(grid, cells)
