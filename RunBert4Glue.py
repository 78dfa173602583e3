"""Fine-tune a BERT on GLUE while pruning tokens, evaluate it on dev, and write records/BERT/."""

import argparse
import sys
from pathlib import Path

import torch
import transformers

from pruner import demo as sample
from pruner.bert_cells import BertGrid, check_bert, weights_fingerprint
from pruner.cache import Cache, cache_path, read_cache
from pruner.errors import Parser, UserError, comma_list, run_script
from pruner.glue import TASKS, Task, find_task
from pruner.grid import Cell, run_grid
from pruner.measure import steady_allocator
from pruner.schedule import METHODS, Pruning, check_schedule, layer_methods, make_pruning
from pruner.tokenizer import bert_folder, check_max_length, load_tokenizer
from pruner.train import TrainSettings

task_names = list(TASKS)  # which tasks; those that are not prepared are skipped and named
pruning_methods = ["student", "emission", "gradient", "random", "head", "tail", "frequency"]  # one after the other
pruning_schedule = [0.6] + [0.0] * 11  # one rate per layer: the share of real tokens dropped before it (published)
teacher = "emission"  # whom students imitate: emission or gradient
count = "real"  # what a rate counts: real tokens, or "padded", the published code's counting
seeds = [1]  # one fine-tuning per task, method and seed
epochs = 3.0  # passes over the training set (published: 3)
batch_size = 32  # sentences per optimizer step (published: 32)
accumulation_steps = 1  # parts that a step is computed in, where memory is short
learning_rate = 2e-5  # of BERT, decaying linearly to 0 (published: 2e-5)
student_learning_rate = 1e-3  # of the students (published: 1e-3)
clip = 1.0  # largest gradient norm (published: 1.0)
max_train_rows = None  # train on a random subset of that many rows; None: all
latency_repeats = 5  # interleaved timings of baseline and pruned model; the median counts
bert = "bert"  # the pre-trained model: a folder, or a model of the hub
cache_folder = "cache/bert"  # what PrepareGlue4Bert.py wrote
records_folder = "records/BERT"  # where the records go
models_folder = None  # where to keep the fine-tuned models, one folder per record; None: they are not kept
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
    add = parser.add_argument
    add("--demo", action="store_true", help="run on a built-in sample task, about two minutes on two CPU cores")
    add("--tasks", type=comma_list, help=f"of {', '.join(TASKS)} (default: all that are prepared)")
    add("--methods", type=comma_list, default=pruning_methods, help=f"of {', '.join(METHODS)}; or a+b for two layers")
    add("--schedule", type=comma_list, default=pruning_schedule, help="one rate per layer, as 0.6,0,0,0,0,0")
    add("--teacher", default=teacher, help="whom students imitate: emission or gradient")
    add("--count", default=count, help="what a rate counts: real tokens or padded, the published counting")
    add("--seeds", type=comma_list, default=seeds, help="one fine-tuning per task, method and seed")
    add("--epochs", type=float, default=epochs, help="passes over the training set")
    add("--batch-size", type=int, default=batch_size, help="sentences per optimizer step")
    add("--accumulation-steps", type=int, default=accumulation_steps, help="parts that a step is computed in")
    add("--learning-rate", type=float, default=learning_rate, help="of BERT, decaying linearly to 0")
    add("--student-learning-rate", type=float, default=student_learning_rate, help="of the students")
    add("--clip", type=float, default=clip, help="largest gradient norm")
    add("--max-train-rows", type=int, default=max_train_rows, help="train on a random subset of that many rows")
    add("--latency-repeats", type=int, default=latency_repeats, help="interleaved timings of baseline and pruned model")
    add("--bert", default=bert, help="the pre-trained model: a folder or a model of the hub")
    add("--cache", default=cache_folder, help="what PrepareGlue4Bert.py wrote")
    add("--records", default=records_folder, help="where the records go")
    add("--save-models", default=models_folder, help="where to keep the fine-tuned models")
    add("--force", action="store_true", default=force, help="run finished cells again, replace their records")
    args = parser.parse_args(arguments)
    if args.demo:
        parser.set_defaults(**demo_settings)
        args = parser.parse_args(arguments)
    return args


