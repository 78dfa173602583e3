"""Fine-tune a BERT on GLUE or AG News while pruning tokens, evaluate it on dev, and write records/BERT/."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from transformers import BertConfig

from pruner import demo as sample
from pruner.agnews import BERT_TASKS as TASKS
from pruner.bert_cells import BertGrid
from pruner.bert_run import check_budgets, make_cells
from pruner.bert_weights import check_bert, weights_fingerprint
from pruner.cache import Cache, read_cache
from pruner.errors import Parser, comma_list, run_script
from pruner.flags import (
    check_numbers,
    common_flags,
    grid_options,
    parse,
    prepared_tasks,
    start_run,
    train_settings,
)
from pruner.flops import BertShape
from pruner.grid import Cell
from pruner.grid_run import run_grid
from pruner.schedule import METHODS
from pruner.tokenizer import bert_folder, check_max_length, load_tokenizer

task_names = list(TASKS)  # which tasks; those that are not prepared are skipped and named
pruning_methods = ["student", "attention", "emission", "gradient", "random", "head", "tail", "frequency"]  # in turn
pruning_schedule = [0.6] + [0.0] * 11  # one rate per layer: the share of real tokens dropped before it (published)
target_flops_reduction = None  # in its place a budget, as 2.0, or several: the schedule is made to meet it
budget_schedule = "learned"  # how: learned, uniform (rates), first (layer alone), or soft-extract, PoWER-BERT's search
search_penalty = None  # or a schedule by PoWER-BERT's search and its lambda, without a budget (published: 1e-4 to 7e-3)
search_reach = 4.0  # the largest budget that a search or a training with sampled schedules serves
soft_extract_learning_rate = 3e-3  # of PoWER-BERT's search (published: 1e-4 to 1e-2)
start = None  # pretrained (published), finetuned: the baseline trained again, sampled: so with sampled schedules, once
teacher = "emission"  # whom students imitate: emission or gradient
count = "real"  # what a rate counts: real tokens, or "padded", the published code's counting
seeds = [1]  # one fine-tuning per task, method and seed
epochs = 3.0  # passes over the training set (published: 3)
batch_size = 32  # sentences per optimizer step (published: 32)
accumulation_steps = 1  # parts that a step is computed in, where memory is short
learning_rate = 2e-5  # of BERT, decaying linearly to 0 (published: 2e-5)
student_learning_rate = 1e-3  # of the students (published: 1e-3)
student_widths = [64, 64]  # hidden widths of their MLPs (published: twice that of the model); an empty list: linear
clip = 1.0  # largest gradient norm (published: 1.0)
train_dtype = "auto"  # of mixed precision; auto: what a GPU does best, float32 on a CPU; or float32, bfloat16
max_train_rows = None  # train on a random subset of that many rows; None: all
latency_repeats = 5  # interleaved timings of baseline and pruned model; the median counts
bert = "bert"  # the pre-trained model: a folder, or a model of the hub
cache_folder = "cache/bert"  # what PrepareGlue4Bert.py wrote
records_folder = "records/BERT"  # where the records go
models_folder = None  # where to keep the fine-tuned models, one folder per record; None: they are not kept
predict_test = False  # write the test sets' predictions beside the records, as the GLUE server takes them
force = False  # run finished cells again and replace their records

# --demo: the same code on a built-in task, with settings for a small BERT that starts from scratch.
demo_settings = {
    "tasks": ["demo"],
    "bert": "cache/demo/bert",
    "cache": "cache/demo",
    "schedule": [0.8] + [0.0] * (sample.LAYERS - 1),
    "learning_rate": 1e-3,
}


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(__doc__)
    common_flags(parser, globals(), ", ".join(TASKS), f"{', '.join(METHODS)}; or a+b for two layers", "BERT")
    add = parser.add_argument
    add("--schedule", type=comma_list, default=pruning_schedule, help="one rate per layer, as 0.6,0,0,0,0,0")
    add(
        "--target-flops-reduction",
        type=comma_list,
        default=target_flops_reduction,
        help="a budget in place of the schedule, as 2.0, or several",
    )
    add("--budget-schedule", default=budget_schedule, help="how a budget is met: learned, soft-extract, uniform, first")
    add("--search-penalty", type=float, default=search_penalty, help="PoWER-BERT's lambda, in place of a budget")
    add("--search-reach", type=float, default=search_reach, help="the largest budget that a search serves")
    add(
        "--soft-extract-learning-rate",
        type=float,
        default=soft_extract_learning_rate,
        help="of PoWER-BERT's search",
    )
    add("--start", default=start, help="of pruned models: pretrained, finetuned or sampled")
    add("--teacher", default=teacher, help="whom students imitate: emission or gradient")
    add("--bert", default=bert, help="the pre-trained model: a folder or a model of the hub")
    return parse(parser, arguments, demo_settings)


def main() -> None:
    args = parse_arguments(sys.argv[1:])
    args.seeds, budgets = check_numbers(args), check_budgets(args)
    steady = start_run()
    known = TASKS
    if args.demo:
        sample.make_demo(Path(args.cache))
        known = {sample.TASK.name: sample.TASK}

    tokenizer_folder = bert_folder(args.bert)
    shape = BertShape.of(BertConfig(**check_bert(args.bert, tokenizer_folder)))
    tokenizer = load_tokenizer(tokenizer_folder, max_length=128)
    prepare = "PrepareGlue4Bert.py"
    tasks = prepared_tasks(args, known, task_names, prepare)
    grid = BertGrid(
        bert=args.bert,
        weights=weights_fingerprint(args.bert),
        tokenizer=tokenizer,
        tokenizer_folder=tokenizer_folder,
        train_settings=train_settings(args, args.batch_size),
        start=args.start,
        reach=args.search_reach,
        shape=shape,
        **grid_options(args, steady),
    )

    cells: list[tuple[Cell, Cache]] = []
    for task in tasks:
        cache = read_cache(Path(args.cache), task.name, "bert", tokenizer.fingerprint, prepare)
        check_max_length(tokenizer_folder, cache.max_length)
        task_shape = replace(shape, labels=task.num_labels)
        cells += [(cell, cache) for cell in make_cells(args, budgets, task_shape, task, cache)]
    run_grid(grid, cells)


if __name__ == "__main__":
    run_script(main)
