"""What the constants of the run scripts ask of token pruning: the methods of a task and seed."""

import math
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace

from pruner.compress.method import FAMILIES, Family, Method
from pruner.compress.tokens.budget import SCHEDULE_FAMILIES
from pruner.compress.tokens.methods import LearnedPruning, LstmPruning, SoftExtractPruning, TokenPruning
from pruner.compress.tokens.schedule import Pruning, check_rate, make_pruning
from pruner.compress.tokens.scores import SCORERS, scorer_names
from pruner.compress.tokens.soft_extract import SoftExtractSearch
from pruner.training.context import Context
from pruner.utils.errors import SettingError

# What a way to a schedule lets the models start from, the usual first.
ANY_START = ("pretrained", "finetuned", "sampled")
STARTS = {"learned": ("sampled",), "soft-extract": ("finetuned", "sampled")}


def check_budgets(options: Namespace) -> None:
    """Check the settings about budgets; raise a ``SettingError`` if they exclude each other.

    ``target_flops_reduction`` becomes a list, empty where the schedule is given; ``start`` what the budgets need.
    Methods that can meet no budget leave ``pruning_methods``.
    """
    budgets = options.target_flops_reduction = options.target_flops_reduction or []
    penalty, reach = options.search_penalty, options.search_reach
    if penalty is not None and not 0 <= penalty < math.inf:
        raise SettingError("search_penalty", f"{penalty} is out of range; use 0 or more")
    if budgets and penalty is not None:
        raise SettingError("search_penalty", "a budget is given too (target_flops_reduction); use one of them")
    if budgets and max(budgets) > reach:
        raise SettingError("search_reach", f"{reach:g} is too small; use the largest budget or more")
    way = schedule_way(options)
    starts = STARTS.get(way, ANY_START)
    options.start = options.start or starts[0]
    if options.start not in starts:
        raise SettingError("start", f"{way} schedules need {starts[0]!r}, not {options.start!r}; leave it out")
    if way != "given":
        options.pruning_methods = _budget_methods(options.pruning_methods)
    for method in options.pruning_methods if options.start == "sampled" else ():
        if "+" in method or _needs_pass(method):
            raise SettingError("pruning_methods", f"{method!r} cannot be trained with sampled schedules; leave it out")


def schedule_way(options: Namespace) -> str:
    """Return how a BERT's schedule is made: it is ``given``, or one of ``budget_schedule``."""
    if options.search_penalty is not None:
        return "soft-extract"
    return options.budget_schedule if options.target_flops_reduction else "given"


def _needs_pass(method: str) -> bool:
    return method in SCORERS and SCORERS[method].unpruned_pass


def _budget_methods(methods: Sequence[str]) -> list[str]:
    """Keep the methods that can meet a budget: one for all layers, and none that needs an unpruned pass."""
    for method in methods:
        if "+" in method:
            raise SettingError("pruning_methods", f"{method!r} is for a given schedule; a budget takes single methods")
        if _needs_pass(method):
            print(f"skipped {method}: it needs an unpruned pass of its own, and so meets no budget")
    able = [method for method in methods if not _needs_pass(method)]
    if not able:
        raise SettingError("pruning_methods", "none of them can meet a budget; use student, attention or random")
    return able


def pruning_of(schedule: Sequence[float], name: str, options: Namespace, context: Context) -> Pruning:
    """Make the pruning by one scorer, or by ``a+b``, one for each pruned layer; an LSTM is one layer."""
    return make_pruning(
        schedule,
        name,
        context.backbone.shape(context.task).depth,
        getattr(options, "teacher", None),
        count=options.count,
        padded_length=context.cache.max_length,
        seed=context.seed,
        student_widths=options.student_widths,
        model=context.backbone.name,
    )


def bert_methods(name: str, options: Namespace, context: Context) -> list[Method]:
    """Make the token pruning of a BERT that the schedule or the budgets ask for."""
    shared = {"start": options.start, "reach": options.search_reach}
    shared["student_learning_rate"] = options.student_learning_rate
    budgets, way = options.target_flops_reduction, schedule_way(options)
    if way == "given":
        return [TokenPruning(pruning_of(options.pruning_schedule, name, options, context), **shared)]
    depth = context.backbone.shape(context.task).depth
    # Some rate in all layers, until the schedule is known.
    unknown = pruning_of([0.5] * depth, name, options, context)
    if way == "learned":
        return [LearnedPruning(unknown, target=budget, **shared) for budget in budgets]
    if way == "soft-extract":
        reach = options.search_reach if budgets else None
        how = SoftExtractSearch(reach, options.search_penalty, options.soft_extract_learning_rate)
        return [SoftExtractPruning(unknown, target=budget, **shared, how=how) for budget in budgets or [None]]
    cells = [TokenPruning(unknown, way, budget, **shared) for budget in budgets]
    family = SCHEDULE_FAMILIES[way](depth)
    return [replace(cell, pruning=unknown.with_schedule(cell.fit(family, context))) for cell in cells]


def lstm_methods(name: str, options: Namespace, context: Context) -> list[Method]:
    """Make the word pruning of an LSTM, a method for each target rate."""
    rates = {"student_learning_rate": options.student_learning_rate, "rate_start": options.pruning_rate_start}
    return [LstmPruning(pruning_of([rate], name, options, context), **rates) for rate in options.target_prune_rate]


def check_rates(options: Namespace) -> None:
    """Check that an LSTM's rates prune, and that they do not begin above where they end."""
    if 0 in options.target_prune_rate:
        raise SettingError("target_prune_rate", "a rate of 0 is the baseline, which runs anyway; leave it out")
    start, least = options.pruning_rate_start, min(options.target_prune_rate)
    if start is not None and check_rate(start, "pruning_rate_start") > least:
        raise SettingError("pruning_rate_start", f"{start:g} is above target_prune_rate {least:g}; start lower")


FAMILIES.append(Family("bert", lambda: scorer_names("bert"), bert_methods))
FAMILIES.append(Family("lstm", lambda: scorer_names("lstm"), lstm_methods))
