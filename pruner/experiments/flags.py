"""The flags that all run scripts share, each named after the constant that it overrides, and what is made of them."""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from pruner.data.cache import cache_path
from pruner.data.custom import find_custom_tasks, read_custom_task
from pruner.data.task import Task, find_task
from pruner.evaluation.latency import steady_allocator
from pruner.report.records import Log
from pruner.training.curves import check_tensorboard
from pruner.training.trainer import TrainSettings
from pruner.utils.distributed import join
from pruner.utils.errors import Parser, UserError, comma_list

LARGEST_SIZE = 10_000  # of a width, and of the number of layers: beyond lies a slip, not a model


def common_flags(parser: Parser, constants: Mapping[str, Any], tasks: str, methods: str, model: str) -> None:
    """Add them; ``constants`` are the script's, ``tasks`` and ``methods`` list what there is, ``model`` is its name."""
    add = parser.add_argument
    add("--demo", action="store_true", help="run on a built-in sample task, a few minutes on two CPU cores")
    add("--tasks", type=comma_list, help=f"of {tasks} (default: what is prepared)")
    add("--methods", type=comma_list, default=constants["pruning_methods"], help=f"of {methods}")
    add("--count", default=constants["count"], help="what a rate counts: real tokens or padded, the published counting")
    add("--seeds", type=comma_list, default=constants["seeds"], help="one training per task, method and seed")
    add("--epochs", type=float, default=constants["epochs"], help="passes over the training set")
    add("--batch-size", type=int, default=constants["batch_size"], help="sentences per optimizer step")
    add(
        "--accumulation-steps",
        type=int,
        default=constants["accumulation_steps"],
        help="parts that a step is computed in",
    )
    add("--learning-rate", type=float, default=constants["learning_rate"], help=f"of the {model}")
    add("--student-learning-rate", type=float, default=constants["student_learning_rate"], help="of the students")
    add("--student-widths", type=comma_list, default=constants["student_widths"], help="hidden widths of their MLPs")
    add("--clip", type=float, default=constants["clip"], help="largest gradient norm")
    add("--max-train-rows", type=int, default=constants["max_train_rows"], help="train on a random subset of that size")
    add("--latency-repeats", type=int, default=constants["latency_repeats"], help="interleaved timings of both models")
    add("--train-dtype", default=constants["train_dtype"], help="of mixed precision: auto, float32 or bfloat16")
    add("--cache", default=constants["cache_folder"], help="what the prepare script wrote")
    add("--records", default=constants["records_folder"], help="where the records go")
    add("--save-models", default=constants["models_folder"], help="where to keep the trained models")
    add("--tensorboard", default=constants["tensorboard_folder"], help="where to write TensorBoard's curves")
    add(
        "--discard-models",
        action="store_true",
        default=constants["discard_models"],
        help="do not keep the trained models",
    )
    add(
        "--predict-test",
        action="store_true",
        default=constants["predict_test"],
        help="write the test sets' predictions for the GLUE server",
    )
    add(
        "--force",
        action="store_true",
        default=constants["force"],
        help="run finished cells again",
    )


def parse(parser: Parser, arguments: list[str], demo_settings: dict) -> argparse.Namespace:
    """What was asked for; with ``--demo`` its settings are the defaults."""
    args = parser.parse_args(arguments)
    if args.demo:
        parser.set_defaults(**demo_settings)
        args = parser.parse_args(arguments)
    return args


def check_numbers(args: argparse.Namespace, *more: str) -> list[int]:
    """Complain about settings that cannot be, ``more`` names of those of 1 or more included; the seeds as numbers."""
    for name in ("batch_size", "accumulation_steps", "latency_repeats", "max_train_rows", *more):
        value = getattr(args, name)
        if value is not None and not 1 <= value < 2**31:
            raise UserError(f"{name}: {value} is too {'small' if value < 1 else 'large'}; use 1 or more")
    for name in ("epochs", "learning_rate", "student_learning_rate", "clip"):
        value = getattr(args, name)
        if value is not None and not 0 < value < (1e6 if name == "epochs" else math.inf):
            raise UserError(f"{name}: {value} is not a positive number, or has no end")
    try:
        seeds = [int(seed) for seed in args.seeds]
    except ValueError:
        seeds = []
    if not seeds or not 0 <= min(seeds) <= max(seeds) < 2**32:
        raise UserError(f"seeds: {args.seeds} are not whole numbers from 0 to 4294967295; use for example 1,2,3")
    return seeds


