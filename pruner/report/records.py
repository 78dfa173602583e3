"""Records: what a finished cell has found, checked, in one folder per cell that is written whole or not at all."""

import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tqdm import tqdm

from pruner.report.schema import SCHEMA, VERSION, column, fits, plain
from pruner.report.upgrade import upgrade
from pruner.training.context import identity
from pruner.utils.errors import NotFiniteError, UserError
from pruner.utils.files import cannot_read, check_regular, is_there
from pruner.utils.folders import whole_folder
from pruner.utils.text import clean, impersonal, printable

FOLDER = "folder"  # the column of a table that names a record
OUTDATED = "outdated"  # a file beside a record that is to be replaced
NOT_OURS = "published", "speed"  # in a folder named records: what came with the code


@dataclass(frozen=True, kw_only=True)
class Record:
    """The result of one finished cell, its texts ``clean``.

    Raises a ValueError if a key is not as said here, or is in ``section`` too.
    """

    model: str  # the backbone: "bert" or "lstm"
    task: str
    method: str  # its name in the registry; "baseline" is the unpruned model
    title: str  # the method as tables show it: "student of emission"
    variant: str  # what tells cells of one method apart, as tables show it: "0.6,0,0", "learned for 2x", "unpruned"
    seed: int
    metrics: dict[str, float]  # from -1 to 1, by name; tables by budget or rate and figures show the first
    baseline_metrics: dict[str, float]  # the same of the unpruned model of the same settings and seed
    flops: dict[str, float]  # baseline, pruned, reduction
    settings: dict[str, Any]  # all that decides the result; a finished cell is only skipped by a run that has the same
    majority_share: dict[str, float] = field(default_factory=dict)  # of each dev set's most frequent class
    held_out_metrics: dict[str, float] = field(default_factory=dict)  # of the training rows held out, if there were any
    collapsed: dict[str, dict] = field(default_factory=dict)  # dev sets with one answer only: "answer", "share"
    baseline_collapsed: dict[str, dict] = field(default_factory=dict)  # the same of the unpruned model
    metrics_by_length: list[dict] = field(default_factory=list)  # {"tokens": [first, last], "rows", metrics}
    parameters: dict[str, int] | None = None  # baseline, pruned
    bytes: dict[str, int] | None = None  # baseline, pruned
    file_bytes: int | None = None  # of the weights' file that was kept, in float32
    latency: dict[str, Any] | None = None  # baseline_ms, pruned_ms, speedup and how it was measured; None: it was not
    examples: list[dict[str, str]] = field(default_factory=list)
    model_folder: str | None = None  # where the model was kept, if it was
    loss: list[dict[str, float]] = field(default_factory=list)  # thinned: step, loss
    environment: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0  # that the cell took
    status: str = "complete"
    version: int = VERSION
    section: dict[str, Any] = field(default_factory=dict)  # the method's own keys, which stand beside those above

    def __post_init__(self) -> None:
        if shared := self.section.keys() & {*COMMON, FOLDER}:
            raise ValueError(f"{', '.join(sorted(shared))}: in a method's section, but a key of all records")
        if unnamed := [key for key in self.section if not column(key)]:
            raise ValueError(f"{unnamed[0]!r:.60}: no name of a table's column")
        content = self.to_json()
        for key, value in content.items():
            if not plain(value) or (key in SCHEMA and not fits(value, SCHEMA[key])):
                raise ValueError(f"{key}: {value!r:.60} cannot stand in a record")
        if self.metrics.keys() != self.baseline_metrics.keys():
            raise ValueError("baseline_metrics: not those that metrics has")
        for key in COMMON:
            object.__setattr__(self, key, clean(getattr(self, key)))

    def to_json(self) -> dict[str, Any]:
        """Return what ``record.json`` holds: the common keys, and the section's beside them."""
        return {key: getattr(self, key) for key in COMMON if key != "section"} | self.section

    @classmethod
    def from_json(cls, content: Any) -> "Record":
        """Make a record of what ``to_json`` gave, or an older version of it; raise a ValueError if it is none."""
        try:
            content = content if "version" in content else upgrade(content) | {"version": VERSION}
            common = {key: content[key] for key in COMMON if key in content}
            return cls(**common, section={key: content[key] for key in content if key not in COMMON})
        except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
            raise ValueError(f"not a record ({error})") from None


