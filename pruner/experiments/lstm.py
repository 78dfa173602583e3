"""What both LSTM run scripts do with their constants."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from pruner.compress.tokens.families import check_rates
from pruner.data import sample
from pruner.data.cache import read_cache
from pruner.data.task import TASKS
from pruner.data.vocabulary import read_vectors, read_vocabulary
from pruner.experiments.cell import Cell, make_cells
from pruner.experiments.plan import print_plan
from pruner.experiments.run_grid import run_grid
from pruner.experiments.settings import check_settings, make_grid, prepared_tasks, start_run, train_settings
from pruner.models.backbone import LstmBackbone
from pruner.training.context import Context
from pruner.utils.distributed import from_main

SIZES = ("embedding_size", "hidden_size", "num_layers", "head_size")
BATCH_SIZES = {"mrpc": 64}  # published; of all other tasks 256


def run_lstm(options: Namespace, prepare: str, only: Sequence[str] | None = None) -> None:
    """Train, evaluate, measure and record every cell, or show them (``dry_run``).

    ``prepare`` is the script that makes the caches; ``only`` are the tasks that can be run, if not all and users'.
    """
    check_settings(options)
    check_rates(options)
    steady = start_run()
    folder = Path(options.cache)
    if options.demo:
        from_main(lambda: sample.make_lstm_demo(folder))
    known = {name: task for name, task in TASKS.items() if task.labels and (options.demo or name in (only or TASKS))}
    tasks = prepared_tasks(options, known, prepare, with_custom=only is None and not options.demo)
    vocabularies = {task.name: read_vocabulary(folder, task.name, prepare) for task in tasks}
    vectors = {}
    for name, vocabulary in vocabularies.items() if options.vectors else ():
        vectors[name] = read_vectors(Path(options.vectors), vocabulary, options.embedding_size)
        print(f"{name}: {len(vectors[name])} of {vocabulary.size} words have a vector in {options.vectors}")
    backbone = LstmBackbone(
        cache=folder,
        vocabularies=vocabularies,
        sizes={name: getattr(options, name) for name in SIZES},
        vectors=vectors,
        vectors_name=Path(options.vectors).name if options.vectors else None,
    )
    cells: list[Cell] = []
    for task in tasks:
        cache = read_cache(folder, task.name, "lstm", vocabularies[task.name].fingerprint, prepare)
        settings = train_settings(options, options.batch_size or BATCH_SIZES.get(task.name, 256))
        for seed in options.seeds:
            context = Context(task, cache, seed, backbone, settings, options.max_train_rows)
            cells += make_cells(context, options.pruning_methods, options)
    (print_plan if options.dry_run else run_grid)(make_grid(options, steady), cells)
