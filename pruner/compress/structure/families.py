"""What the constants of the run script ask of width and depth, and the grammar of chains: ``layers-top.width``."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product

from pruner.compress.method import FAMILIES, Family, Method, make_methods
from pruner.compress.structure.choices import MEASURED, PLACES, Choice, Layers, Ticket
from pruner.compress.structure.methods import StructurePruning
from pruner.compress.structure.multi_task import MultiTask
from pruner.compress.structure.width import Width
from pruner.compress.tokens.families import schedule_way
from pruner.compress.tokens.methods import TokenPruning
from pruner.training.context import Context
from pruner.utils.errors import SettingError

HELD_OUT = 0.1  # of the training rows, where one of several levels is chosen by them (Liang et al. choose on dev)


def tickets(kind: str, options: Namespace) -> list[Choice]:
    counts = options.ticket_feed_forwards or [None] * len(options.ticket_levels)
    return [Ticket(kind, level, count) for level, count in zip(options.ticket_levels, counts, strict=True)]


def widths(random: bool, trained: bool, options: Namespace) -> list[Choice]:
    return [Width(reduction, options.width_cost, random, trained) for reduction in options.width_reduction]


def fewer_layers(name: str, options: Namespace) -> list[Choice]:
    return [Layers(name, count) for count in options.layers_dropped]


KINDS = ("winning", "random", "losing")
TICKETS = {f"{kind}-ticket" for kind in KINDS}
# The choices of a run for each name, and where they stand in a chain.
CHOICES: dict[str, tuple[int, Callable[[Namespace], list[Choice]]]] = {
    **{f"{kind}-ticket": (1, partial(tickets, kind)) for kind in KINDS},
    **{name: (0, partial(fewer_layers, name)) for name in (*PLACES, *MEASURED)},
    "width": (1, partial(widths, False, True)),
    "width-untrained": (1, partial(widths, False, False)),
    "width-random": (1, partial(widths, True, True)),
    "width-random-untrained": (1, partial(widths, True, False)),
}


def check_structure(options: Namespace) -> None:
    """Check the settings of width and depth; ``held_out`` becomes a number."""
    levels, counts = options.ticket_levels, options.ticket_feed_forwards
    if bad := [level for level in levels if not 0 <= level <= 100]:
        raise SettingError("ticket_levels", f"{bad[0]:g} is no percentage; use 0 to 100")
    if counts is not None and len(counts) != len(levels):
        raise SettingError(
            "ticket_feed_forwards", f"{len(counts)} numbers for {len(levels)} ticket_levels; give as many"
        )
    if options.held_out is None:
        parts = {part for name in options.pruning_methods for part in name.split(".")}
        options.held_out = HELD_OUT if len(levels) > 1 and parts & TICKETS else 0.0
    if bad := [level for level in options.multi_task_levels if not 0 <= level <= 100]:
        raise SettingError("multi_task_levels", f"{bad[0]:g} is no percentage; use 0 to 100")
    if not 0 <= options.held_out < 1:
        raise SettingError("held_out", f"{options.held_out:g} is no share of the training rows; use 0 to less than 1")


def structure_methods(name: str, options: Namespace, context: Context) -> list[Method]:
    """Make the methods of a chain, one for each mixture of its parts' levels."""
    parts = name.split(".")
    choices = [part for part in parts if part in CHOICES]
    rest = parts[len(choices) :]
    if parts[: len(choices)] != choices or len(rest) > 1:
        raise SettingError(
            "pruning_methods", f"{name!r}: a chain is layers, then width or a ticket, then one that drops tokens"
        )
    places = [CHOICES[part][0] for part in choices]
    if places != sorted({*places}):
        raise SettingError("pruning_methods", f"{name!r}: layers come before width or a ticket, one of each at most")
    made: list[Method] = []
    for mixture in product(*(CHOICES[part][1](options) for part in choices)):
        depth = context.backbone.model_config(context.task).num_hidden_layers
        for choice in mixture:
            depth = choice.check(context, depth)
        made += [StructurePruning(mixture, tokens) for tokens in token_methods(rest, name, depth, options, context)]
    return made


def token_methods(
    rest: Sequence[str], name: str, depth: int, options: Namespace, context: Context
) -> Sequence[TokenPruning | None]:
    """Make what drops tokens at the end of a chain, on a BERT of ``depth`` layers."""
    if not rest:
        return [None]
    if schedule_way(options) not in (None, "learned"):
        raise SettingError("budget_schedule", f"{name!r} takes a given schedule, or learned ones; leave it out")
    config = context.backbone.model_config(context.task)
    config.num_hidden_layers = depth
    shallow = replace(context, backbone=replace(context.backbone, config=config))  # type: ignore[type-var]
    methods = make_methods(rest[0], options, shallow)
    if not all(isinstance(method, TokenPruning) for method in methods):
        raise SettingError("pruning_methods", f"{name!r}: {rest[0]} drops no tokens; a chain ends with one that does")
    return [method for method in methods if isinstance(method, TokenPruning)]


def multi_task_methods(name: str, options: Namespace, context: Context) -> list[Method]:
    """Make the training of all of a run's tasks in one encoder, with a ticket each or without."""
    number, levels = len(context.together), options.multi_task_levels
    if number < 2:
        raise SettingError("tasks", f"{name} needs several, this run has {number}; name more, or leave {name} out")
    if name == "multi-task":
        return [MultiTask((None,) * number)]
    if len(levels) not in (1, number):
        raise SettingError("multi_task_levels", f"{len(levels)} levels for {number} tasks; give one, or one for each")
    levels = levels * number if len(levels) == 1 else levels
    return [MultiTask(tuple(Ticket("winning", level) if level else None for level in levels))]


FAMILIES.append(Family("bert", lambda: list(CHOICES), structure_methods))
FAMILIES.append(Family("bert", lambda: ["multi-task", "multi-task-tickets"], multi_task_methods))
