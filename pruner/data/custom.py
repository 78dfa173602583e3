"""A user's own table: the flags that describe it, its classes, and the task it becomes."""

import argparse
import hashlib
import json
import math
import random
import shlex
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from pathlib import Path

from pruner.data.cache import open_cache
from pruner.data.rows import Rows, read_tsv
from pruner.data.tables import TSV, read_cells
from pruner.data.task import TASKS, Task, is_free_name
from pruner.utils.errors import SettingError, UserError, listed
from pruner.utils.files import is_there

HOLD_OUT = 10  # one row of so many is evaluated on, where no file is given for that
MOST_LABELS = 1000  # beyond lie scores and texts, not classes
METRICS = ("accuracy", "macro_f1")  # no plain f1: of which of two classes, their names do not tell
TABS = {"table": "tsv", "dev_table": "dev_tsv", "test_table": "test_tsv"}  # the same, for tables that are TSV for sure


def own_file(args: argparse.Namespace, flag: str = "table") -> str | None:
    """Return the file that ``--table`` names, or ``--tsv`` in its place; the same of ``dev_table``, ``test_table``."""
    return getattr(args, flag) or getattr(args, TABS[flag])


def check_table_flags(args: argparse.Namespace) -> None:
    """Raise a ``UserError`` for flags that do not go together, before anything is read."""
    for flag, tabs in TABS.items():
        if None not in (getattr(args, flag), getattr(args, tabs)):
            raise SettingError(flag, f"--{tabs.replace('_', '-')} is given too; name the file once")
    main = "table" if args.tsv is None else "tsv"
    if own_file(args) is None:
        for flag in ("text", "label", "name", "dev_table", "dev_tsv", "test_table", "test_tsv"):
            if getattr(args, flag) is not None:
                raise SettingError(flag, "there is no table that it is of; name one with --table")
        return
    for flag in ("tasks", "download"):
        if flag in args.given:
            problem = f"--{flag} is given too; prepare your own table and other tasks one after the other"
            raise SettingError(main, problem)
    if not args.text or not args.label:
        raise SettingError(main, f"which columns of {own_file(args)} are to be used? name them with --text and --label")
    if len(args.text) > 2:
        raise SettingError("text", f"{len(args.text)} columns are too many; name one, or two for pairs")
    table_name(args)


def table_name(args: argparse.Namespace) -> str:
    """The task's name: what was given, or that of the file, in lower case."""
    name = (Path(own_file(args) or "").stem if args.name is None else args.name).lower()
    if name in TASKS:
        raise SettingError("name", f"{name!r} is the name of another task; give yours a different one with --name")
    if not is_free_name(name):
        problem = f"{name!r} would not do for a folder; name the task with --name, of letters and digits"
        raise SettingError("name", problem)
    return name


def read_table(args: argparse.Namespace) -> tuple[Task, dict[str, Rows]]:
    """Read the table that the flags describe -> a task, whose labels are those of the training rows, and its splits."""
    name, path = table_name(args), Path(own_file(args) or "")
    task = Task(name, name, tuple(args.text), args.label, (), METRICS)
    ids: dict[str, int] = {}  # of the labels, in the order in which they come

    def read(flag: str, parse: Callable[[str], float] | None) -> Rows:
        tabs = getattr(args, TABS[flag]) is not None
        file, used = own_file(args, flag) or "", (TABS[flag] if tabs else flag).replace("_", "-")
        if not is_there(Path(file)):
            raise UserError(f"{file}: no such file; name one that is there with --{used}")
        missing_column = "name them with --text and --label"
        if tabs or Path(file).suffix.lower() in TSV:
            return read_tsv(task, Path(file), parse, args.skip_bad_rows, missing_column, may_quote=False)
        return read_cells(task, Path(file), parse, args.skip_bad_rows, missing_column)

    def label_id(label: str) -> int:
        if not label.strip():
            raise ValueError("no label")
        return ids.setdefault(label.strip(), len(ids))

    rows = {"train": read("table", label_id)}
    labels = in_order(ids)
    check_labels(path, task, labels)
    print(f"{name}: {len(labels)} classes in column {task.label!r}: {listed(labels)}")
    task = replace(task, labels=tuple(labels))
    new_ids = {ids[label]: new_id for new_id, label in enumerate(labels)}
    rows["train"].labels = [new_ids[int(label)] for label in rows["train"].labels or ()]

    if own_file(args, "dev_table") is None:
        rows = hold_out(rows["train"], path)
        dev, train = (len(rows[split].texts) for split in ("dev", "train"))
        held_out = f"{dev} of {dev + train} rows, of each class its share, held out to evaluate on"
        print(f"{name}: {held_out}; --dev-table names others")
    else:
        rows["dev"] = read("dev_table", lambda label: task.parse_label(label.strip()))
    task = replace(task, fingerprint=fingerprint(task, rows))
    if own_file(args, "test_table") is not None:
        rows["test"] = read("test_table", None)
    return task, rows


