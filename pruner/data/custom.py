"""A user's own table: a file of tab-separated values with a header, and the flags that make a task of it."""

import argparse
import hashlib
import json
import math
import os
import random
import shlex
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pruner.data.custom_task import METRICS, MOST_LABELS, RESERVED, is_name
from pruner.data.glue import Rows, Task, parse_label, read_tsv
from pruner.utils.errors import SettingError, UserError, listed

HOLD_OUT = 10  # one row of so many is evaluated on, where no file is given for that


def check_own(args: argparse.Namespace) -> None:
    """Complain about flags that do not go together, before anything is read."""
    if args.tsv is None:
        for flag in ("text", "label", "name", "dev_tsv", "test_tsv"):
            if getattr(args, flag) is not None:
                raise SettingError(flag, "there is no table that it is of; name one with --tsv")
        return
    for flag in ("tasks", "download"):
        if flag in args.given:
            raise SettingError(
                "tsv", f"--{flag} is given too; prepare your own table and other tasks one after the other"
            )
    if not args.text or not args.label:
        raise SettingError("tsv", f"which columns of {args.tsv} are to be used? name them with --text and --label")
    if len(args.text) > 2:
        raise SettingError("text", f"{len(args.text)} columns are too many; name one, or two for pairs")
    own_name(args)


def own_name(args: argparse.Namespace) -> str:
    """The task's name: what was given, or that of the file, in lower case."""
    name = (Path(args.tsv).stem if args.name is None else args.name).lower()
    if name in RESERVED:
        raise SettingError("name", f"{name!r} is the name of another task; give yours a different one with --name")
    if not is_name(name):
        raise SettingError(
            "name", f"{name!r} would not do for a folder; name the task with --name, of letters and digits"
        )
    return name


def read_own_table(args: argparse.Namespace) -> tuple[Task, dict[str, Rows]]:
    """The task that the flags describe and its splits; its labels are those of the training rows.

    Raises:
        UserError: files that ``read_tsv`` refuses, a label that only the dev file has, a column that holds no classes,
            or too few rows to hold any out.
    """
    name, path = own_name(args), Path(args.tsv)
    task = Task(name, name, tuple(args.text), args.label, (), METRICS, own=True)
    numbers: dict[str, int] = {}  # of the labels, in the order in which they come

    def number(label: str) -> int:
        if not label.strip():
            raise ValueError("no label")
        return numbers.setdefault(label, len(numbers))

    rows = {"train": read_tsv(task, existing(path, "tsv"), number, args.skip_bad_rows)}
    labels = in_order(numbers)
    if not 2 <= len(labels) <= MOST_LABELS:
        raise UserError(
            f"{path}: {len(labels)} different labels in column {task.label!r} ({listed(labels)}); name a column of 2 "
            f"to {MOST_LABELS} classes with --label, or make classes of scores or texts first"
        )
    print(f"{name}: {len(labels)} classes in column {task.label!r}: {listed(labels)}")
    task = replace(task, labels=tuple(labels))
    places = {numbers[label]: place for place, label in enumerate(labels)}
    rows["train"].labels = [places[int(label)] for label in rows["train"].labels or ()]

    if args.dev_tsv is None:
        rows = hold_out(rows["train"], path)
        held, left = (len(rows[split].texts) for split in ("dev", "train"))
        print(f"{name}: {held} of {held + left} rows, drawn at random, held out to evaluate on; --dev-tsv names others")
    else:
        dev = existing(Path(args.dev_tsv), "dev-tsv")
        rows["dev"] = read_tsv(task, dev, partial(parse_label, task), args.skip_bad_rows)
    task = replace(task, fingerprint=fingerprint(task, rows))
    if args.test_tsv is not None:
        rows["test"] = read_tsv(task, existing(Path(args.test_tsv), "test-tsv"), None, args.skip_bad_rows)
    return task, rows


def existing(path: Path, flag: str) -> Path:
    """A path at which there is something, or a complaint."""
    if not os.path.lexists(path):
        raise UserError(f"{path}: no such file; name one that is there with --{flag}")
    return path


def in_order(labels: Collection[str]) -> list[str]:
    """Labels by their value if all are numbers, else as texts are sorted."""
    try:
        values = {label: float(label) for label in labels}
    except ValueError:
        return sorted(labels)
    if not all(map(math.isfinite, values.values())):
        return sorted(labels)
    return sorted(labels, key=lambda label: (values[label], label))


def hold_out(rows: Rows, path: Path) -> dict[str, Rows]:
    """``train`` and ``dev``; the rows of dev are the same ones whenever there are as many, for BERT and the LSTM."""
    assert rows.labels is not None  # those of training rows are there
    total = len(rows.texts)
    if total < HOLD_OUT:
        raise UserError(
            f"{path}: {total} rows are too few to hold out a tenth; name rows to evaluate on with --dev-tsv"
        )
    held = set(random.Random(0).sample(range(total), total // HOLD_OUT))

    def part(numbers: Collection[int], skipped: int = 0) -> Rows:
        return Rows([rows.texts[row] for row in numbers], [labels[row] for row in numbers], skipped)

    labels = rows.labels
    return {"train": part([row for row in range(total) if row not in held], rows.skipped), "dev": part(sorted(held))}


def fingerprint(task: Task, rows: Mapping[str, Rows]) -> str:
    """A hash of all that training and evaluation are told of the data."""
    found = hashlib.sha256(json.dumps(task.labels).encode())
    for name, split in rows.items():
        found.update(f"{name}\n".encode())
        for texts, label in zip(split.texts, split.labels or (), strict=True):
            found.update("\t".join([*texts, f"{label}\n"]).encode())
    return found.hexdigest()[:16]


def next_command(args: argparse.Namespace, constants: Mapping[str, Any], script: str) -> str:
    """The ``script`` to run next, with what the preparing one was told of places that both need."""
    command = ["python", script, "--tasks", own_name(args)]
    for name in ("bert", "cache"):
        if getattr(args, name, None) != constants.get(name):
            command += [f"--{name}", getattr(args, name)]
    return shlex.join(command)
