"""The page of all results: tables, figures and a CSV of the records."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pandas as pd

from pruner.report.comparisons import comparisons
from pruner.report.figure_data import charts
from pruner.report.figures import draw
from pruner.report.kept_map import draw_maps, kept_maps
from pruner.report.records import FOLDER, Record, read_records
from pruner.report.tables import hardware, labelled, markdown, plural, summary
from pruner.utils.errors import UserError
from pruner.utils.files import check_regular, is_there, write_whole
from pruner.utils.text import escape_csv, escape_markdown, printable

OURS = "<!-- written by python -m pruner.report, and replaced by the next one -->"
INTRODUCTION = f"""{OURS}
# Results

What the runs have written below this folder: a `record.json` and a `run.log` in `BERT/<task>/<run>/` and
`LSTM/<task>/<run>/`. `records.csv` has a row for each of the records; `pandas.read_csv` reads it.

Metrics are in percent, means over seeds with standard deviations where there are two or more. The difference is to the
unpruned baseline that was trained with the same settings and seed, in points. FLOPs and times count everything that a
method needs; records of different folders, models or settings are not averaged.
"""
LONG = ["loss", "examples"]  # of a record; what a CSV has no place for
FIGURE = re.compile(r"\((figures/[^)/]+\.(?:png|svg))\)")  # as a page shows one
LONGEST = 100  # characters of a figure's name before the chart's
GRID_FOLDERS = "BERT", "LSTM"  # of the default layout, in the folder of which the report lies


class Group(NamedTuple):
    """Records that share a table, ``labelled``, and their ``folder``; its heading, and how its figures' names begin."""

    title: str
    place: str
    frame: pd.DataFrame


def groups(records: dict[str, Record]) -> list[Group]:
    """Make a group for each folder, model, task and list of metrics."""
    tables = defaultdict(list)
    for name in sorted(records):
        record = records[name]
        tables["/".join(name.split("/")[:-2]), record.model, record.task, tuple(record.metrics)].append(name)
    made: list[Group] = []
    for (folder, model, task, _), members in sorted(tables.items()):
        heading = f"{printable(folder) or model.upper()}: {task}"
        if model.upper() not in (folder or model.upper()).split("/"):
            heading += f" ({model})"
        place = re.sub(r"[^A-Za-z0-9.-]+", "-", "-".join(filter(None, (folder, model, task))))[-LONGEST:]
        while place in [group.place for group in made]:
            place += "-"
        frame = labelled([records[name] for name in members])
        made.append(Group(heading, place, frame.assign(folder=pd.Series(members, dtype=object))))  # any bytes
    return made


def csv(records: dict[str, Record]) -> str:
    """Write a row per record: its folder, then all it holds, nested keys joined by dots, lists as JSON."""
    names = sorted(records)
    frame = pd.json_normalize([records[name].to_json() for name in names]).drop(columns=LONG)
    # What is null in one record and has keys in another, as a baseline's latency, has columns for these only.
    parents = {column.rpartition(".")[0] for column in frame}
    frame = frame.drop(columns=[column for column in frame if column in parents and frame[column].isna().all()])
    frame.insert(0, FOLDER, [printable(name) for name in names])
    frame = frame.map(lambda cell: json.dumps(cell) if isinstance(cell, list) else cell)
    frame = frame.map(lambda cell: escape_csv(cell) if isinstance(cell, str) else cell).rename(columns=escape_csv)
    return frame.to_csv(index=False)


def words(frame: pd.DataFrame, root: Path) -> list[str]:
    """Link for each row of the ``summary`` to the pages of surviving words that its records below ``root`` have."""
    pages = [f"{folder}/survivors.html" for folder in frame["folder"]]
    links = [f"[words]({quote(os.fsencode(page))})" if (root / page).is_file() else "" for page in pages]
    rows = frame.assign(link=links).groupby(["task", "label", "variant"], sort=False)
    return [" ".join(filter(None, cells["link"])) for _, cells in rows]


