"""The page of all results: tables, figures and a CSV of the records."""

import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from pruner.report.collection import Group, groups, read
from pruner.report.figure_data import pictures
from pruner.report.figures import draw
from pruner.report.tables import by_target, grouped, markdown, method_name, plural, schedule_text, summary
from pruner.utils.errors import UserError
from pruner.utils.files import write_whole

OURS = "<!-- written by python -m pruner.report, and replaced by the next one -->"
INTRODUCTION = f"""{OURS}
# Results

What the runs have written below this folder: a `record.json` and a `run.log` in `BERT/<task>/<run>/` and
`LSTM/<task>/<run>/`. `records.csv` has a row for each of the records; `pandas.read_csv` reads it.

Metrics are in percent, means over seeds with standard deviations where there are two or more. The difference is to the
unpruned baseline that was trained with the same settings and seed, in points. FLOPs and times count everything that a
method needs; records of different folders, models or settings are not averaged.
"""
LONG = "loss", "examples"  # of a record; what a CSV has no place for
GRID_FOLDERS = "BERT", "LSTM"  # of the default layout, in the folder of which the report lies


def table(records: Sequence[dict]) -> pd.DataFrame:
    """A row per label and schedule or rate: ``summary``, with the difference to the baseline."""
    rows = []
    for (label, _), cells in grouped(records, lambda record: (record["label"], schedule_text(record))).items():
        row = summary(cells).drop(columns="task").assign(method=label)
        row.insert(list(row).index("baseline") + 1, "difference", differences(cells))
        rows.append(row)
    return pd.concat(rows, ignore_index=True)


def differences(cells: Sequence[dict]) -> str:
    """``accuracy -1.5 ± 0.3``: to the baseline of the same seed, in points."""
    found = []
    for name in cells[0]["metrics"]:
        lost = 100 * np.array([cell["metrics"][name] - cell["baseline_metrics"][name] for cell in cells])
        deviation = f" ± {lost.std(ddof=1):.1f}" if len(lost) > 1 else ""
        found.append(f"{name} {round(lost.mean(), 1) + 0.0:+.1f}{deviation}")
    return ", ".join(found) if cells[0]["method"] != "baseline" else ""


def csv(records: dict[str, dict]) -> str:
    """One row per record: its folder, then all it holds, nested keys joined by dots, lists as JSON."""
    rows = [{"folder": name} | {k: v for k, v in records[name].items() if k not in LONG} for name in sorted(records)]
    flat = pd.json_normalize(rows)
    # What is nothing in one record and has keys in another, as a baseline's latency, has columns for these only.
    names = list(map(str, flat))
    nothing = [name for name in names if flat[name].isna().all() and any(key.startswith(f"{name}.") for key in names)]
    flat = flat.drop(columns=nothing)
    return flat.map(lambda cell: json.dumps(cell) if isinstance(cell, list) else cell).to_csv(index=False)


def section(group: Group, figures: Sequence[str]) -> str:
    """A group's heading, hardware, tables and figures."""
    hardware = {(each["environment"].get("gpu") or f"{each['environment'].get('cpu')} with "
                 f"{each['environment'].get('threads')} threads") for each in group.records
                if isinstance(each.get("environment"), dict)}  # fmt: skip
    parts = [f"## {group.title}", f"Timed on {', '.join(sorted(hardware))}." if hardware else ""]
    parts.append(markdown(table(group.records)))
    if all(record["label"] == method_name(record) for record in group.records):
        parts += [markdown(more) for more in by_target(group.records)]
    parts += [f"![{Path(name).name}]({name}.png) ([SVG]({name}.svg))" for name in figures]
    return "\n\n".join(filter(None, parts))


def drawn(group: Group, place: str, root: Path, with_figures: bool) -> tuple[list[str], dict[str, bytes]]:
    """The names of the group's figures without their endings, and the files; or of those that are there already."""
    names: list[str] = []
    files: dict[str, bytes] = {}
    for picture in pictures(group.title, group.records):
        name = f"figures/{place}-{picture.name}"
        if with_figures:
            files |= {f"{name}.{kind}": content for kind, content in draw(picture).items()}
        if with_figures or (root / f"{name}.png").is_file():
            names.append(name)
    return names, files


def write_report(root: Path, with_figures: bool = True) -> tuple[Path, list[str]]:
    """Write ``README.md``, ``records.csv`` and ``figures/`` into ``root``; the page, and what is to be said of it.

    Without figures, the page shows those that are there, and says so.

    Raises:
        UserError: no records, or the place cannot be written.
    """
    records, skipped = read(root)
    page, found = root / "README.md", groups(records)
    before = page.read_text(encoding="utf-8", errors="replace") if os.path.lexists(page) else OURS
    if not before.startswith(OURS):
        raise UserError(f"{page}: not written by this report, and left as it is; move it, or name another folder")
    files: dict[str, bytes] = {}
    parts, places = [INTRODUCTION.rstrip()], set[str]()
    if not with_figures:
        parts.append("`python -m pruner.report` draws figures; those shown here are as old as their files.")
    for group in found:
        place = re.sub(r"[^A-Za-z0-9.-]+", "-", "-".join(filter(None, (group.folder, group.model, group.task))))
        while place in places:
            place += "-"
        places.add(place)
        names, new = drawn(group, place, root, with_figures)
        files |= new
        parts.append(section(group, names))
    parts += [f"Skipped, for they are no records of these runs: {', '.join(skipped)}."] if skipped else []
    text = "\n\n".join(parts) + "\n"
    files |= {"records.csv": csv(records).encode(errors="replace"), page.name: text.encode(errors="replace")}
    for name, content in files.items():
        if not (root / name).is_file() or (root / name).read_bytes() != content:
            write_whole(root / name, content)
    for name in linked(before) - linked(text):
        with suppress(OSError):
            (root / name).unlink()
    said = [f"skipped {root / name}: not a record" for name in skipped]
    figures = f", {plural(sum(name.endswith('.png') for name in files), 'figure')}" if with_figures else ""
    return page, [*said, f"-> {page} ({plural(len(records), 'record')}, {plural(len(found), 'table')}{figures})"]


def linked(text: str) -> set[str]:
    """The figures that a page shows."""
    return set(re.findall(r"\((figures/[^)/]+\.(?:png|svg))\)", text))


def report_grid(records: Path) -> None:
    """The tables, after a grid whose cells are in ``records``. Whatever is the matter is one line: the run is done."""
    parent = records.parent
    # In the default layout the page is for both models; but it belongs into no folder that holds more than records.
    both = records.name in GRID_FOLDERS and not Path.cwd().is_relative_to(parent.resolve())
    try:
        print("\n".join(write_report(parent if both else records, with_figures=False)[1]))
    except Exception as error:
        print(f"no report: {' '.join(str(error).split()) or type(error).__name__}")
