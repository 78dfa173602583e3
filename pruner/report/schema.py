"""Check the keys of a record: what tables and figures rely on."""

import math
from collections.abc import Callable
from typing import Any

from pruner.data.task import NAME

VERSION = 2
LARGEST = 1e9  # number that a figure shows

Check = Callable[[Any], bool]


def number(low: float, high: float = LARGEST) -> Check:
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def name(value: object) -> bool:
    """Check that it can be part of a folder's name."""
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def cell_text(value: object) -> bool:
    """Check that it can stand in a cell of a Markdown table."""
    return isinstance(value, str) and value.isprintable() and "|" not in value


def optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def each(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def keys(**checks: Check) -> Check:
    """Check that a dictionary has at least these keys."""
    return lambda value: isinstance(value, dict) and all(k in value and check(value[k]) for k, check in checks.items())


def metrics(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(name(k) and number(-1, 1)(v) for k, v in value.items())


def length_bin(value: Any) -> bool:
    """Check a range of ``tokens``, both ends included, and the numbers beside it."""
    if not keys(tokens=each(integer))(value):
        return False
    return len(value["tokens"]) == 2 and all(number(-LARGEST)(value[key]) for key in value.keys() - {"tokens"})


AMOUNT = number(0, math.inf)
SIZES = keys(baseline=AMOUNT, pruned=AMOUNT)
SCHEMA: dict[str, Check] = {
    "version": lambda value: value == VERSION,
    "status": lambda value: value == "complete",
    "model": name,
    "task": name,
    "method": name,
    "title": cell_text,
    "variant": cell_text,
    "seed": integer,
    "metrics": metrics,
    "baseline_metrics": metrics,
    "metrics_by_length": each(length_bin),
    "flops": keys(baseline=AMOUNT, pruned=AMOUNT, reduction=number(0)),
    "parameters": optional(SIZES),
    "bytes": optional(SIZES),
    "latency": optional(keys(baseline_ms=AMOUNT, pruned_ms=AMOUNT, speedup=number(0))),
    "examples": each(keys()),
    "model_folder": optional(lambda value: isinstance(value, str)),
    "loss": each(keys(step=number(0), loss=number(-LARGEST))),
    "settings": keys(),
    "environment": keys(),
    "seconds": AMOUNT,
    # Of the methods' own keys those that tables and figures read, where a method has them.
    "teacher": optional(name),
    "schedule": each(number(0, 1)),
    "target_prune_rate": number(0, 1),
    "schedule_source": name,
    "target_flops_reduction": optional(number(0)),
    "tokens": keys(effective_rate=number(0, 1), kept_by_layer=each(number(0, 1))),
}
