"""Tables of records, for the end of a run and for the README."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd

Item = TypeVar("Item")


def grouped(items: Iterable[Item], key: Callable[[Item], Any]) -> dict[Any, list[Item]]:
    """Items of the same key together, in the order in which they come."""
    found: dict[Any, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def summary(records: Sequence[dict]) -> pd.DataFrame:
    """One row per task, method and schedule or rate: means over seeds (and standard deviations, of two or more)."""
    rows = []
    groups = grouped(records, lambda record: (record["task"], method_name(record), schedule_text(record)))
    column = "schedule" if any("schedule" in record for record in records) else "rate"
    for (task, method, schedule), cells in groups.items():
        pruned = method != "baseline"
        rows.append(
            {
                "task": task,
                "method": method,
                column: schedule if pruned else "unpruned",
                "seeds": len(cells),
                "metric": metric_text([cell["metrics"] for cell in cells]),
                "baseline": metric_text([cell["baseline_metrics"] for cell in cells]),
                "tokens not computed": f"{_mean(cells, 'tokens', 'effective_rate'):.1%}",
                "FLOPs reduction": f"{_mean(cells, 'flops', 'reduction'):.2f}x" if pruned else "",
                "speed-up": f"{_mean(cells, 'latency', 'speedup'):.2f}x" if pruned else "",
            }
        )
    return pd.DataFrame(rows)


def curve(records: Sequence[dict]) -> pd.DataFrame:
    """The first metric of an LSTM's records by rate: one row per task and method, the unpruned baseline before it."""
    rows: dict[tuple, dict[str, list]] = {}
    rates = sorted({record["target_prune_rate"] for record in records if record["method"] != "baseline"})
    for record in records:
        if record["method"] == "baseline":
            continue
        by_rate = rows.setdefault((record["task"], method_name(record)), {})
        by_rate.setdefault("unpruned", []).append((record["seed"], record["baseline_metrics"]))
        by_rate.setdefault(f"{record['target_prune_rate']:g}", []).append((record["seed"], record["metrics"]))
    table = []
    for (task, method), by_rate in rows.items():
        first = next(iter(by_rate["unpruned"][0][1]))
        row = {"task": task, "method": method, "metric": first}
        for name in ("unpruned", *(f"{rate:g}" for rate in rates)):
            # A baseline stands beside each rate, and is one for each seed.
            seeds = dict(by_rate.get(name, []))
            row[name] = percent([metrics[first] for metrics in seeds.values()]) if seeds else ""
        table.append(row)
    return pd.DataFrame(table)


def budgets(records: Sequence[dict]) -> pd.DataFrame:
    """The first metric of records whose schedules were made for a budget, by budget: a row per task, method and way.

    Behind each is the difference to the unpruned baseline, in points.
    """
    rows: dict[tuple, dict[float, list[dict]]] = {}
    for record in records:
        if target := record.get("target_flops_reduction"):
            rows.setdefault((record["task"], method_name(record), way(record)), {}).setdefault(target, []).append(
                record
            )
    targets = sorted({target for by_budget in rows.values() for target in by_budget})
    table = []
    for (task, method, how), by_budget in rows.items():
        cells = [cell for each in by_budget.values() for cell in each]
        first = next(iter(cells[0]["baseline_metrics"]))
        unpruned = {cell["seed"]: cell["baseline_metrics"][first] for cell in cells}
        row = {"task": task, "method": method, "schedule": how, "metric": first, "unpruned": percent(unpruned.values())}
        for target in targets:
            found = by_budget.get(target, [])
            row[f"{target:g}x"] = ""
            if found:
                lost = np.mean([cell["metrics"][first] - cell["baseline_metrics"][first] for cell in found])
                row[f"{target:g}x"] = f"{percent([cell['metrics'][first] for cell in found])} ({100 * lost:+.1f})"
        table.append(row)
    return pd.DataFrame(table)


def by_target(records: Sequence[dict]) -> list[pd.DataFrame]:
    """The tables by budget and by rate, where there are several of them to compare."""
    found = []
    if len({record.get("target_flops_reduction") for record in records}) > 2:  # the baseline has none
        found.append(budgets(records))
    if len({record.get("target_prune_rate", 0) for record in records}) > 2:  # a rate of 0 is the baseline's
        found.append(curve(records))
    return found


def way(record: dict) -> str:
    """How a record's schedule was made for its budget."""
    if record["schedule_source"] == "learned":
        return "soft-extract" if record["settings"]["search"] else "learned"
    return "first layer" if not any(record["schedule"][1:]) else "uniform"


def schedule_text(record: dict) -> str:
    """What runs of different seeds have in common: the schedule or rate, or what a learned one was to reach."""
    if record.get("schedule_source") == "learned":
        target = record["target_flops_reduction"]
        return f"{way(record)} for {target:g}x" if target else f"lambda {record['settings']['search']['penalty']:g}"
    rates = record["schedule"] if "schedule" in record else [record["target_prune_rate"]]
    return ",".join(f"{rate:g}" for rate in rates)


def method_name(record: dict) -> str:
    """The method, with its student's teacher and with a way of counting that is not the usual one."""
    name = f"{record['method']} of {record['teacher']}" if record["teacher"] else record["method"]
    return name + (" (padded count)" if record["count"] == "padded" else "")


def _mean(cells: Sequence[dict], *path: str) -> float:
    return float(np.mean([cell[path[0]][path[1]] for cell in cells]))


def metric_text(metrics: Sequence[dict[str, float]]) -> str:
    """``accuracy 84.1 ± 0.4, f1 88.9 ± 0.2``: percent, mean and standard deviation over seeds."""
    return ", ".join(f"{name} {percent([each[name] for each in metrics])}" for name in metrics[0])


def percent(values: Iterable[float]) -> str:
    """``84.1 ± 0.4``: mean and, of two or more, standard deviation."""
    found = 100 * np.array(list(values))
    return f"{found.mean():.1f}" + (f" ± {found.std(ddof=1):.1f}" if len(found) > 1 else "")


def markdown(table: pd.DataFrame) -> str:
    """A table that reads well on a terminal and in a README."""
    rows = [list(table.columns), *table.astype(str).values.tolist()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    padded = [[text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in padded)


def plural(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"
