"""What the figures of one table's records show: lines, means and deviations over seeds. Nothing is drawn here.

Each record has a ``label`` here, the name of its method as the table has it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from pruner.compress.tokens.schedule import schedule_name
from pruner.compress.tokens.scores import SCORERS
from pruner.report.figures import BASELINE, Line, Panel, Picture
from pruner.report.tables import grouped, schedule_text, way

ORDER = ("baseline", *SCORERS)  # of methods, in tables and in legends
WAYS = ("learned", "uniform", "first layer", "soft-extract", "")  # of making schedules; the last is by hand
MOST_PANELS = 12  # of a figure
MOST_LINES = 9  # of a panel of schedules
NOISY = 0.03  # a loss that changes by this share of its range from point to point, on average
NEIGHBOURS = 5  # that are averaged then


def pictures(title: str, records: Sequence[dict]) -> list[Picture]:
    """The figures for which there is something to show. ``records`` are of one table and in its order."""
    found = (frontier(title, records), by_length(title, records), kept(title, records), loss(title, records))
    return [picture for picture in found if picture]


def made(record: dict) -> str:
    """How the schedule was made; nothing where it was given by hand or is a single rate."""
    source, target = record.get("schedule_source"), record.get("target_flops_reduction")
    return way(record) if source == "learned" or target else ""


def setting(record: dict) -> str:
    """What methods are compared at: a schedule, a rate, or a way of meeting a budget."""
    if target := record.get("target_flops_reduction"):
        return f"{way(record)} for {target:g}x"
    if "schedule" not in record:
        return f"rate {record['target_prune_rate']:g}"
    return schedule_text(record) if made(record) else schedule_name(record["schedule"])


def looks(records: Sequence[dict]) -> dict[str, int]:
    """A marker and a colour for each label: those of its method, the same in all figures, as far as they go."""
    found: dict[str, int] = {}
    for label, method in {record["label"]: record["method"] for record in records}.items():
        if method == "baseline":
            found[label] = BASELINE
            continue
        wanted = ORDER.index(method) - 1 if method in ORDER else len(ORDER) - 1
        while wanted in found.values():
            wanted = len(ORDER) - 1 if wanted < len(ORDER) - 1 else wanted + 1
        found[label] = wanted
    return found


def split(records: Iterable[dict]) -> tuple[list[dict], list[dict]]:
    """The baselines, and what is compared with them."""
    records = list(records)
    unpruned = [record for record in records if record["method"] == "baseline"]
    return unpruned, [record for record in records if record["method"] != "baseline"]


def average(rows: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means and standard deviations (0 of a single row) of each column."""
    values = np.array(rows, dtype=float)
    deviation = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
    return tuple(values.mean(axis=0).tolist()), tuple(deviation.tolist())


def first_metric(records: Sequence[dict]) -> tuple[str, str]:
    """Its name, and that of an axis for a hundred times of it."""
    name = next(iter(records[0]["metrics"]))
    return name, f"{name} (%)" if name.startswith(("accuracy", "f1")) else f"{name}, times 100"


def frontier(title: str, records: Sequence[dict]) -> Picture | None:
    """The metric against what is saved: one line per method and way of making schedules, its points by their saving."""
    unpruned, pruned = split(records)
    if not pruned:
        return None
    name, y_label = first_metric(records)
    look = looks(records)
    axes = (("FLOPs reduction (times)", "flops", "reduction"), ("measured speed-up (times)", "latency", "speedup"))
    panels = []
    for x_label, part, key in axes:
        lines = []
        for label, cells in grouped(unpruned, lambda record: record["label"]).items():
            height, error = average([[100 * cell["metrics"][name]] for cell in cells])
            lines.append(Line(label, (1.0,), height, (0.0,), error, BASELINE, level=True))
        for (label, how), cells in grouped(pruned, lambda record: (record["label"], made(record))).items():
            points = []
            for same in grouped(cells, setting).values():
                mean, error = average([[cell[part][key], 100 * cell["metrics"][name]] for cell in same])
                points.append((*mean, *error))
            x, y, x_error, y_error = zip(*sorted(points), strict=True)
            # Dashes tell the ways of making schedules apart where there are such, else they help with the methods.
            dash = WAYS.index(how) if any(map(made, pruned)) else look[label]
            lines.append(Line(f"{label}, {how}" if how else label, x, y, x_error, y_error, look[label], dash))
        panels.append(Panel("", x_label, tuple(lines)))
    return Picture("frontier", title, y_label, tuple(panels))


def compared(records: Sequence[dict], line: Callable[[Sequence[dict]], Line]) -> dict[str, tuple[Line, ...]]:
    """By setting, the lines of the baselines and of all methods; ``line`` makes one of the seeds of a label."""
    unpruned, pruned = split(records)

    def of(cells: Sequence[dict]) -> list[Line]:
        found = (line(same) for same in grouped(cells, lambda record: record["label"]).values())
        return [replace(each, dash=max(each.look, 0)) for each in found]

    base = of(unpruned)
    found = {name: tuple(base + of(cells)) for name, cells in grouped(pruned, setting).items()}
    return {name: lines for name, lines in found.items() if len(lines) > len(base)} or {"": tuple(base)}


def limited(title: str, panels: Sequence[Panel]) -> tuple[str, tuple[Panel, ...]]:
    more = f" (the first {MOST_PANELS} of {len(panels)} settings)" if len(panels) > MOST_PANELS else ""
    return title + more, tuple(panels[:MOST_PANELS])


