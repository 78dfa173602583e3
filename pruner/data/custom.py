"""A user's own table: a file of tab-separated values with a header, the flags that describe it, the task it becomes."""

import argparse
import hashlib
import json
import math
import os
import random
import shlex
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pruner.data.cache import open_cache
from pruner.data.rows import Rows, read_tsv
from pruner.data.task import TASKS, Task, is_free_name
from pruner.utils.errors import SettingError, UserError, listed

HOLD_OUT = 10  # one row of so many is evaluated on, where no file is given for that
MOST_LABELS = 1000  # beyond lie scores and texts, not classes
METRICS = ("accuracy",)  # no f1: of which of two classes, their names do not tell


def check_table_flags(args: argparse.Namespace) -> None:
    """Raise a ``UserError`` for flags that do not go together, before anything is read."""
    if args.tsv is None:
        for flag in ("text", "label", "name", "dev_tsv", "test_tsv"):
            if getattr(args, flag) is not None:
                raise SettingError(flag, "there is no table that it is of; name one with --tsv")
        return
    for flag in ("tasks", "download"):
        if flag in args.given:
            problem = f"--{flag} is given too; prepare your own table and other tasks one after the other"
            raise SettingError("tsv", problem)
    if not args.text or not args.label:
        raise SettingError("tsv", f"which columns of {args.tsv} are to be used? name them with --text and --label")
    if len(args.text) > 2:
        raise SettingError("text", f"{len(args.text)} columns are too many; name one, or two for pairs")
    table_name(args)


def table_name(args: argparse.Namespace) -> str:
    """The task's name: what was given, or that of the file, in lower case."""
    name = (Path(args.tsv).stem if args.name is None else args.name).lower()
    if name in TASKS:
        raise SettingError("name", f"{name!r} is the name of another task; give yours a different one with --name")
    if not is_free_name(name):
        problem = f"{name!r} would not do for a folder; name the task with --name, of letters and digits"
        raise SettingError("name", problem)
    return name


def read_table(args: argparse.Namespace) -> tuple[Task, dict[str, Rows]]:
    """Read the table that the flags describe -> a task, whose labels are those of the training rows, and its splits."""
    name, path = table_name(args), Path(args.tsv)
    task = Task(name, name, tuple(args.text), args.label, (), METRICS)
    ids: dict[str, int] = {}  # of the labels, in the order in which they come

    def read(file: str, flag: str, parse) -> Rows:
        if not os.path.lexists(file):
            raise UserError(f"{file}: no such file; name one that is there with --{flag}")
        return read_tsv(task, Path(file), parse, args.skip_bad_rows, "name them with --text and --label")

    def label_id(label: str) -> int:
        if not label.strip():
            raise ValueError("no label")
        return ids.setdefault(label, len(ids))

    rows = {"train": read(args.tsv, "tsv", label_id)}
    labels = in_order(ids)
    if not 2 <= len(labels) <= MOST_LABELS:
        raise UserError(
            f"{path}: {len(labels)} different labels in column {task.label!r} ({listed(labels)}); name a column of 2 "
            f"to {MOST_LABELS} classes with --label, or make classes of scores or texts first"
        )
    print(f"{name}: {len(labels)} classes in column {task.label!r}: {listed(labels)}")
    task = replace(task, labels=tuple(labels))
    new_ids = {ids[label]: new_id for new_id, label in enumerate(labels)}
    rows["train"].labels = [new_ids[int(label)] for label in rows["train"].labels or ()]

    if args.dev_tsv is None:
        rows = hold_out(rows["train"], path)
        dev, train = (len(rows[split].texts) for split in ("dev", "train"))
        print(f"{name}: {dev} of {dev + train} rows, drawn at random, held out to evaluate on; --dev-tsv names others")
    else:
        rows["dev"] = read(args.dev_tsv, "dev-tsv", task.parse_label)
    task = replace(task, fingerprint=fingerprint(task, rows))
    if args.test_tsv is not None:
        rows["test"] = read(args.test_tsv, "test-tsv", None)
    return task, rows


def in_order(labels: Collection[str]) -> list[str]:
    """Sort labels by their value if all are numbers, else as texts."""
    with suppress(ValueError):
        values = {label: float(label) for label in labels}
        if all(map(math.isfinite, values.values())):
            return sorted(labels, key=lambda label: (values[label], label))
    return sorted(labels)


def hold_out(rows: Rows, path: Path) -> dict[str, Rows]:
    """Split into ``train`` and ``dev``; as many rows always give the same ones of dev, for BERT and the LSTM."""
    labels, total = rows.labels or [], len(rows.texts)
    if total < HOLD_OUT:
        problem = f"{total} rows are too few to hold out a tenth; name rows to evaluate on with --dev-tsv"
        raise UserError(f"{path}: {problem}")
    dev = sorted(random.Random(0).sample(range(total), total // HOLD_OUT))
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
