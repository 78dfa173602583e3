"""The registry of tasks: what a task's files hold, how they are read and fetched, and how results are measured."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pruner.data.rows import Rows, read_split
from pruner.utils.errors import SettingError, listed, unknown
from pruner.utils.files import is_there

NAME = re.compile(r"[\w.+-]+")  # of a task or a method: folders and tables of records have it


@dataclass(frozen=True)
class Task:
    """One or two texts to classify, or to score on a scale."""

    name: str  # in lower case
    folder: str  # of its files, in data/
    text: tuple[str, ...]  # the column of texts, or two for pairs
    label: str  # the column of labels
    labels: tuple[str, ...]  # the classes, in the order of their ids; none: a regression on scores
    metrics: tuple[str, ...]
    names: tuple[str, ...] = ()  # of the classes, where models have other ones than the files
    score_range: tuple[float, float] = (0.0, 5.0)  # of a regression
    dev: tuple[str, ...] = ("dev",)  # splits that are evaluated on
    test: tuple[str, ...] = ("test",)  # splits without labels
    submission: tuple[str, ...] = ()  # names of the test splits' files of predictions; none: that of the folder
    files: str = "{split}.tsv"  # their names; empty: there are none, and ``reader`` makes the rows
    header: tuple[str, ...] = ()  # of train and dev, where the files have none
    broken_rows: bool = False  # the official files are known to hold rows of the wrong width
    reader: Callable[["Task", Path, str, bool], Rows] = read_split
    downloader: Callable[["Task", Path, str], None] | None = None
    counter: Callable[["Task", Path, str], int] | None = None  # of a file's rows, as ``reader`` would read them
    official_rows: tuple[tuple[int, int], ...] = ()  # of each split, the least and the most; a download has as many
    address: str = ""  # of the server that has the files
    fingerprint: str = ""  # of the rows of a task that is not registered, since its name does not tell which they are

    @property
    def num_labels(self) -> int:
        return max(1, len(self.labels))

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", *self.dev, *self.test)

    @property
    def submission_files(self) -> dict[str, str]:
        """The name of each test split's file of predictions."""
        names = self.submission or (self.folder,) * len(self.test)
        return {split: f"{name}.tsv" for split, name in zip(self.test, names, strict=True)}

    @property
    def definition(self) -> str:
        """What a cache's header says, beside the labels, of a task that is not registered; else nothing."""
        content = {"text": self.text, "label": self.label, "fingerprint": self.fingerprint}
        return json.dumps(content) if self.fingerprint else ""

    def columns(self, with_label: bool) -> tuple[str, ...]:
        """The columns that are read."""
        return (*self.text, self.label) if with_label else self.text

    def file(self, split: str) -> str:
        return self.files.format(split=split)

    def read(self, folder: Path, split: str, skip_bad_rows: bool = False) -> Rows:
        """Read a split from the task's ``folder``."""
        return self.reader(self, folder, split, skip_bad_rows)

    def read_splits(self, folder: Path, skip_bad_rows: bool = False) -> dict[str, Rows]:
        """Read every split; test files may be absent."""
        splits = [name for name in self.splits if name not in self.test or is_there(folder / self.file(name))]
        return {name: self.read(folder, name, skip_bad_rows) for name in splits}

    def download(self, folder: Path, address: str) -> None:
        """Fetch the files that are not in ``folder`` yet, if they can be, from the server with that address."""
        if self.downloader:
            self.downloader(self, folder, address)

    def parse_label(self, text: str) -> float:
        """The id of a class, or a score; a ValueError if it is neither."""
        if text in self.labels:
            return self.labels.index(text)
        low, high = self.score_range
        with suppress(ValueError):
            if not self.labels and low <= float(text) <= high:
                return float(text)
        expected = listed(self.labels) or f"a number from {low:g} to {high:g}"
        raise ValueError(f"unknown label {text!r} (expected {expected})")


def exactly(*rows: int) -> tuple[tuple[int, int], ...]:
    """Make ``official_rows`` of numbers that no release differs from."""
    return tuple((number, number) for number in rows)


TASKS: dict[str, Task] = {}


def is_free_name(name: str) -> bool:
    """Whether a new task may have that name."""
    # Folders that begin with a dot are hidden, and what begins with a dash is taken for a flag.
    return bool(NAME.fullmatch(name)) and name[0] not in ".-" and name == name.lower() and name not in TASKS


def register_task(task: Task) -> None:
    """Make a task known to all scripts, by its name."""
    if not is_free_name(task.name):
        raise ValueError(f"{task.name!r} is the name of another task, or not one for a folder")
    TASKS[task.name] = task


def find_task(name: str, tasks: Mapping[str, Task] = TASKS, more: Sequence[str] = ()) -> Task:
    """Look a task up; ``more`` is what else an unknown name may have meant."""
    if name.lower() not in tasks:
        choices = [*(name for name, task in tasks.items() if task.files), *more]
        raise SettingError("tasks", unknown("task", name, choices))
    return tasks[name.lower()]