COMMON = [entry.name for entry in fields(Record)]


class Log:
    """Prints lines above the progress bars; keeps those of the current cell, with their times, for its ``run.log``."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, text: str = "") -> None:
        text = printable(text, "\n")
        tqdm.write(text)
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self.lines += [f"{now}  {impersonal(line)}" for line in text.strip("\n").split("\n")]

    def start_cell(self) -> None:
        self.lines = []


def write_record(
    folder: Path, record: Record, log: Log, files: Mapping[str, str] = MappingProxyType({}), stale: Iterable[str] = ()
) -> None:
    """Write ``record.json``, ``run.log`` and other ``files`` into ``folder``: all, or none and raise a UserError.

    Files of ``stale`` names go, if they are an earlier record's; what else lies there stays.
    """
    with whole_folder(folder, last="record.json", stale=stale) as temporary:
        text = json.dumps(record.to_json(), indent=1, ensure_ascii=False)
        for file, content in {"record.json": f"{text}\n", "run.log": "\n".join(log.lines) + "\n", **files}.items():
            (temporary / file).write_text(content, encoding="utf-8", newline="")
    with suppress(FileNotFoundError):
        (folder / OUTDATED).unlink()


def read_record(folder: Path) -> Record | None:
    """Return the record of a finished cell; ``None`` of another. Raise a UserError if that cannot be told."""
    path = folder / "record.json"
    if not is_there(path) or is_there(folder / OUTDATED):
        return None
    check_regular(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("status", "complete") != "complete":
            return None
        return Record.from_json(content)
    except (ValueError, RecursionError, OSError):
        raise UserError(f"{path}: not a record; remove its folder or run with --force") from None


def finished_record(folder: Path, settings: dict) -> Record | None:
    """Do as ``read_record``, and raise a UserError if the record was made with other settings."""
    record = read_record(folder)
    if record is None:
        return None
    settings, recorded = identity(clean(json.loads(json.dumps(settings)))), identity(record.settings)
    for key in sorted(settings.keys() | recorded.keys()):
        then, now = recorded.get(key), settings.get(key)
        if then != now:
            problem = f"finished with {key} = {then}, this run has {now}"
            raise UserError(f"{folder}: {problem}; replace it with --force or write elsewhere with --records")
    return record


def mark_outdated(folder: Path) -> None:
    """Let the cell be run again; its record stays until then."""
    if is_there(folder / "record.json"):
        (folder / OUTDATED).touch()


def read_records(root: Path) -> tuple[dict[str, Record], list[str]]:
    """Read the records below ``root``, by their folders relative to it; and name the files that are none.

    Hidden folders are left out: they are being written. Raises a UserError if a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise cannot_read(Path(error.filename), error)

    records, skipped = {}, []
    visited = set()  # links may lead in circles
    for folder, inside, files in os.walk(root, onerror=refuse, followlinks=True):
        place, real_place = Path(folder), os.path.realpath(folder)
        hidden = NOT_OURS if place == root and root.resolve().name == "records" else ()
        inside[:] = sorted(name for name in inside if not name.startswith(".") and name not in hidden)
        if real_place in visited:
            inside.clear()
        elif "record.json" in files + inside:
            name = place.relative_to(root).as_posix()
            try:
                record = read_record(place)
            except UserError:
                record = None
            if record:
                records[name] = record
            elif not is_there(place / OUTDATED):
                skipped.append(f"{name}/record.json")
        visited.add(real_place)
    return records, skipped


def finite(values: dict[str, float], where: str) -> dict[str, float]:
    """Return the metrics as they are; raise a NotFiniteError if one is NaN or infinite."""
    for key, value in values.items():
        if not math.isfinite(value):
            raise NotFiniteError(f"{where}: {key} is {value}; the training diverged, try a lower learning rate")
    return values
