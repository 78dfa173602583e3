"""Checks of what the run scripts' flags say, each by the name of its constant, and what is made of them."""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

import torch
import transformers

from pruner.compress.tokens.schedule import SEED, SIZE
from pruner.data.cache import cache_path
from pruner.data.custom import find_custom_tasks, read_custom_task
from pruner.data.task import Task, find_task
from pruner.evaluation.latency import steady_allocator
from pruner.training.curves import check_tensorboard
from pruner.training.trainer import TrainSettings
from pruner.utils.distributed import join
from pruner.utils.errors import SettingError, UserError
from pruner.utils.files import is_there

# The least and the largest value of whole numbers; bounds of others, which are not among their values.
RANGES: dict[str, tuple[float, float]] = {
    "seeds": SEED,
    **dict.fromkeys(("batch_size", "accumulation_steps", "max_train_rows"), (1, 2**31 - 1)),
    **dict.fromkeys(("latency_repeats", "latency_batch_size"), (1, 2**31 - 1)),
    **dict.fromkeys(("batch_sizes", "repeats"), (1, 100_000)),
    **dict.fromkeys(("student_widths", "embedding_size", "hidden_size", "num_layers", "head_size"), SIZE),
    "epochs": (0.0, 1e6),
    **dict.fromkeys(("learning_rate", "student_learning_rate", "soft_extract_learning_rate", "clip"), (0.0, math.inf)),
    **dict.fromkeys(("target_flops_reduction", "target_speedup", "search_reach", "width_reduction"), (1.0, math.inf)),
    "layers_dropped": (1, 100_000),
    **dict.fromkeys(("ticket_feed_forwards", "layers_trained"), (0, 100_000)),
    "embedding_rank": (1, 100_000),
    "sparsity": (0.0, 1.0),
    "distil_temperature": (0.0, math.inf),
}
NOT_EMPTY = {"seeds", "target_prune_rate", "batch_sizes", "dtypes"}
NOT_EMPTY |= {"ticket_levels", "layers_dropped", "width_reduction", "multi_task_levels"}
NOT_EMPTY |= {"layers_trained", "embedding_rank", "sparsity"}


def check_settings(args: argparse.Namespace) -> None:
    """Check numbers, lists that need an entry, and that TensorBoard is there if it is to be used."""
    if getattr(args, "tensorboard", None):
        check_tensorboard()
    for name, value in vars(args).items():
        if value == [] and name in NOT_EMPTY:
            raise SettingError(name, "the list is empty; give one value or more")
        check_text(name, value)
        for number in value if isinstance(value, list) else [value]:
            if name not in RANGES or number is None:
                continue
            low, high = RANGES[name]
            if isinstance(low, int):
                use = f"a whole number from {low} to {high}"
                fits = isinstance(number, int) and low <= number <= high
            else:
                use = f"a number above {low:g} and below {high:g}"
                fits = isinstance(number, int | float) and low < number < high
            if not fits:
                raise SettingError(name, f"{number!r} is out of range; use {use}")


def check_text(name: str, value: object) -> None:
    """Refuse a name of a file that is no text: records could not name it."""
    try:
        str(value).encode()
    except UnicodeEncodeError:
        raise SettingError(name, f"{value!r} is not UTF-8; give the folder or file another name") from None


def start_run() -> bool:
    """Prepare the machine and the libraries; return whether ``latency.steady_allocator`` is in effect."""
    join()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if torch.cuda.is_available():
        return False
    steady = steady_allocator()
    print(f"no GPU: running on the CPU with {torch.get_num_threads()} threads")
    return steady


def train_settings(args: argparse.Namespace, batch_size: int) -> TrainSettings:
    """Return how the main model is trained, in batches of ``batch_size``."""
    if batch_size % args.accumulation_steps:
        raise SettingError(
            "accumulation_steps",
            f"{args.accumulation_steps} does not divide batch_size {batch_size}; use one that does",
        )
    if args.train_dtype == "bfloat16" and torch.cuda.is_available() and not torch.cuda.is_bf16_supported():
        raise SettingError("train_dtype", "this GPU has no bfloat16; use auto or float32")
    steps = args.accumulation_steps
    return TrainSettings(args.epochs, batch_size, args.learning_rate, args.clip, steps, args.train_dtype)


def prepared_tasks(args: argparse.Namespace, known: Mapping[str, Task], prepare: str, with_custom: bool) -> list[Task]:
    """Return the tasks to run: those that the user named, or else the script's that are prepared; print the others.

    With ``with_custom`` users' tasks are among them, found by their caches. ``prepare`` is the script to run first.
    """
    folder, tasks, named = Path(args.cache), [], "tasks" in args.given
    custom = find_custom_tasks(folder) if with_custom else {}
    more = (*custom, f"or prepare your own with {prepare} --table") if with_custom else ()
    for name in args.tasks if named else (*args.tasks, *custom):
        path = custom.get(name.lower())
        task = read_custom_task(path, prepare) if path else find_task(name, known, more)
        if named or is_there(cache_path(folder, task.name)):
            tasks.append(task)
        else:
            print(f"skipped {task.name}: not prepared ({cache_path(folder, task.name)})")
    if not tasks:
        raise UserError(f"{folder}: no prepared tasks; run {prepare} first, or try --demo")
    return tasks
