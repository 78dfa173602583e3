"""What RunBert4Glue.py makes of its constants: the schedules, given or to be found, and the cells."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pruner.compress.tokens.budget import FAMILIES, fit_schedule
from pruner.compress.tokens.flops import BertShape
from pruner.compress.tokens.schedule import (
    Learned,
    SearchSettings,
    check_schedule,
    layer_methods,
    make_pruning,
)
from pruner.compress.tokens.scores import TEACHERS
from pruner.data import sample as sample
from pruner.data.agnews import BERT_TASKS as TASKS
from pruner.data.cache import Cache, read_cache
from pruner.data.glue import Task
from pruner.data.tokenizer import bert_folder, check_max_length, load_tokenizer
from pruner.experiments.bert_cells import BertGrid, dev_lengths
from pruner.experiments.grid import Cell
from pruner.experiments.grid_run import run_grid
from pruner.experiments.settings import check_settings, grid_options, prepared_tasks, start_run, train_settings
from pruner.models.pretrained import check_bert, weights_fingerprint
from pruner.utils.distributed import from_main
from pruner.utils.errors import SettingError

STARTS = ("pretrained", "finetuned", "sampled")
# What a way to a schedule lets the models start from, the usual first.
POSSIBLE_STARTS = {"learned": ("sampled",), "soft-extract": ("finetuned", "sampled")}


def check_budgets(args: argparse.Namespace) -> list[float]:
    """The budgets, none where the schedule is given; ``args.start`` becomes what they need.

    Raises:
        UserError: budgets that cannot be, or settings that exclude each other.
    """
    budgets = args.target_flops_reduction or []
    if args.search_penalty is not None and not 0 <= args.search_penalty < math.inf:
        raise SettingError("search_penalty", f"{args.search_penalty} is not a positive number")
    if budgets and args.search_penalty is not None:
        raise SettingError("search_penalty", "a budget is given too (target_flops_reduction); use one of them")
    if budgets and max(budgets) > args.search_reach:
        raise SettingError("search_reach", f"{args.search_reach:g} is too small; use the largest budget or more")
    way = "soft-extract" if args.search_penalty is not None else args.budget_schedule if budgets else None
    possible = POSSIBLE_STARTS.get(way, STARTS) if way else STARTS
    args.start = args.start or possible[0]
    if args.start not in possible:
        raise SettingError("start", f"{way} schedules need {possible[0]!r}, not {args.start!r}; leave it out")
    if way:
        args.pruning_methods = _budget_methods(args.pruning_methods)
    if args.start == "sampled":
        for method in args.pruning_methods:
            if "+" in method or method in TEACHERS:
                raise SettingError(
                    "pruning_methods", f"{method!r} cannot be trained with sampled schedules; leave it out"
                )
    return budgets


def _budget_methods(methods: Sequence[str]) -> list[str]:
    """The methods that can meet a budget: one for all layers, and none that needs an unpruned pass."""
    found = []
    for method in methods:
        if "+" in method:
            raise SettingError("pruning_methods", f"{method!r} is for a given schedule; a budget takes single methods")
        if method in TEACHERS:
            print(f"skipped {method}: it needs an unpruned pass of its own, and so meets no budget")
        else:
            found.append(method)
    if not found:
        raise SettingError("pruning_methods", "none of them can meet a budget; use student, attention or random")
    return found


def make_cells(args: argparse.Namespace, budgets: Sequence[float], shape: BertShape, task: Task, cache: Cache) -> list:
    """The cells of a task, each seed's baseline before what is compared with it."""
    widths, layers = args.student_widths, shape.layers
    cells = []
    for seed in args.seeds:
        options = {"count": args.count, "padded_length": cache.max_length, "seed": seed, "student_widths": widths}
        cells.append(Cell(task, None, seed))
        for method in args.pruning_methods:
            if not budgets and args.search_penalty is None:
                schedule = check_schedule(args.pruning_schedule, layers)
                names = layer_methods(method, schedule)
                cells.append(Cell(task, make_pruning(schedule, names, layers, args.teacher, **options), seed))
                continue
            # Some rate in all layers, until the schedule is known.
            pruning = make_pruning([0.5] * layers, method, layers, args.teacher, **options)
            if args.search_penalty is not None:
                search = SearchSettings(None, args.search_penalty, args.soft_extract_learning_rate)
                cells.append(Cell(task, pruning, seed, Learned(method, search)))
            for budget in budgets:
                if args.budget_schedule in FAMILIES:
                    family, lengths = FAMILIES[args.budget_schedule](layers), dev_lengths(task, cache)
                    fitted = fit_schedule(family, budget, lengths, shape, pruning.with_schedule)
                    cells.append(Cell(task, pruning.with_schedule(fitted), seed, target=budget))
                    continue
                search = SearchSettings(args.search_reach, None, args.soft_extract_learning_rate)
                learned = Learned(method, search if args.budget_schedule == "soft-extract" else None)
                cells.append(Cell(task, pruning, seed, learned, budget))
    return cells


def run_bert(args: argparse.Namespace) -> None:
    """Train, evaluate, measure and record every cell."""
    check_settings(args)
    budgets = check_budgets(args)
    steady = start_run()
    known = TASKS
    if args.demo:
        from_main(lambda: sample.make_demo(Path(args.cache)))
        known = {sample.TASK.name: sample.TASK}

    tokenizer_folder = bert_folder(args.bert)
    shape = BertShape.of(check_bert(args.bert, tokenizer_folder))
    tokenizer = load_tokenizer(tokenizer_folder, max_length=128)
    prepare = "PrepareGlue4Bert.py"
    tasks = prepared_tasks(args, known, prepare, with_own=not args.demo)
    grid = BertGrid(
        bert=args.bert,
        weights=weights_fingerprint(args.bert),
        tokenizer=tokenizer,
        tokenizer_folder=tokenizer_folder,
        train_settings=replace(train_settings(args, args.batch_size), student_learning_rate=args.student_learning_rate),
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
