"""What the prepare scripts share: finding the tasks' files, reading them, and the closing table."""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pruner.data.cache import Cache
from pruner.data.custom import read_table
from pruner.data.download import GLUE_ADDRESS
from pruner.data.encode import encode_words
from pruner.data.rows import Rows
from pruner.data.task import Task
from pruner.data.vocabulary import learn_vocabulary, write_words
from pruner.utils.errors import SettingError, UserError


def find_data(tasks: Sequence[Task], data: Path, named: bool, address: str | None) -> list[Task]:
    """Find the tasks whose files are in ``data``; say which are not. They are fetched first if ``address`` is given.

    That is the address of GLUE's server; tasks of other servers are fetched from those, but only if they are ``named``.

    Raises:
        UserError: files of a task are missing that was ``named`` by the user, or of all tasks.
    """
    found = []
    for task in tasks:
        folder = data / task.folder
        if address and task.address == GLUE_ADDRESS:
            task.download(folder, address)
        elif address and named:
            task.download(folder)
        missing = missing_file(task, folder)
        if missing is None:
            found.append(task)
        elif named:
            raise UserError(f"{missing}; put the official files there, or run with --download")
        else:
            print(f"skipped {task.name}: {missing}")
    if not found:
        raise UserError(
            f"{data}: none of the GLUE tasks is there; download them from https://gluebenchmark.com/tasks so that "
            f"{data / 'MRPC' / 'train.tsv'} and so on exist, or run with --download"
        )
    return found


def missing_file(task: Task, folder: Path) -> str | None:
    """What of the task's files is not in ``folder``, or ``None``."""
    if not task.files:
        return None
    # Unlike Path's own, these take a place that may not be looked into, or a name that is too long, for nothing there.
    if not os.path.isdir(folder):
        return f"{folder}: no such folder"
    names = map(task.file, ("train", *task.dev))
    return next((f"{folder}: no {name}" for name in names if not os.path.isfile(folder / name)), None)


def read_task(task: Task, folder: Path, skip_bad_rows: bool) -> dict[str, Rows]:
    """Read every split of a task that is there."""
    splits = [split for split in task.splits if split not in task.test or (folder / task.file(split)).is_file()]
    return {split: task.read(folder, split, skip_bad_rows) for split in splits}


def read_tasks(args: argparse.Namespace, tasks: Sequence[Task]) -> Iterator[tuple[Task, dict[str, Rows]]]:
    """Read those of ``tasks`` that are there, or the user's own table, one after the other."""
    if args.tsv is not None:
        yield read_table(args)
        return
    data = Path(args.data)
    for task in find_data(tasks, data, "tasks" in args.given, args.glue_address if args.download else None):
        yield task, read_task(task, data / task.folder, args.skip_bad_rows)


class ClosingTable:
    """Sentences and lengths of what was prepared."""

    def __init__(self, unit: str) -> None:
        self.lines = [("task", f"{'split':18}{'sentences':>10}{f'mean {unit}':>13}{'95th pct.':>11}")]

    def add(self, cache: Cache, rows: dict[str, Rows]) -> None:
        for name, split in cache.splits.items():
            mean, high = split.lengths.mean(), np.percentile(split.lengths, 95)
            line = f"{name:18}{len(split):>10}{mean:>13.1f}{high:>11.0f}"
            skipped = rows[name].skipped
            self.lines.append((cache.task, line + (f"  ({skipped} bad rows left out)" if skipped else "")))

    def print(self) -> None:
        width = max(8, *(len(task) + 1 for task, _ in self.lines))
        print("\n".join(["", *(f"{task:{width}}{line}" for task, line in self.lines)]))


def prepare_words(task: Task, rows: dict[str, Rows], vocabulary_size: int, max_length: int, folder: Path) -> Cache:
    """Learn a vocabulary from the training split, encode every split, and write both for the LSTM."""
    if vocabulary_size < 3:
        raise SettingError("vocabulary_size", f"{vocabulary_size} leaves no room for words; use 3 or more")
    if max_length < 1:
        raise SettingError("max_length", f"{max_length} leaves no words; use 1 or more (published: 128)")
    vocabulary = learn_vocabulary((text for texts in rows["train"].texts for text in texts), vocabulary_size)
    if not vocabulary.words:
        raise UserError(f"{task.name}: no words in the texts that it is trained on; is this the right file and column?")
    splits = {name: encode_words(split, vocabulary, max_length) for name, split in rows.items()}
    cache, path = write_words(folder, task, splits, vocabulary, max_length)
    print(f"{task.name} -> {path} and {path.stem}.txt, {vocabulary.size} words")
    return cache
