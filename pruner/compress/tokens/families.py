"""What the constants of the run scripts ask of token pruning: the methods of a task and seed."""

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from pruner.compress.method import FAMILIES, Family, Method
from pruner.compress.tokens.budget import SCHEDULE_FAMILIES
from pruner.compress.tokens.methods import LearnedPruning, LstmPruning, SoftExtractPruning, TokenPruning
from pruner.compress.tokens.schedule import Pruning, check_rate, make_pruning
from pruner.compress.tokens.scores import SCORERS, scorer_names
from pruner.compress.tokens.soft_extract import SoftExtractSearch
from pruner.training.context import Context
from pruner.utils.errors import SettingError, UserError

LARGEST_PENALTY = 1e6  # beyond, a sum of squares has no place in float32


def check_budgets(options: Namespace) -> None:
    """Check the settings about budgets; raise a ``SettingError`` if they exclude each other.

    ``target_flops_reduction`` becomes a list, empty where the schedule is given; ``start`` what the budgets need.
    Methods that can meet no budget leave ``pruning_methods``.
    """
    budgets = options.target_flops_reduction = options.target_flops_reduction or []
    options.target_speedup = options.target_speedup or []
    penalty, reach = options.search_penalty, options.search_reach
    if penalty is not None and not 0 <= penalty <= LARGEST_PENALTY:
        raise SettingError("search_penalty", f"{penalty} is out of range; use 0 to {LARGEST_PENALTY:g}")
    if budgets and penalty is not None:
        raise SettingError("search_penalty", "a budget is given too (target_flops_reduction); use one of them")
    if budgets and max(budgets) > reach:
        raise SettingError("search_reach", f"{reach:g} is too small; use the largest budget or more")
    way = schedule_way(options)
    starts = SCHEDULES[way].starts if way else ANY_START
    options.start = options.start or starts[0]
    if options.start not in starts:
        raise SettingError("start", f"{way} schedules need {starts[0]!r}, not {options.start!r}; leave it out")
    if way:
        options.pruning_methods = _budget_methods(options.pruning_methods)
    for method in options.pruning_methods if options.start == "sampled" else ():
        if "+" in method or any(map(_needs_pass, method.split("."))):
            raise SettingError("pruning_methods", f"{method!r} cannot be trained with sampled schedules; leave it out")


def schedule_way(options: Namespace) -> str | None:
    """Return which of ``SCHEDULES`` makes a BERT's schedule, ``None`` where it is given."""
    if options.search_penalty is not None:
        return "soft-extract"
    return options.budget_schedule if options.target_flops_reduction else None


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
    way = schedule_way(options)
    if way is None:
        return [TokenPruning(pruning_of(options.pruning_schedule, name, options, context), **shared)]
    # Some rate in all layers, until the schedule is known.
    unknown = pruning_of([0.5] * context.backbone.shape(context.task).depth, name, options, context)
    return SCHEDULES[way].make(unknown, options, context, shared)


@dataclass(frozen=True)
class Schedules:
    """A way of making schedules for budgets: what models may ``start`` from, the usual first, and their methods.

    ``make`` is given the pruning without its schedule, the run's settings, the context, and what all methods are given.
    """

    starts: tuple[str, ...]
    make: Callable[[Pruning, Namespace, Context, dict], list[Method]]


@contextmanager
def _of_method(pruning: Pruning, context: Context) -> Iterator[None]:
    """Name the task and the method of a budget that they cannot meet."""
    try:
        yield
    except SettingError as error:
        raise UserError(f"{context.task.name}, {pruning.method}: {error}") from None


def _learned(unknown: Pruning, options: Namespace, context: Context, shared: dict) -> list[Method]:
    methods: list[Method] = []
    for budget in options.target_flops_reduction:
        method = LearnedPruning(unknown, target=budget, **shared)
        with _of_method(unknown, context):
            next(method.candidates(context))  # before hours of training
        methods.append(method)
    return methods


def _soft_extract(unknown: Pruning, options: Namespace, context: Context, shared: dict) -> list[Method]:
    budgets, reach = options.target_flops_reduction or [None], options.search_reach
    penalty, rate = options.search_penalty, options.soft_extract_learning_rate
    how = SoftExtractSearch(reach if penalty is None else None, penalty, rate)
    return [SoftExtractPruning(unknown, target=budget, **shared, how=how) for budget in budgets]


def _fitted(way: str, unknown: Pruning, options: Namespace, context: Context, shared: dict) -> list[Method]:
    family = SCHEDULE_FAMILIES[way](len(unknown.schedule))
    methods = [TokenPruning(unknown, way, budget, **shared) for budget in options.target_flops_reduction]
    with _of_method(unknown, context):
        return [replace(method, pruning=unknown.with_schedule(method.fit(family, context))) for method in methods]


ANY_START = ("pretrained", "finetuned", "sampled")
SCHEDULES = {
    "learned": Schedules(("sampled",), _learned),
    "soft-extract": Schedules(("finetuned", "sampled"), _soft_extract),
    **{way: Schedules(ANY_START, partial(_fitted, way)) for way in SCHEDULE_FAMILIES},
}


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
