"""What RunBert4Glue.py makes of its constants: the schedules, given or to be found, and the cells."""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pruner.compress.tokens.budget import FAMILIES, fit_schedule
from pruner.compress.tokens.schedule import (
    Learned,
    SearchSettings,
    make_pruning,
)
from pruner.compress.tokens.scores import SCORERS, scorer_names
from pruner.data import sample as sample
from pruner.data.agnews import BERT_TASKS as TASKS
from pruner.data.cache import Cache, read_cache
from pruner.data.glue import Task
from pruner.data.tokenizer import bert_folder, check_max_length, load_tokenizer
from pruner.experiments.bert_cells import BertGrid, dev_lengths
from pruner.experiments.flags import (
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
from pruner.models.flops import BertShape
from pruner.models.pretrained import check_bert, weights_fingerprint
from pruner.utils.distributed import from_main
from pruner.utils.errors import Parser, UserError, comma_list

STARTS = ("pretrained", "finetuned", "sampled")
# What a way to a schedule lets the models start from, the usual first.
POSSIBLE_STARTS = {"learned": ("sampled",), "soft-extract": ("finetuned", "sampled")}

# --demo: the same code on a built-in task, with settings for a small BERT that starts from scratch.
demo_settings = {
    "tasks": ["demo"],
    "bert": "cache/demo/bert",
    "cache": "cache/demo",
    "schedule": [0.8] + [0.0] * (sample.LAYERS - 1),
    "learning_rate": 1e-3,
}


def parse_arguments(description: str | None, constants: Mapping[str, Any], arguments: list[str]) -> argparse.Namespace:
    parser = Parser(description)
    common_flags(
        parser,
        constants,
        ", ".join((*TASKS, "or your own")),
        f"{', '.join(scorer_names('bert'))}; or a+b for two layers",
        "BERT",
    )
    add = parser.add_argument
    add(
        "--schedule",
        type=comma_list,
        default=constants["pruning_schedule"],
        help="one rate per layer, as 0.6,0,0,0,0,0",
    )
    add(
        "--target-flops-reduction",
        type=comma_list,
        default=constants["target_flops_reduction"],
        help="a budget in place of the schedule, as 2.0, or several",
    )
    add(
        "--budget-schedule",
        default=constants["budget_schedule"],
        help="how a budget is met: learned, soft-extract, uniform, first",
    )
    add(
        "--search-penalty",
        type=float,
        default=constants["search_penalty"],
        help="PoWER-BERT's lambda, in place of a budget",
    )
    add("--search-reach", type=float, default=constants["search_reach"], help="the largest budget that a search serves")
    add(
        "--soft-extract-learning-rate",
        type=float,
        default=constants["soft_extract_learning_rate"],
        help="of PoWER-BERT's search",
    )
    add("--start", default=constants["start"], help="of pruned models: pretrained, finetuned or sampled")
    add("--teacher", default=constants["teacher"], help="whom students imitate: emission or gradient")
    add("--bert", default=constants["bert"], help="the pre-trained model: a folder or a model of the hub")
    return parse(parser, arguments, demo_settings)


def check_budgets(args: argparse.Namespace) -> list[float]:
    """The budgets, none where the schedule is given; ``args.start`` becomes what they need.

    Raises:
        UserError: budgets that cannot be, or settings that exclude each other.
    """
    given = args.target_flops_reduction
    try:
        budgets = [float(budget) for budget in (given if isinstance(given, list) else [given])] if given else []
    except ValueError:
        budgets = [0.0]
    if budgets and not min(budgets) > 1:
        raise UserError(f"target_flops_reduction: {given} is no reduction; use numbers above 1, as 2.0")
    if args.budget_schedule not in (*POSSIBLE_STARTS, *FAMILIES):
        known = ", ".join((*POSSIBLE_STARTS, *FAMILIES))
        raise UserError(f"budget_schedule: {args.budget_schedule!r} is unknown; choose from {known}")
    for name in ("search_penalty", "soft_extract_learning_rate"):
        value = getattr(args, name)
        if value is not None and not 0 <= value < math.inf:
            raise UserError(f"{name}: {value} is not a positive number")
    if budgets and args.search_penalty is not None:
        raise UserError("search_penalty: a budget is given too (target_flops_reduction); use one of them")
    if not 1 < args.search_reach < math.inf:
        raise UserError(f"search_reach: {args.search_reach:g} is no reduction; use a number above 1, as 4.0")
    if budgets and max(budgets) > args.search_reach:
        raise UserError(f"search_reach: {args.search_reach:g} is too small; use the largest budget or more")
    way = "soft-extract" if args.search_penalty is not None else args.budget_schedule if budgets else None
    possible = POSSIBLE_STARTS.get(way, STARTS) if way else STARTS
    args.start = args.start or possible[0]
    if args.start not in STARTS:
        raise UserError(f"start: {args.start!r} is unknown; choose from {', '.join(STARTS)}")
    if args.start not in possible:
        raise UserError(f"start: {way} schedules need {possible[0]!r}, not {args.start!r}; leave it out")
    if way:
        args.methods = _budget_methods(args.methods)
    if args.start == "sampled":
        for method in args.methods:
            if "+" in method or (method in SCORERS and SCORERS[method].unpruned_pass):
                raise UserError(f"pruning_methods: {method!r} cannot be trained with sampled schedules; leave it out")
    return budgets


def _budget_methods(methods: Sequence[str]) -> list[str]:
    """The methods that can meet a budget: one for all layers, and none that needs an unpruned pass."""
    found = []
    for method in methods:
        if "+" in method:
            raise UserError(f"pruning_methods: {method!r} is for a given schedule; a budget takes single methods")
        if method in SCORERS and SCORERS[method].unpruned_pass:
            print(f"skipped {method}: it needs an unpruned pass of its own, and so meets no budget")
        else:
            found.append(method)
    if not found:
        raise UserError("pruning_methods: none of them can meet a budget; use student, attention or random")
    return found


def make_cells(args: argparse.Namespace, budgets: Sequence[float], shape: BertShape, task: Task, cache: Cache) -> list:
    """The cells of a task, each seed's baseline before what is compared with it."""
    widths, layers = check_widths(args.student_widths), shape.depth
    cells = []
    for seed in args.seeds:
        options = {"count": args.count, "padded_length": cache.max_length, "seed": seed, "student_widths": widths}
        cells.append(Cell(task, None, seed))
        for method in args.methods:
            if not budgets and args.search_penalty is None:
                cells.append(Cell(task, make_pruning(args.schedule, method, layers, args.teacher, **options), seed))
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


def run_bert(args: argparse.Namespace, default: Sequence[str]) -> None:
    """Train, evaluate, measure and record every cell; ``default`` are the names of the tasks to run."""
    args.seeds, budgets = check_numbers(args), check_budgets(args)
    steady = start_run()
    known = TASKS
    if args.demo:
        from_main(lambda: sample.make_demo(Path(args.cache)))
        known = {sample.TASK.name: sample.TASK}

    tokenizer_folder = bert_folder(args.bert)
    shape = BertShape.of(check_bert(args.bert, tokenizer_folder))
    tokenizer = load_tokenizer(tokenizer_folder, max_length=128)
    prepare = "PrepareGlue4Bert.py"
    tasks = prepared_tasks(args, known, default, prepare, with_own=not args.demo)
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