def check_widths(widths: Sequence[str | int]) -> tuple[int, ...]:
    """Hidden widths of a student, none for a linear one."""
    try:
        found = tuple(int(width) for width in widths)
    except ValueError:
        found = (0,)
    if not 1 <= min(found, default=1) <= max(found, default=1) <= LARGEST_SIZE:
        raise UserError(f"student_widths: {widths} are not whole numbers from 1 to {LARGEST_SIZE}; use for example 64")
    return found


def start_run() -> bool:
    """Make the machine and the libraries ready; says whether ``latency.steady_allocator`` did its part."""
    join()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if torch.cuda.is_available():
        return False
    steady = steady_allocator()
    print(f"no GPU: running on the CPU with {torch.get_num_threads()} threads")
    return steady


def grid_options(args: argparse.Namespace, steady: bool) -> dict[str, Any]:
    """What every ``grid.Grid`` takes; ``steady`` is what ``start_run`` said."""
    if args.tensorboard:
        check_tensorboard()
    return {
        "max_train_rows": args.max_train_rows,
        "student_learning_rate": args.student_learning_rate,
        "latency_repeats": args.latency_repeats,
        "records": Path(args.records),
        "models": Path(args.save_models) if args.save_models else None,
        "discard_models": args.discard_models,
        "tensorboard": Path(args.tensorboard) if args.tensorboard else None,
        "steps": Path(args.cache) / "steps",
        "predict_test": args.predict_test,
        "force": args.force,
        "steady": steady,
        "log": Log(),
    }


def train_settings(args: argparse.Namespace, batch_size: int) -> TrainSettings:
    """What the flags say of training, in batches of ``batch_size``."""
    if batch_size % args.accumulation_steps:
        raise UserError(f"accumulation_steps: {args.accumulation_steps} does not divide batch_size {batch_size}")
    if args.train_dtype not in ("auto", "float32", "bfloat16"):
        raise UserError(f"train_dtype: {args.train_dtype!r} is not one of auto, float32, bfloat16")
    if args.train_dtype == "bfloat16" and torch.cuda.is_available() and not torch.cuda.is_bf16_supported():
        raise UserError("train_dtype: this GPU has no bfloat16; use auto or float32")
    return TrainSettings(
        args.epochs,
        batch_size,
        args.learning_rate,
        args.clip,
        args.accumulation_steps,
        args.train_dtype,
    )


def prepared_tasks(
    args: argparse.Namespace, tasks: Mapping[str, Task], default: Sequence[str], prepare: str, with_own: bool
) -> list[Task]:
    """The tasks to run: those asked for, or of the ``default`` names those that are prepared; others are named.

    ``with_own``: users' own tasks are among them, which are found by their caches.

    Raises:
        UserError: an unknown task was asked for, or nothing is prepared; ``prepare`` is the script to run first.
    """
    folder, found = Path(args.cache), []
    own = find_custom_tasks(folder) if with_own else {}
    more = (*own, f"or prepare your own with {prepare} --tsv") if with_own else ()
    for name in args.tasks or (*default, *own):
        path = own.get(name.lower())
        task = read_custom_task(path, prepare) if path else find_task(name, tasks, more)
        if args.tasks or cache_path(folder, task.name).is_file():
            found.append(task)
        else:
            print(f"skipped {task.name}: not prepared ({cache_path(folder, task.name)})")
    if not found:
        raise UserError(f"{folder}: no prepared tasks; run {prepare} first, or try --demo")
    return found
