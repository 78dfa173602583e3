"""What the prepare scripts share: finding the tasks' files, reading them, and the closing table."""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pruner.data import agnews
from pruner.data.cache import Cache
from pruner.data.custom import read_own_table
from pruner.data.download import download_task
from pruner.data.glue import Rows, Task, read_split
from pruner.data.vocabulary import encode_words, learn_vocabulary, write_words
from pruner.utils.errors import SettingError, UserError


def find_data(tasks: Sequence[Task], data: Path, named: bool, address: str | None) -> list[Task]:
    """The tasks whose files are in ``data``, fetched from ``address`` first if that is given; others are named.

    Raises:
        UserError: files of a task are missing that was ``named`` by the user, or of all tasks.
    """
    if address:
        for task in tasks:
            if task is not agnews.TASK:
                download_task(task, data / task.folder, address)
            elif named:  # it is on another server
                agnews.download_agnews(data / task.folder)
    found = []
    for task in tasks:
        missing = missing_file(data / task.folder, [f"{name}.{task.extension}" for name in ("train", *task.dev)])
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


def missing_file(folder: Path, names: Sequence[str]) -> str | None:
    """What is not there of the files of ``folder``, or ``None``."""
    # Unlike Path's own, these take a place that may not be looked into, or a name that is too long, for nothing there.
    if not os.path.isdir(folder):
        return f"{folder}: no such folder"
    return next((f"{folder}: no {name}" for name in names if not os.path.isfile(folder / name)), None)


def read_task(task: Task, folder: Path, skip_bad_rows: bool) -> dict[str, Rows]:
    """Every split of a task that is there; of AG News all columns."""
    if task is agnews.TASK:
        return {split: agnews.read_agnews(folder, split, agnews.COLUMNS, skip_bad_rows) for split in task.splits}
    names = [name for name in task.splits if name not in task.test or (folder / f"{name}.tsv").is_file()]
    return {name: read_split(task, folder, name, skip_bad_rows) for name in names}


def read_tasks(args: argparse.Namespace, tasks: Sequence[Task]) -> Iterator[tuple[Task, dict[str, Rows]]]:
    """Those of ``tasks`` that are there, or the user's own, one after the other with its rows."""
    if args.tsv is not None:
        yield read_own_table(args)
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
    vocabulary, to_ids = learn_vocabulary([text for texts in rows["train"].texts for text in texts], vocabulary_size)
    if not vocabulary.words:
        raise UserError(f"{task.name}: no words in the texts that it is trained on; is this the right file and column?")
    splits = {name: encode_words(each, to_ids, max_length) for name, each in rows.items()}
    cache, path = write_words(folder, task, splits, vocabulary, max_length)
    print(f"{task.name} -> {path} and {path.stem}.txt, {vocabulary.size} words")
    return cache