def by_length(title: str, records: Sequence[dict]) -> Picture | None:
    """The metric by sentence length: a panel for each setting, a line per method, the baseline in all of them."""
    name, y_label = first_metric(records)
    look = looks(records)
    panels = []
    with_bins = [record for record in records if len(record.get("metrics_by_length") or ()) > 1]
    for spans, cells in grouped(with_bins, bins).items():

        def line(same: Sequence[dict]) -> Line:
            rows = [[100 * entry.get(name, np.nan) for entry in cell["metrics_by_length"]] for cell in same]
            y, error = average(rows)
            label = same[0]["label"]
            return Line(label, tuple(map(float, range(len(y)))), y, (), error, look[label])

        ticks = tuple(f"{first}-{last}" if first < last else f"{first}" for first, last in spans)
        for at, lines in compared(cells, line).items():
            panels.append(Panel(at, "sentence length (tokens)", lines, ticks))
    title, shown = limited(title, panels)
    return Picture("by-length", title, y_label, shown) if shown else None


def bins(record: dict) -> tuple[tuple[int, int], ...]:
    return tuple((first, last) for first, last in (entry["tokens"] for entry in record["metrics_by_length"]))


def kept(title: str, records: Sequence[dict]) -> Picture | None:
    """The share of tokens that each layer computes: by budget, where schedules were made for one, else by schedule."""
    _, pruned = split(records)
    depths = Counter(len(record["tokens"].get("kept_by_layer") or ()) for record in pruned)
    depth = max((depth for depth in depths if depth > 1), key=lambda depth: depths[depth], default=0)
    pruned = [record for record in pruned if depth and len(record["tokens"].get("kept_by_layer") or ()) == depth]
    look = looks(records)
    panels: list[tuple[str, list[Line]]] = []
    by_budget = grouped(pruned, lambda record: record.get("target_flops_reduction"))
    for target in sorted(filter(None, by_budget)):
        lines = []
        for (label, how), same in grouped(by_budget[target], lambda record: (record["label"], made(record))).items():
            line = layers(f"{label}, {how}", same, look[label])
            lines.append(replace(line, dash=WAYS.index(how)))
        panels.append((f"FLOPs reduction {target:g}x", lines))
    given = [line for cells in grouped(by_budget.get(None, []), setting).values() for line in at_setting(cells)]
    given = [replace(line, look=number, dash=number) for number, line in enumerate(given)]
    panels += [("", given[start : start + MOST_LINES]) for start in range(0, len(given), MOST_LINES)]
    shown = [Panel(name, "layer", tuple(lines), whole_numbers=True) for name, lines in panels]
    if all(len(set(line.y)) == 1 for panel in shown for line in panel.lines):
        return None  # all tokens leave before the first layer, as the tables say
    title, limit = limited(title, shown)
    return Picture("tokens", title, "real tokens computed (%)", limit, (0, 104))


def layers(label: str, cells: Sequence[dict], look: int = 0) -> Line:
    y, error = average([[100 * share for share in cell["tokens"]["kept_by_layer"]] for cell in cells])
    return Line(label, tuple(float(number + 1) for number in range(len(y))), y, (), error, look)


def at_setting(cells: Sequence[dict]) -> list[Line]:
    """One line for all methods, if they keep equally many, as they do with a schedule that was given."""
    lines = [layers(label, same) for label, same in grouped(cells, lambda record: record["label"]).items()]
    name = setting(cells[0])
    if len({tuple(round(share, 6) for share in line.y) for line in lines}) == 1:
        return [replace(lines[0], label=name)]
    return [replace(line, label=f"{line.label}, {name}") for line in lines]


def loss(title: str, records: Sequence[dict]) -> Picture | None:
    """The training loss, the mean over seeds; one panel for all settings that share their trainings."""
    with_loss = [record for record in records if len(curve(record)[0]) > 1]
    if not with_loss:
        return None
    smooth, look = any(noisy(curve(record)[1]) for record in with_loss), looks(records)

    def line(same: Sequence[dict]) -> Line:
        steps = curve(same[0])[0]
        y: np.ndarray = np.mean([np.interp(steps, *curve(cell)) for cell in same], axis=0)
        if smooth:
            weights = np.convolve(np.ones(len(y)), np.ones(NEIGHBOURS), "same")
            y = np.convolve(y, np.ones(NEIGHBOURS), "same") / weights
        return Line(same[0]["label"], tuple(steps), tuple(np.round(y, 6).tolist()), (), (), look[same[0]["label"]])

    names: dict[tuple[Line, ...], list[str]] = {}
    for name, lines in compared(with_loss, line).items():
        names.setdefault(lines, []).append(name)
    panels = [Panel(shared(found) if len(names) > 1 else "", "training step", lines) for lines, found in names.items()]
    title, shown = limited(title, panels)
    return Picture("loss", title, f"training loss{f' (mean of {NEIGHBOURS} neighbours)' if smooth else ''}", shown)


def shared(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more settings" if len(names) > 1 else "")


def curve(record: dict) -> tuple[list[float], list[float]]:
    entries = [entry for entry in record.get("loss") or () if "loss" in entry]
    return [float(entry["step"]) for entry in entries], [float(entry["loss"]) for entry in entries]


def noisy(values: Sequence[float]) -> bool:
    changes = [abs(after - before) for before, after in pairwise(values)]
    return float(np.mean(changes)) > NOISY * (max(values) - min(values)) and len(values) > 3 * NEIGHBOURS
