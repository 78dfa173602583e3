"""The work of both LSTM run scripts; they differ in their constants and tasks."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pruner.compress.tokens.schedule import check_rate, make_pruning
from pruner.compress.tokens.scores import scorer_names
from pruner.data import sample as sample
from pruner.data.cache import Cache, read_cache
from pruner.data.glue import Task
from pruner.data.vocabulary import Vocabulary, read_vectors, read_vocabulary
from pruner.experiments.flags import (
    LARGEST_SIZE,
    check_numbers,
    check_widths,
    common_flags,
    grid_options,
    parse,
    prepared_tasks,
    start_run,
    train_settings,
)
from pruner.experiments.grid import Cell
from pruner.experiments.grid_run import run_grid
from pruner.experiments.lstm_cells import LstmGrid
from pruner.utils.distributed import from_main
from pruner.utils.errors import Parser, UserError, comma_list

BATCH_SIZES = {"mrpc": 64}  # published; of all other tasks 256

# --demo: the same code on a built-in task, in smaller batches and more epochs since there is less of it.
demo_settings = {"tasks": ["demo"], "cache": "cache/demo-lstm", "batch_size": 32, "epochs": 6.0}


def parse_arguments(
    description: str | None, constants: Mapping[str, Any], tasks: Sequence[str], arguments: list[str]
) -> argparse.Namespace:
    parser = Parser(description)
    common_flags(parser, constants, ", ".join(tasks), ", ".join(scorer_names("lstm")), "LSTM")
    add = parser.add_argument
    add("--target-prune-rate", type=comma_list, default=constants["target_prune_rate"], help="or several, as 0.5,0.9")
    add("--pruning-rate-start", type=float, default=constants["pruning_rate_start"], help="the rate's in training")
    add("--embedding-size", type=int, default=constants["embedding_size"], help="width of the words' vectors")
    add("--hidden-size", type=int, default=constants["hidden_size"], help="width of the LSTM's state")
    add("--num-layers", type=int, default=constants["num_layers"], help="LSTMs on top of each other")
    add("--head-size", type=int, default=constants["head_size"], help="hidden width of the classifier")
    add("--vectors", default=constants["vectors"], help="a file of pretrained vectors in GloVe's text format")
    return parse(parser, arguments, demo_settings)


def check_rates(args: argparse.Namespace) -> list[float]:
    """The target rates; the start of the ramp must not be above any of them."""
    given = args.target_prune_rate
    rates = [check_rate(rate, "target_prune_rate") for rate in (given if isinstance(given, list) else [given])]
    if 0 in rates:
        raise UserError("target_prune_rate: a rate of 0 is the baseline, which runs anyway; leave it out")
    if not rates:
        raise UserError("target_prune_rate: no rate is given; use for example 0.9")
    if args.pruning_rate_start is not None:
        start = check_rate(args.pruning_rate_start, "pruning_rate_start")
        if start > min(rates):
            raise UserError(f"pruning_rate_start: {start} is above target_prune_rate {min(rates)}; start lower")
    return rates


def run_lstm(
    args: argparse.Namespace, tasks: Mapping[str, Task], default: Sequence[str], prepare: str, with_own: bool = False
) -> None:
    """Train, evaluate, measure and record every cell.

    ``prepare`` is the script that makes the caches of ``tasks``; ``default`` are the names of those to run, and
    ``with_own`` adds users' own.
    """
    sizes = ("embedding_size", "hidden_size", "num_layers", "head_size")
    seeds, rates, widths = check_numbers(args, *sizes), check_rates(args), check_widths(args.student_widths)
    for name in sizes:
        if getattr(args, name) > LARGEST_SIZE:
            raise UserError(f"{name}: {getattr(args, name)} is too large; use {LARGEST_SIZE} or less")
    steady = start_run()
    folder = Path(args.cache)
    if args.demo:
        from_main(lambda: sample.make_lstm_demo(folder))
        tasks = {sample.TASK.name: sample.TASK}

    found: list[tuple[Task, Cache, Vocabulary]] = []
    for task in prepared_tasks(args, tasks, default, prepare, with_own and not args.demo):
        vocabulary = read_vocabulary(folder, task.name, prepare)
        found.append((task, read_cache(folder, task.name, "lstm", vocabulary.fingerprint, prepare), vocabulary))
    vectors = {}
    if args.vectors:
        for task, _, vocabulary in found:
            vectors[task.name] = read_vectors(Path(args.vectors), vocabulary, args.embedding_size)
            print(f"{task.name}: {len(vectors[task.name])} of {vocabulary.size} words have a vector in {args.vectors}")
    grid = LstmGrid(
        train_settings={
            task.name: train_settings(args, args.batch_size or BATCH_SIZES.get(task.name, 256)) for task, *_ in found
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
        for seed in seeds:
            prunings = [
                make_pruning(rate, method, 1, None, args.count, cache.max_length, seed, widths, "lstm")
                for rate in rates
                for method in args.methods
            ]
            cells += [(Cell(task, pruning, seed), cache) for pruning in (None, *prunings)]
    run_grid(grid, cells)