def section(group: Group, figures: Sequence[str], root: Path) -> str:
    """Write a group's heading, hardware, tables and figures, for a page in ``root``."""
    frame = group.frame
    blank = pd.Series(None, frame.index)
    timed_on = map(hardware, *(frame.get(f"environment.{key}", blank) for key in ("gpu", "cpu", "threads")))
    parts = [f"## {escape_markdown(group.title)}"]
    if devices := sorted({*timed_on} - {""}):
        parts.append(f"Timed on {escape_markdown(', '.join(devices))}.")
    table, links = summary(frame, "label", differences=True).drop(columns="task"), words(frame, root)
    table = table.astype(str).map(escape_markdown)
    parts.append(markdown(table.assign(words=links) if any(links) else table))
    if (frame["label"] == frame["title"]).all():
        parts += [markdown(compared.astype(str).map(escape_markdown)) for compared in comparisons(frame)]
    parts += [f"![{Path(name).name}]({name}.png) ([SVG]({name}.svg))" for name in figures]
    return "\n\n".join(parts)


def write_report(root: Path, with_figures: bool = True) -> Path:
    """Write ``README.md``, ``records.csv`` and ``figures/`` into ``root``; return the page, and print what it holds.

    Without figures, the page shows those that are there, and says so. Raises a UserError if there are no records.
    """
    if not os.path.isdir(root):
        raise UserError(f"{root}: no such folder; name the one that the runs wrote to with --records")
    records, skipped = read_records(root)
    if not records:
        more = f" (of {len(skipped)} files none is whole, as {skipped[0]})" if skipped else ""
        raise UserError(f"{root}: no records in it{more}; run RunBert4Glue.py first, or name a folder with --records")
    page, tables = root / "README.md", groups(records)
    check_regular(page)
    before = page.read_text(encoding="utf-8", errors="replace") if is_there(page) else OURS
    if not before.startswith(OURS):
        raise UserError(f"{page}: not written by this report, and left as it is; move it, or name another folder")
    files: dict[str, bytes] = {}
    parts = [INTRODUCTION.rstrip()]
    if not with_figures:
        parts.append("`python -m pruner.report` draws figures; those shown here are as old as their files.")
    for group in tables:
        made: dict[str, Callable[[], dict[str, bytes]]] = {
            name: partial(draw, chart) for name, chart in charts(group.title, group.frame).items()
        }
        if maps := kept_maps(group.frame):
            made["kept"] = partial(draw_maps, maps, f"{group.title}: heads and feed-forwards kept (share of seeds)")
        figures = {f"figures/{group.place}-{name}": drawn for name, drawn in made.items()}
        if with_figures:
            files |= {f"{name}.{kind}": data for name, drawn in figures.items() for kind, data in drawn().items()}
        parts.append(
            section(group, [name for name in figures if with_figures or (root / f"{name}.png").is_file()], root)
        )
    if skipped:
        parts.append(f"Skipped, for they are no records of these runs: {', '.join(map(escape_markdown, skipped))}.")
    text = "\n\n".join(parts) + "\n"
    files |= {"records.csv": csv(records).encode(), page.name: text.encode()}
    for name, content in files.items():
        if not (root / name).is_file() or (root / name).read_bytes() != content:
            write_whole(root / name, content)
    for name in set(FIGURE.findall(before)) - set(FIGURE.findall(text)):
        with suppress(OSError):
            (root / name).unlink()
    for name in skipped:
        print(f"skipped {printable(str(root / name))}: not a record")
    more = f", {plural(sum(name.endswith('.png') for name in files), 'figure')}" if with_figures else ""
    print(f"-> {printable(str(page))} ({plural(len(records), 'record')}, {plural(len(tables), 'table')}{more})")
    return page


def report_grid(records: Path) -> None:
    """Write the page after a grid whose cells are in ``records``; an error is one line, since the run is done."""
    parent = records.parent
    # In the default layout the page is for both models; but it belongs into no folder that holds more than records.
    both = records.name in GRID_FOLDERS and not Path.cwd().is_relative_to(parent.resolve())
    try:
        write_report(parent if both else records, with_figures=False)
    except Exception as error:
        print(f"no report: {' '.join(str(error).split()) or type(error).__name__}")
