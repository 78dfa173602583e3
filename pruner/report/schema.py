"""Check the keys of a record: what tables and figures rely on."""

import math
from collections.abc import Callable
from typing import Any

from pruner.data.task import NAME

VERSION = 2
LARGEST = 1e9  # number that a figure shows
LONGEST = 500  # characters of what tables and figures show
DEEPEST = 10  # lists and dictionaries in each other


def fits(value: Any, schema: Any) -> bool:
    """Tell whether a value of JSON is as a schema says.

    A schema is a type, a function that checks the value, or the value itself; ``[schema]`` is one of all elements of a
    list, ``{key: schema}`` of keys that a dictionary must have, ``(schema, schema)`` of alternatives.
    """
    if isinstance(schema, dict):
        return isinstance(value, dict) and all(key in value and fits(value[key], schema[key]) for key in schema)
    if isinstance(schema, list):
        return isinstance(value, list) and all(fits(element, schema[0]) for element in value)
    if isinstance(schema, tuple):
        return any(fits(value, alternative) for alternative in schema)
    if isinstance(schema, type):
        return isinstance(value, schema) and not isinstance(value, bool)
    return schema(value) if callable(schema) else value == schema


def number(low: float, high: float = LARGEST) -> Callable[[Any], bool]:
    return lambda value: fits(value, (int, float)) and low <= value <= high


def whole(low: int) -> Callable[[Any], bool]:
    return lambda value: fits(value, int) and low <= value <= LARGEST


def name(value: object) -> bool:
    """Check that it can be part of a folder's name."""
    return isinstance(value, str) and len(value) <= LONGEST and NAME.fullmatch(value) is not None


def column(value: str) -> bool:
    """Check that it can name a column beside those of nested keys, whose names are joined by dots."""
    return bool(value) and "." not in value


def cell_text(value: object) -> bool:
    """Check that it can stand in a cell of a Markdown table."""
    return isinstance(value, str) and value.isprintable() and "|" not in value and len(value) <= LONGEST


def plain(value: Any, depth: int = DEEPEST) -> bool:
    """Check that all numbers have 64 bits, and that nothing is nested deeper than in any record."""
    if isinstance(value, dict):
        return depth > 0 and all(isinstance(key, str) and plain(value[key], depth - 1) for key in value)
    if isinstance(value, list | tuple):
        return depth > 0 and all(plain(element, depth - 1) for element in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return -(2**63) <= value < 2**63 if isinstance(value, int) else value is None or isinstance(value, str)


def some(schemas: dict[str, Any]) -> Callable[[Any], bool]:
    """Check a dictionary that has some of the keys, and any others."""
    return lambda value: (
        isinstance(value, dict) and all(fits(value[key], schemas[key]) for key in schemas.keys() & value.keys())
    )


def metrics(value: object) -> bool:
    return bool(value) and by_name(number(-1, 1))(value)


def by_name(schema: Any) -> Callable[[Any], bool]:
    """Check a dictionary of names, as of dev sets, and what stands there."""
    return lambda value: isinstance(value, dict) and all(name(k) and fits(v, schema) for k, v in value.items())


def length_bin(value: Any) -> bool:
    """Check a range of ``tokens``, both ends included, and the numbers beside it."""
    if not fits(value, {"tokens": [int]}) or len(value["tokens"]) != 2:
        return False
    return all(number(-LARGEST)(value[key]) for key in value.keys() - {"tokens"})


AMOUNT = number(0, math.inf)
ONE_ANSWER = by_name({"answer": str, "share": (None, number(0, 1))})
SIZES = {"baseline": AMOUNT, "pruned": AMOUNT}
SCHEMA: dict[str, Any] = {
    "version": VERSION,
    "status": "complete",
    **dict.fromkeys(("model", "task", "method"), name),
    **dict.fromkeys(("title", "variant"), cell_text),
    "seed": int,
    **dict.fromkeys(("metrics", "baseline_metrics"), metrics),
    "held_out_metrics": by_name(number(-1, 1)),
    "majority_share": by_name(number(0, 1)),
    **dict.fromkeys(("collapsed", "baseline_collapsed"), ONE_ANSWER),
    "metrics_by_length": [length_bin],
    "flops": SIZES | {"reduction": number(0)},
    **dict.fromkeys(("parameters", "bytes"), (None, SIZES)),
    "file_bytes": (None, whole(0)),
    "latency": (None, {"baseline_ms": AMOUNT, "pruned_ms": AMOUNT, "speedup": number(0)}),
    "examples": [{"sentence": str, "kept": str}],
    "model_folder": (None, str),
    "loss": [{"step": number(0), "loss": number(-LARGEST)}],
    "settings": some({"max_length": whole(1)}),
    "environment": some({"gpu": (None, str), "cpu": (None, str), "threads": (None, whole(0))}),
    "seconds": AMOUNT,
    # Of the methods' own keys those that tables and figures read, where a method has them.
    "teacher": (None, name),
    "schedule": [number(0, 1)],
    "target_prune_rate": number(0, 1),
    "schedule_source": name,
    "target_flops_reduction": (None, number(0)),
    "kept": {"layers": [whole(0)], "heads": [[whole(0)]], "neurons": [whole(0)]},
    "weights_remaining": number(0, 1),
    "tokens": {"effective_rate": number(0, 1), "kept_by_layer": [number(0, 1)]},
}
