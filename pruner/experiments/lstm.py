"""What both LSTM run scripts do with their constants."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from pruner.compress.tokens.families import check_rates
from pruner.data import sample
from pruner.data.cache import read_cache
from pruner.data.task import TASKS
from pruner.data.vocabulary import read_vectors, read_vocabulary
from pruner.experiments.run_grid import Prepared, run_tasks
from pruner.experiments.settings import check_settings, prepared_tasks, start_run, train_settings
from pruner.models.backbone import LstmBackbone
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
    sizes, vectors_name = (
        {name: getattr(options, name) for name in SIZES},
        options.vectors and Path(options.vectors).name,
    )
    backbone = LstmBackbone(folder, vocabularies, sizes, vectors, vectors_name)
    prepared: Prepared = []
    for task in tasks:
        cache = read_cache(folder, task.name, "lstm", vocabularies[task.name].fingerprint, prepare)
        batch_size = options.batch_size or BATCH_SIZES.get(task.name, 256)
        prepared.append((task, cache, train_settings(options, batch_size)))
    run_tasks(options, backbone, prepared, steady)
