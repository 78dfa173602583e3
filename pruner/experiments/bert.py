"""What RunBert4Glue.py does with its constants."""

from argparse import Namespace
from pathlib import Path

from pruner.compress.joint.chosen import check_speedups
from pruner.compress.structure.families import check_structure
from pruner.compress.tokens.families import check_budgets
from pruner.data import sample
from pruner.data.cache import read_cache
from pruner.data.task import TASKS
from pruner.data.tokenizer import bert_folder, check_max_length, check_pairs, load_tokenizer
from pruner.experiments.run_grid import Prepared, run_tasks
from pruner.experiments.settings import check_settings, prepared_tasks, start_run, train_settings
from pruner.models.backbone import BertBackbone
from pruner.models.pretrained import check_bert, weights_fingerprint
from pruner.utils.distributed import from_main

PREPARE = "PrepareGlue4Bert.py"


def run_bert(options: Namespace) -> None:
    """Train, evaluate, measure and record every cell, or show them (``dry_run``)."""
    check_settings(options)
    check_budgets(options)
    check_speedups(options)
    check_structure(options)
    steady = start_run()
    cache_folder = Path(options.cache)
    if options.demo:
        from_main(lambda: sample.make_demo(cache_folder))
        if "bert" not in options.given:
            options.bert = (cache_folder / sample.BERT).as_posix()  # where it is, whatever --cache says
    folder = bert_folder(options.bert)
    config, tokenizer = check_bert(options.bert, folder), load_tokenizer(folder, max_length=128)
    backbone = BertBackbone(options.bert, weights_fingerprint(options.bert), config, tokenizer)
    prepared: Prepared = []
    for task in prepared_tasks(options, TASKS, PREPARE, with_custom=not options.demo):
        cache = read_cache(cache_folder, task.name, "bert", tokenizer.fingerprint, PREPARE)
        check_max_length(folder, cache.max_length)
        check_pairs(folder, tokenizer, task)
        prepared.append((task, cache, train_settings(options, options.batch_size)))
    run_tasks(options, backbone, prepared, steady)