def check_numbers(args: argparse.Namespace) -> list[int]:
    """Complain about settings that cannot be; return the seeds as numbers."""
    at_least = {"batch_size": 1, "accumulation_steps": 1, "latency_repeats": 1, "max_train_rows": 1}
    for name, least in at_least.items():
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"{name}: {value} is too small; use {least} or more")
    for name in ("epochs", "learning_rate", "student_learning_rate", "clip"):
        if not getattr(args, name) > 0:
            raise UserError(f"{name}: {getattr(args, name)} is not a positive number")
    if args.batch_size % args.accumulation_steps:
        raise UserError(f"accumulation_steps: {args.accumulation_steps} does not divide batch_size {args.batch_size}")
    try:
        return [int(seed) for seed in args.seeds]
    except ValueError:
        raise UserError(f"seeds: {args.seeds} are not whole numbers") from None


def make_prunings(args: argparse.Namespace, layers: int, hidden: int, padded_length: int, seed: int) -> list[Pruning]:
    """One checked pruning per method."""
    schedule = check_schedule(args.schedule, layers)
    options = {"count": args.count, "padded_length": padded_length, "seed": seed, "student_widths": (hidden, hidden)}
    return [
        make_pruning(schedule, layer_methods(method, schedule), layers, args.teacher, **options)
        for method in args.methods
    ]


def find_caches(args: argparse.Namespace, fingerprint: str) -> list[tuple[Task, Cache]]:
    """The prepared tasks. One that was named must be there; of the default list, absent ones are skipped and named."""
    folder = Path(args.cache)
    found = []
    for name in args.tasks or task_names:
        task = sample.TASK if args.demo and name == "demo" else find_task(name)
        if args.tasks or cache_path(folder, task.name).is_file():
            found.append((task, read_cache(folder, task.name, "bert", fingerprint, "PrepareGlue4Bert.py")))
        else:
            print(f"skipped {task.name}: not prepared ({cache_path(folder, task.name)})")
    if not found:
        raise UserError(f"{folder}: no prepared tasks; run PrepareGlue4Bert.py first, or try --demo")
    return found


def main() -> None:
    args = parse_arguments(sys.argv[1:])
    seed_numbers = check_numbers(args)
    steady = False
    if not torch.cuda.is_available():
        steady = steady_allocator()
        print(f"no GPU: running on the CPU with {torch.get_num_threads()} threads")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if args.demo:
        sample.make_demo(Path(args.cache))

    tokenizer_folder = bert_folder(args.bert)
    config = check_bert(args.bert, tokenizer_folder)
    layers, hidden = config["num_hidden_layers"], config["hidden_size"]
    tokenizer = load_tokenizer(tokenizer_folder, max_length=128)
    tasks = find_caches(args, tokenizer.fingerprint)
    grid = BertGrid(
        bert=args.bert,
        weights=weights_fingerprint(args.bert),
        tokenizer=tokenizer,
        tokenizer_folder=tokenizer_folder,
        train_settings=TrainSettings(
            args.epochs,
            args.batch_size,
            args.learning_rate,
            args.student_learning_rate,
            args.clip,
            args.accumulation_steps,
        ),
        max_train_rows=args.max_train_rows,
        latency_repeats=args.latency_repeats,
        records=Path(args.records),
        models=Path(args.save_models) if args.save_models else None,
        force=args.force,
        steady=steady,
    )

    cells: list[tuple[Cell, Cache]] = []
    for task, cache in tasks:
        check_max_length(tokenizer_folder, cache.max_length)
        for seed in seed_numbers:
            prunings = make_prunings(args, layers, hidden, cache.max_length, seed)
            cells += [(Cell(task, pruning, seed), cache) for pruning in (None, *prunings)]
    run_grid(grid, cells)


if __name__ == "__main__":
    run_script(main)