def check_labels(path: Path, task: Task, labels: Sequence[str]) -> None:
    """Raise a ``UserError`` if there are too few or too many classes, or two that are written alike."""
    if not 2 <= len(labels) <= MOST_LABELS:
        raise UserError(
            f"{path}: {len(labels)} different labels in column {task.label!r} ({listed(labels)}); name a column of 2 "
            f"to {MOST_LABELS} classes with --label, or make classes of scores or texts first"
        )
    alike: dict[str | Decimal, str] = {}
    for label in labels:
        key: str | Decimal = "".join(unicodedata.normalize("NFKC", label).casefold().split())
        with suppress(InvalidOperation):  # exact, unlike a float: long ids are classes too
            number = Decimal(label)
            key = number if number.is_finite() else key
        if key in alike:
            both = listed([alike[key], label])
            raise UserError(f"{path}: {both} in column {task.label!r} are one class written in two ways; write one")
        alike[key] = label


def in_order(labels: Collection[str]) -> list[str]:
    """Sort labels by their value if all are numbers, else as texts."""
    with suppress(ValueError):
        values = {label: float(label) for label in labels}
        if all(map(math.isfinite, values.values())):
            return sorted(labels, key=lambda label: (values[label], label))
    return sorted(labels)


def hold_out(rows: Rows, path: Path) -> dict[str, Rows]:
    """Split into ``train`` and ``dev``, every class in its share; the same rows always, for BERT and the LSTM."""
    labels, total = rows.labels or [], len(rows.texts)
    if total < HOLD_OUT:
        problem = f"{total} rows are too few to hold out a tenth; name rows to evaluate on with --dev-table"
        raise UserError(f"{path}: {problem}")
    order, times = random.Random(0).sample(range(total), total), Counter(labels)
    # A class's only row is for training, where there are other rows.
    order = [row for row in order if times[labels[row]] > 1] or order
    order.sort(key=labels.__getitem__)  # stable: evenly spaced rows are then random ones, of each class its share
    held = total // HOLD_OUT
    dev = sorted(order[(2 * number + 1) * len(order) // (2 * held)] for number in range(held))
    parts = {"train": sorted({*range(total)} - {*dev}), "dev": dev}
    splits = {name: Rows([rows.texts[i] for i in part], [labels[i] for i in part]) for name, part in parts.items()}
    splits["train"].skipped = rows.skipped
    return splits


def fingerprint(task: Task, rows: Mapping[str, Rows]) -> str:
    """A hash of all that training and evaluation learn of the data."""
    content = hashlib.sha256(json.dumps(task.labels).encode())
    for name, split in rows.items():
        content.update(f"{name}\n".encode())
        for texts, label in zip(split.texts, split.labels or (), strict=True):
            content.update("\t".join([*texts, f"{label}\n"]).encode())
    return content.hexdigest()[:16]


def next_command(args: argparse.Namespace, script: str) -> str:
    """Return the command that runs a table, with the places that the preparing script was given."""
    places = [part for name in ("bert", "cache") if name in args.given for part in (f"--{name}", getattr(args, name))]
    return shlex.join(["python", script, "--tasks", table_name(args), *places])


def find_custom_tasks(folder: Path) -> dict[str, Path]:
    """Find the caches of users' tasks, by their names; damaged ones too, which ``read_custom_task`` refuses."""
    custom = {path.stem: path for path in sorted(folder.glob("*.safetensors")) if is_free_name(path.stem)}
    for name, path in [*custom.items()]:
        with suppress(UserError), open_cache(path, "") as (_, header):
            if "own" not in header:
                del custom[name]
    return custom


def read_custom_task(path: Path, prepare: str) -> Task:
    """Read the task that a cache's header defines, or raise a ``UserError`` that names ``prepare``, to run again."""
    with open_cache(path, prepare) as (_, header):
        definition, labels = json.loads(header["own"]), json.loads(header["labels"])
        text, label, rows = definition["text"], definition["label"], definition["fingerprint"]
        if not isinstance(text, list) or not isinstance(labels, list):
            raise ValueError("columns or labels that are no lists")
        "".join([*text, label, rows, *labels]).encode()  # an error unless all are text
        if len(text) not in (1, 2) or not 2 <= len(set(labels)) == len(labels) <= MOST_LABELS:
            raise ValueError("too few or too many columns or labels")
    return Task(path.stem, path.stem, tuple(text), label, tuple(labels), METRICS, fingerprint=rows)
