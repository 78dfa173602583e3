"""Tables of records, for the end of a run, for the report's page and for the README."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from pruner.compress import builtin as builtin
from pruner.compress.method import Dense, method_names
from pruner.compress.tokens.scores import SCORERS
from pruner.report.records import Record
from pruner.training.context import identity
from pruner.utils.errors import listed
from pruner.utils.text import shorten

LONGEST = 60  # characters of a setting in a label
# How a schedule was made, as tables say it and in their order; one that was given speaks for itself.
WAYS = {"sampled": "learned", "uniform": "uniform", "first": "first layer", "soft-extract": "soft-extract", "given": ""}
# What only some methods' records have.
NUMBERS = [
    "target_prune_rate",
    "target_flops_reduction",
    "tokens.effective_rate",
    "weights_remaining",
    "latency.speedup",
]
KEPT = ["kept.layers", "kept.heads", "kept.neurons"]
OPTIONAL = ["schedule", "schedule_source", "tokens.kept_by_layer", *KEPT, *NUMBERS]


def method_order() -> list[str]:
    """List the methods in the order of tables and legends: that of their registration. Unknown ones come after."""
    registered = [name for backbone in ("bert", "lstm") for name in method_names(backbone)]
    return list(dict.fromkeys([Dense.name, *SCORERS, *registered]))


def to_frame(records: Sequence[Record]) -> pd.DataFrame:
    """Make a frame of a row per record, its nested keys joined by dots as in ``metrics.accuracy``.

    Added are ``pruned``, false for baselines; ``metric``, the name of the first one, with its ``score`` and that of the
    ``unpruned`` model in percent, and what was ``lost`` or won between them; ``held_out``, the score on training rows
    that nothing was trained on; ``way``, how the schedule was made; and what is said of a model that gives one answer
    only, ``one_answer``, and of its baseline, ``unpruned_answer``.
    """
    frame = pd.json_normalize([record.to_json() for record in records])
    frame = frame.reindex(columns=frame.columns.union(OPTIONAL, sort=False))
    frame[NUMBERS] = frame[NUMBERS].apply(pd.to_numeric)  # and no None
    frame["pruned"] = frame["method"] != Dense.name
    frame["metric"] = [next(iter(record.metrics)) for record in records]
    frame["score"] = [100 * next(iter(record.metrics.values())) for record in records]
    frame["unpruned"] = [100 * record.baseline_metrics[next(iter(record.metrics))] for record in records]
    frame["lost"] = frame["score"] - frame["unpruned"]
    frame["held_out"] = [100 * next(iter(record.held_out_metrics.values()), math.nan) for record in records]
    frame["way"] = [WAYS.get(source, source) if isinstance(source, str) else "" for source in frame["schedule_source"]]
    frame["one_answer"] = [one_answer(record.collapsed) for record in records]
    frame["unpruned_answer"] = [one_answer(record.baseline_collapsed) for record in records]
    return frame


def one_answer(collapsed: Mapping[str, dict]) -> str:
    """Write ``answers only "1", 68.4 % of dev``, for each dev set on which a model does; nothing where it does not."""
    told = []
    for name, entry in collapsed.items():
        # The name of a class may be any text, and stands in cells of Markdown.
        answer = listed([entry["answer"]]).replace("|", "/")
        is_class = entry["share"] is not None
        told.append(f'"{answer}", {100 * entry["share"]:.1f} % of {name}' if is_class else f"{answer} on {name}")
    return f"answers only {' and '.join(told)}" if told else ""


def collapse_note(cells: pd.DataFrame) -> str:
    """Say in how many seeds of a row the model, or its baseline, gives one answer only."""
    told = []
    for column, whose in (("one_answer", ""), ("unpruned_answer", "baseline ")):
        if whose and not cells["pruned"].all():
            continue
        for text, number in cells.loc[cells[column] != "", column].value_counts(sort=False).items():
            seeds = "" if len(cells) == 1 else f" in {number} of {len(cells)} seeds"
            told.append(f"{whose}{text}{seeds}")
    return "; ".join(told)


def mark(one_answers: pd.Series) -> str:
    """Mark a mean over seeds in some of which the model gives one answer only."""
    number, seeds = (one_answers != "").sum(), len(one_answers)
    return "" if not number else " collapsed" if seeds == 1 else f" ({number} of {seeds} collapsed)"


def labelled(records: Sequence[Record]) -> pd.DataFrame:
    """Make the frame of one table, in its order, with the ``label`` of each row's method: its title.

    Where seeds of a row were trained differently, it has also those settings that tell some of them apart.
    """
    frame = to_frame(records)
    settings = pd.DataFrame(
        [
            {key: json.dumps(value, sort_keys=True) for key, value in identity(record.settings).items()}
            for record in records
        ],
        frame.index,
    )
    rows = [frame["title"], frame["variant"]]
    varying = sorted(settings.columns[settings.fillna("null").groupby(rows).nunique().gt(1).any()])
    differences = (told.dropna().items() for _, told in settings[varying].iterrows())
    frame["label"] = [
        ", ".join([title, *(shorten(f"{key} {value}", LONGEST) for key, value in told)]).replace("|", "/")
        for title, told in zip(frame["title"], differences, strict=True)
    ]
    by = ["method", "label", "way", "target_flops_reduction", "tokens.effective_rate", "seed"]
    return ordered(frame, by, method=method_order(), way=WAYS.values())


def ordered(frame: pd.DataFrame, by: Sequence[str], **orders: Iterable[str]) -> pd.DataFrame:
    """Sort rows by columns: those that have an order by the place in it, what is not in it last."""

    def key(column: pd.Series) -> pd.Series:
        places = {value: place for place, value in enumerate(orders.get(str(column.name), ()))}
        return column.map(places).fillna(len(places)) if places else column

    return frame.sort_values(list(by), key=key, kind="stable", na_position="first")


def summary(frame: pd.DataFrame, method: str = "title", differences: bool = False) -> pd.DataFrame:
    """Make a table with a row per task, method and variant: means over seeds, and deviations of two or more.

    ``method`` is the column that names methods, ``title`` or ``label``; ``differences``: show what each metric lost.
    """
    compared = frame[frame["pruned"]] if frame["pruned"].any() else frame
    is_schedule, is_rate = (compared[key].notna().all() for key in ("schedule", "target_prune_rate"))
    variants = "schedule" if is_schedule else "rate" if is_rate else "variant"
    rows = []
    for (task, name, variant), cells in frame.groupby(["task", method, "variant"], sort=False):
        scores, unpruned = nested(cells, "metrics"), nested(cells, "baseline_metrics")
        row = {
            "task": task,
            "method": name,
            variants: variant,
            "seeds": len(cells),
            "metric": metric_text(scores),
            "baseline": metric_text(unpruned),
            "difference": metric_text(scores - unpruned, "+.1f"),
            "tokens not computed": average(cells["tokens.effective_rate"], "{:.1%}"),
            "FLOPs reduction": average(cells["flops.reduction"], "{:.2f}x"),
            "speed-up": average(cells["latency.speedup"], "{:.2f}x"),
            "note": collapse_note(cells),
        }
        rows.append(row if cells["pruned"].all() else row | {"difference": "", "FLOPs reduction": ""})
    table = pd.DataFrame(rows).drop(columns=[] if differences else "difference")
    return table if table["note"].any() else table.drop(columns="note")


def nested(frame: pd.DataFrame, key: str) -> pd.DataFrame:
    """Return the columns of what is nested below a key, those that the records have."""
    columns = frame.filter(regex=rf"^{key}\.").dropna(axis="columns", how="all")
    return columns.rename(columns=lambda name: name.removeprefix(f"{key}."))


def hardware(gpu: str | None, cpu: str | None, threads: float | None) -> str:
    """Name what a record was timed on; nothing where it does not say."""
    if isinstance(gpu, str):
        return gpu
    return f"{cpu} with {threads:.0f} threads" if isinstance(cpu, str) and pd.notna(threads) else ""


def average(values: pd.Series, form: str) -> str:
    return form.format(values.mean()) if values.notna().any() else ""


def mean_text(values: pd.Series, form: str = ".1f") -> str:
    """Write ``84.1 ± 0.4``: the mean and, of two or more, the standard deviation."""
    deviation = f" ± {values.std():.1f}" if len(values) > 1 else ""
    return f"{round(values.mean(), 1) + 0.0:{form}}{deviation}"  # plus 0: there is no -0.0


def metric_text(metrics: pd.DataFrame | Sequence[dict[str, float]], form: str = ".1f") -> str:
    """Write ``accuracy 84.1 ± 0.4, f1 88.9 ± 0.2``: percent, over rows."""
    frame = 100 * pd.DataFrame(metrics)
    return ", ".join(f"{name} {mean_text(frame[name], form)}" for name in frame)


def markdown(table: pd.DataFrame) -> str:
    """Write a table that reads well on a terminal and in a README."""
    rows = [list(table.columns), *table.astype(str).values.tolist()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    padded = [[text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in padded)


def plural(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"
