"""What the constants of the run script ask of width and depth."""

from argparse import Namespace
from functools import partial

from pruner.compress.chain import LAYERS, WIDTH, register_part
from pruner.compress.method import FAMILIES, Family, Method
from pruner.compress.structure.choices import MEASURED, PLACES, Choice, Layers, Ticket
from pruner.compress.structure.multi_task import MultiTask
from pruner.compress.structure.width import Width
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


def check_structure(options: Namespace) -> None:
    """Check the settings of width and depth; ``held_out`` becomes a number."""
    levels, counts = options.ticket_levels, options.ticket_feed_forwards
    for name in ("ticket_levels", "multi_task_levels"):
        if bad := [level for level in getattr(options, name) if not 0 <= level <= 100]:
            raise SettingError(name, f"{bad[0]:g} is no percentage; use 0 to 100")
    if counts is not None and len(counts) != len(levels):
        raise SettingError(
            "ticket_feed_forwards", f"{len(counts)} numbers for {len(levels)} ticket_levels; give as many"
        )
    if options.held_out is None:
        parts = {part for name in options.pruning_methods for part in name.split(".")}
        options.held_out = HELD_OUT if len(levels) > 1 and parts & TICKETS else 0.0
    if not 0 <= options.held_out < 1:
        raise SettingError("held_out", f"{options.held_out:g} is no share of the training rows; use 0 to less than 1")


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


for _kind in KINDS:
    register_part(f"{_kind}-ticket", WIDTH, partial(tickets, _kind))
for _name in (*PLACES, *MEASURED):
    register_part(_name, LAYERS, partial(fewer_layers, _name))
register_part("width", WIDTH, partial(widths, False, True))
register_part("width-untrained", WIDTH, partial(widths, False, False))
register_part("width-random", WIDTH, partial(widths, True, True))
register_part("width-random-untrained", WIDTH, partial(widths, True, False))
FAMILIES.append(Family("bert", lambda: ["multi-task", "multi-task-tickets"], multi_task_methods))
