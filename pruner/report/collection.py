"""Records as they are found in a folder: which of them there are, and which belong into one table."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pruner.data.task import NAME
from pruner.report.figure_data import ORDER, WAYS, made, pictures
from pruner.report.records import AS_BEFORE, OUTDATED, read_record
from pruner.report.tables import grouped, method_name, schedule_text
from pruner.utils.errors import UserError
from pruner.utils.files import cannot_read

NOT_OURS = "published", "speed"  # in a folder named records: what came with the code
LARGEST = 1e9  # that a figure shows


@dataclass(frozen=True)
class Group:
    """Records that share a table. Each has its ``label``, the name of its method and of settings that tell it apart."""

    folder: str
    model: str
    task: str
    records: list[dict]

    @property
    def title(self) -> str:
        folder = self.folder or self.model.upper()
        return f"{folder}: {self.task}" + ("" if self.model.upper() in folder.split("/") else f" ({self.model})")


def find(root: Path) -> Iterator[Path]:
    """The ``record.json`` of all folders below, but of no hidden one: those are being written.

    Raises:
        UserError: a folder cannot be read.
    """

    def complain(error: OSError) -> None:
        raise cannot_read(Path(error.filename), error)

    seen = set()  # links may lead in circles
    for folder, inside, files in os.walk(root, onerror=complain, followlinks=True):
        hidden = NOT_OURS if Path(folder) == root and root.resolve().name == "records" else ()
        inside[:] = sorted(name for name in inside if not name.startswith(".") and name not in hidden)
        if os.path.realpath(folder) in seen:
            inside.clear()
        elif "record.json" in files + inside:
            yield Path(folder, "record.json")
        seen.add(os.path.realpath(folder))


def read(root: Path) -> tuple[dict[str, dict], list[str]]:
    """The records below ``root`` by their folders, relative to it; and the files that are none.

    Raises:
        UserError: no such folder, or no record in it.
    """
    if not os.path.isdir(root):
        raise UserError(f"{root}: no such folder; name the one that the runs wrote to with --records")
    records, skipped = {}, []
    for path in sorted(find(root)):
        name = path.parent.relative_to(root).as_posix()
        try:
            record = read_record(path.parent)
            if record is not None:
                check(record)
                records[name] = record
            elif path.exists() and not (path.parent / OUTDATED).is_file():
                raise UserError("incomplete")
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
            skipped.append(f"{name}/record.json")
    if not records:
        more = f" (of {len(skipped)} files none is whole, as {skipped[0]})" if skipped else ""
        raise UserError(f"{root}: no records in it{more}; run RunBert4Glue.py first, or name a folder with --records")
    return records, skipped


def check(record: dict) -> None:
    """Complain, by one error or another, about what the tables or figures could not show."""
    json.dumps(record, allow_nan=False)
    names = record["model"], record["task"], record["method"], record["teacher"] or "none"
    rates = [record["target_prune_rate"]] if record["model"] == "lstm" else record["schedule"]
    latency = [record["latency"]["speedup"]] if record["method"] != "baseline" else []
    numbers = [*rates, *latency, record["flops"]["reduction"], *record["metrics"].values()]
    if not all(map(NAME.fullmatch, names)) or ("schedule" in record) == (record["model"] == "lstm"):
        raise ValueError
    if not all(abs(number) <= LARGEST for number in numbers) or max(map(abs, record["metrics"].values())) > 1:
        raise ValueError
    for picture in pictures("", [record | {"label": method_name(record)}]):
        for line in (line for panel in picture.panels for line in panel.lines):
            if any(abs(number) > LARGEST for number in line.x + line.y):
                raise ValueError


def groups(records: dict[str, dict]) -> list[Group]:
    """One for each folder, model and task, with its records in the order of the table."""

    def key(name: str) -> tuple:
        record = records[name]
        return "/".join(name.split("/")[:-2]), record["model"], record["task"], tuple(record["metrics"])

    by_key = grouped(sorted(records), key)
    return [
        Group(folder, model, task, ordered(labelled([records[name] for name in by_key[folder, model, task, metrics]])))
        for folder, model, task, metrics in sorted(by_key)
    ]


def labelled(records: Sequence[dict]) -> list[dict]:
    """The records with their ``label``: where seeds of a row were trained differently, it says how."""
    settings = [AS_BEFORE | record["settings"] for record in records]
    varying = set()
    rows = grouped(zip(records, settings, strict=True), lambda pair: (method_name(pair[0]), schedule_text(pair[0])))
    for row in rows.values():
        for name in {name for _, chosen in row for name in chosen}:
            if len({json.dumps(chosen.get(name), sort_keys=True) for _, chosen in row}) > 1:
                varying.add(name)
    found = []
    for record, chosen in zip(records, settings, strict=True):
        told = [f"{name} {json.dumps(chosen[name])}" for name in sorted(varying) if name in chosen]
        found.append(record | {"label": ", ".join([method_name(record), *told]).replace("|", "/")})
    return found


def ordered(records: Sequence[dict]) -> list[dict]:
    def place(record: dict) -> tuple:
        method = ORDER.index(record["method"]) if record["method"] in ORDER else len(ORDER)
        how, target = WAYS.index(made(record)), record.get("target_flops_reduction") or 0
        return method, record["label"], how, target, record["tokens"]["effective_rate"], record["seed"]

    return sorted(records, key=place)
