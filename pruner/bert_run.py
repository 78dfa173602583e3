"""What RunBert4Glue.py makes of its constants: the schedules, given or to be found, and the cells."""

import argparse
from collections.abc import Sequence

from pruner.bert_cells import dev_lengths
from pruner.budget import FAMILIES, fit_schedule
from pruner.cache import Cache
from pruner.errors import UserError
from pruner.flags import check_widths
from pruner.flops import BertShape
from pruner.glue import Task
from pruner.grid import Cell
from pruner.schedule import Learned, SearchSettings, check_schedule, layer_methods, make_pruning
from pruner.scores import TEACHERS

STARTS = ("pretrained", "finetuned", "sampled")
# What a way to a schedule lets the models start from, the usual first.
POSSIBLE_STARTS = {"learned": ("sampled",), "soft-extract": ("finetuned", "sampled")}


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
        if value is not None and not value >= 0:
            raise UserError(f"{name}: {value} is not a positive number")
    if budgets and args.search_penalty is not None:
        raise UserError("search_penalty: a budget is given too (target_flops_reduction); use one of them")
    if not args.search_reach > 1 or (budgets and max(budgets) > args.search_reach):
        raise UserError(f"search_reach: {args.search_reach:g} is too small; use the largest budget or more")
    way = "soft-extract" if args.search_penalty is not None else args.budget_schedule if budgets else None
    possible = POSSIBLE_STARTS.get(way, STARTS)
    args.start = args.start or possible[0]
    if args.start not in STARTS:
        raise UserError(f"start: {args.start!r} is unknown; choose from {', '.join(STARTS)}")
    if args.start not in possible:
        raise UserError(f"start: {way} schedules need {possible[0]!r}, not {args.start!r}; leave it out")
    if way:
        args.methods = _budget_methods(args.methods)
    if args.start == "sampled":
        for method in args.methods:
            if "+" in method or method in TEACHERS:
                raise UserError(f"pruning_methods: {method!r} cannot be trained with sampled schedules; leave it out")
    return budgets


def _budget_methods(methods: Sequence[str]) -> list[str]:
    """The methods that can meet a budget: one for all layers, and none that needs an unpruned pass."""
    found = []
    for method in methods:
        if "+" in method:
            raise UserError(f"pruning_methods: {method!r} is for a given schedule; a budget takes single methods")
        if method in TEACHERS:
            print(f"skipped {method}: it needs an unpruned pass of its own, and so meets no budget")
        else:
            found.append(method)
    if not found:
        raise UserError("pruning_methods: none of them can meet a budget; use student, attention or random")
    return found


def make_cells(args: argparse.Namespace, budgets: Sequence[float], shape: BertShape, task: Task, cache: Cache) -> list:
    """The cells of a task, each seed's baseline before what is compared with it."""
    widths, layers = check_widths(args.student_widths), shape.layers
    cells = []
    for seed in args.seeds:
        options = {"count": args.count, "padded_length": cache.max_length, "seed": seed, "student_widths": widths}
        cells.append(Cell(task, None, seed))
        for method in args.methods:
            if not budgets and args.search_penalty is None:
                schedule = check_schedule(args.schedule, layers)
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
                    schedule = fit_schedule(family, budget, lengths, shape, pruning.with_schedule)
                    cells.append(Cell(task, pruning.with_schedule(schedule), seed, target=budget))
                    continue
                search = SearchSettings(args.search_reach, None, args.soft_extract_learning_rate)
                learned = Learned(method, search if args.budget_schedule == "soft-extract" else None)
                cells.append(Cell(task, pruning, seed, learned, budget))
    return cells
