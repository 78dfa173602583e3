"""What RunBert4Glue.py does with its constants."""

from argparse import Namespace
from pathlib import Path

from pruner.compress.tokens.families import check_budgets
from pruner.data import sample
from pruner.data.cache import read_cache
from pruner.data.task import TASKS
from pruner.data.tokenizer import bert_folder, check_max_length, load_tokenizer
from pruner.experiments.cell import Cell, make_cells
from pruner.experiments.plan import print_plan
from pruner.experiments.run_grid import run_grid
from pruner.experiments.settings import check_settings, make_grid, prepared_tasks, start_run, train_settings
from pruner.models.backbone import BertBackbone
from pruner.models.pretrained import check_bert, weights_fingerprint
from pruner.training.context import Context
from pruner.utils.distributed import from_main

PREPARE = "PrepareGlue4Bert.py"


def run_bert(options: Namespace) -> None:
    """Train, evaluate, measure and record every cell, or show them (``dry_run``)."""
    check_settings(options)
    check_budgets(options)
    steady = start_run()
    if options.demo:
        from_main(lambda: sample.make_demo(Path(options.cache)))
    folder = bert_folder(options.bert)
    backbone = BertBackbone(
        bert=options.bert,
        weights=weights_fingerprint(options.bert),
        config=check_bert(options.bert, folder),
        tokenizer=load_tokenizer(folder, max_length=128),
        tokenizer_folder=folder,
    )
    cells: list[Cell] = []
    for task in prepared_tasks(options, TASKS, PREPARE, with_custom=not options.demo):
        cache = read_cache(Path(options.cache), task.name, "bert", backbone.tokenizer.fingerprint, PREPARE)
        check_max_length(folder, cache.max_length)
        settings = train_settings(options, options.batch_size)
        for seed in options.seeds:
            context = Context(task, cache, seed, backbone, settings, options.max_train_rows)
            cells += make_cells(context, options.pruning_methods, options)
    (print_plan if options.dry_run else run_grid)(make_grid(options, steady), cells)
