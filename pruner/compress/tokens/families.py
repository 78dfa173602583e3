"""What the constants of the run scripts ask of token pruning: the methods of a task and seed."""

import math
from argparse import Namespace
from collections.abc import Sequence

from pruner.compress.method import FAMILIES, Family, Method
from pruner.compress.tokens.budget import SCHEDULE_FAMILIES, fit_schedule
from pruner.compress.tokens.lstm_methods import LstmPruning
from pruner.compress.tokens.methods import LearnedPruning, SoftExtractPruning, TokenPruning
from pruner.compress.tokens.schedule import check_rate, make_pruning
from pruner.compress.tokens.scores import SCORERS, scorer_names
from pruner.compress.tokens.search import SearchSettings
from pruner.training.context import Context
from pruner.utils.errors import UserError

STARTS = ("pretrained", "finetuned", "sampled")
# What a way to a schedule lets the models start from, the usual first.
POSSIBLE_STARTS = {"learned": ("sampled",), "soft-extract": ("finetuned", "sampled")}


def check_budgets(options: Namespace) -> None:
    """Check the constants about budgets against each other.

    ``target_flops_reduction`` becomes a list, empty where the schedule is given; ``start`` becomes what the budgets need,
    and methods that can meet none leave ``pruning_methods``.

    Raises:
        UserError: budgets that cannot be, or settings that exclude each other.
    """
    given = options.target_flops_reduction
    try:
        budgets = [float(budget) for budget in (given if isinstance(given, list) else [given])] if given else []
    except ValueError:
        budgets = [0.0]
    if budgets and not min(budgets) > 1:
        raise UserError(f"target_flops_reduction: {given} is no reduction; use numbers above 1, as 2.0")
    if options.budget_schedule not in (*POSSIBLE_STARTS, *SCHEDULE_FAMILIES):
        known = ", ".join((*POSSIBLE_STARTS, *SCHEDULE_FAMILIES))
        raise UserError(f"budget_schedule: {options.budget_schedule!r} is unknown; choose from {known}")
    for name in ("search_penalty", "soft_extract_learning_rate"):
        value = getattr(options, name)
        if value is not None and not 0 <= value < math.inf:
            raise UserError(f"{name}: {value} is not a positive number")
    if budgets and options.search_penalty is not None:
        raise UserError("search_penalty: a budget is given too (target_flops_reduction); use one of them")
    if not 1 < options.search_reach < math.inf:
        raise UserError(f"search_reach: {options.search_reach:g} is no reduction; use a number above 1, as 4.0")
    if budgets and max(budgets) > options.search_reach:
        raise UserError(f"search_reach: {options.search_reach:g} is too small; use the largest budget or more")
    way = "soft-extract" if options.search_penalty is not None else options.budget_schedule if budgets else None
    possible = POSSIBLE_STARTS.get(way, STARTS) if way else STARTS
    options.start = options.start or possible[0]
    if options.start not in STARTS:
        raise UserError(f"start: {options.start!r} is unknown; choose from {', '.join(STARTS)}")
    if options.start not in possible:
        raise UserError(f"start: {way} schedules need {possible[0]!r}, not {options.start!r}; leave it out")
    if way:
        options.pruning_methods = _budget_methods(options.pruning_methods)
    if options.start == "sampled":
        for method in options.pruning_methods:
            if "+" in method or _needs_pass(method):
                raise UserError(f"pruning_methods: {method!r} cannot be trained with sampled schedules; leave it out")
    options.target_flops_reduction = budgets


def _needs_pass(method: str) -> bool:
    return method in SCORERS and SCORERS[method].unpruned_pass


def _budget_methods(methods: Sequence[str]) -> list[str]:
    """Keep the methods that can meet a budget: one for all layers, and none that needs an unpruned pass."""
    able = []
    for method in methods:
        if "+" in method:
            raise UserError(f"pruning_methods: {method!r} is for a given schedule; a budget takes single methods")
        if _needs_pass(method):
            print(f"skipped {method}: it needs an unpruned pass of its own, and so meets no budget")
        else:
            able.append(method)
    if not able:
        raise UserError("pruning_methods: none of them can meet a budget; use student, attention or random")
    return able


def bert_methods(name: str, options: Namespace, context: Context) -> list[Method]:
    """Make the token pruning of a BERT by one scorer, or by ``a+b``, one for each pruned layer."""
    layers = context.backbone.config.num_hidden_layers
    shared = {"start": options.start, "reach": options.search_reach}
    shared["student_learning_rate"] = options.student_learning_rate

    def pruning(schedule: Sequence[float]):
        return make_pruning(
            schedule,
            name,
            layers,
            options.teacher,
            count=options.count,
            padded_length=context.cache.max_length,
            seed=context.seed,
            student_widths=options.student_widths,
        )

    budgets, penalty = options.target_flops_reduction, options.search_penalty
    if not budgets and penalty is None:
        return [TokenPruning(pruning(options.pruning_schedule), **shared)]
    unknown = pruning([0.5] * layers)  # some rate in all layers, until the schedule is known
    if penalty is not None:
        how = SearchSettings(None, penalty, options.soft_extract_learning_rate)
        return [SoftExtractPruning(unknown, **shared, how=how)]
    way = options.budget_schedule
    if way in SCHEDULE_FAMILIES:
        family, shape = SCHEDULE_FAMILIES[way](layers), context.backbone.shape(context.task)
        fit = [fit_schedule(family, budget, context.dev_lengths, shape, unknown.with_schedule) for budget in budgets]
        known = [unknown.with_schedule(schedule) for schedule in fit]
        return [TokenPruning(it, way, budget, **shared) for it, budget in zip(known, budgets, strict=True)]
    if way == "soft-extract":
        how = SearchSettings(options.search_reach, None, options.soft_extract_learning_rate)
        return [SoftExtractPruning(unknown, target=budget, **shared, how=how) for budget in budgets]
    return [LearnedPruning(unknown, target=budget, **shared) for budget in budgets]


def lstm_methods(name: str, options: Namespace, context: Context) -> list[Method]:
    """Make the word pruning of an LSTM by one scorer, a method for each target rate."""
    methods: list[Method] = []
    for rate in options.target_prune_rate:
        pruning = make_pruning(
            [rate],
            name,
            1,
            "gate",
            count=options.count,
            padded_length=context.cache.max_length,
            seed=context.seed,
            student_widths=options.student_widths,
            model="lstm",
        )
        rates = {"student_learning_rate": options.student_learning_rate, "rate_start": options.pruning_rate_start}
        methods.append(LstmPruning(pruning, **rates))
    return methods


def check_rates(options: Namespace) -> None:
    """Make ``target_prune_rate`` a list; the start of the ramp must not be above any of them."""
    given = options.target_prune_rate
    rates = [check_rate(rate, "target_prune_rate") for rate in (given if isinstance(given, list) else [given])]
    if not rates:
        raise UserError("target_prune_rate: no rate is given; use for example 0.9")
    if options.pruning_rate_start is not None:
        start = check_rate(options.pruning_rate_start, "pruning_rate_start")
        if start > min(rates):
            raise UserError(f"pruning_rate_start: {start} is above target_prune_rate {min(rates)}; start lower")
    options.target_prune_rate = rates


FAMILIES.append(Family("bert", lambda: scorer_names("bert"), bert_methods))
FAMILIES.append(Family("lstm", lambda: scorer_names("lstm"), lstm_methods))
