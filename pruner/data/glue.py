"""The GLUE tasks: their folders, columns and labels, and a reader that names the line of a bad row."""

import codecs
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pruner.utils.errors import SettingError, UserError, listed, unknown
from pruner.utils.files import cannot_read


@dataclass(frozen=True)
class Task:
    """A task as its files have it, GLUE's or a user's own; ``labels`` is empty for the regression on scores."""

    name: str
    folder: str
    text: tuple[str, ...]
    label: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    dev: tuple[str, ...] = ("dev",)
    test: tuple[str, ...] = ("test",)
    header: tuple[str, ...] = ()  # of train and dev, where the files have none
    extension: str = "tsv"
    broken_rows: bool = False  # the official files are known to hold rows of the wrong width
    own: bool = False  # a user's
    fingerprint: str = ""  # of the rows of an own task, since its name does not tell which they are

    @property
    def num_labels(self) -> int:
        return max(1, len(self.labels))

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", *self.dev, *self.test)


NAME = re.compile(r"[\w.+-]+")  # of a task or a method: folders and tables of records have it
LONGEST_LINE = 1 << 20  # bytes; the longest official ones, with two parses, have some thousands

PAIR = ("sentence1", "sentence2")
BINARY = ("0", "1")
ENTAILMENT = ("entailment", "not_entailment")

TASKS = {
    task.name: task
    for task in (
        Task("cola", "CoLA", ("sentence",), "label", BINARY, ("mcc",), header=("source", "label", "mark", "sentence")),
        Task("sst-2", "SST-2", ("sentence",), "label", BINARY, ("accuracy",)),
        Task("mrpc", "MRPC", ("#1 String", "#2 String"), "Quality", BINARY, ("accuracy", "f1")),
        Task("qqp", "QQP", ("question1", "question2"), "is_duplicate", BINARY, ("accuracy", "f1"), broken_rows=True),
        Task("sts-b", "STS-B", PAIR, "score", (), ("pearson", "spearman")),
        Task(
            "mnli",
            "MNLI",
            PAIR,
            "gold_label",
            ("contradiction", "entailment", "neutral"),
            ("accuracy",),
            dev=("dev_matched", "dev_mismatched"),
            test=("test_matched", "test_mismatched", "diagnostic"),  # the last is GLUE's AX, in some archives only
        ),
        Task("qnli", "QNLI", ("question", "sentence"), "label", ENTAILMENT, ("accuracy",)),
        Task("rte", "RTE", PAIR, "label", ENTAILMENT, ("accuracy",)),
        Task("wnli", "WNLI", PAIR, "label", BINARY, ("accuracy",)),
    )
}


@dataclass
class Rows:
    """A split as it was read: texts of one or two sentences, labels (``None`` in test files), number of bad rows.

    Bad rows are left out, but for those of a test set, which are empty: every row of it needs a prediction.
    """

    texts: list[tuple[str, ...]]
    labels: list[float] | None
    skipped: int = 0

    def leave_out(self, problem: str, skip_bad_rows: bool) -> None:
        """Count a bad row, or complain about it; ``problem`` begins with its file and line."""
        if not skip_bad_rows:
            raise UserError(f"{problem}; mend the row or leave such rows out with --skip-bad-rows")
        self.skipped += 1

    def checked(self, path: Path) -> "Rows":
        """The rows, if any are good."""
        if not self.texts and not self.skipped:
            raise UserError(f"{path}: no rows; copy or download the whole file again")
        if len(self.texts) == (self.skipped if self.labels is None else 0):
            raise UserError(f"{path}: all {self.skipped} rows are bad; copy or download the file again")
        return self


def find_task(name: str, tasks: Mapping[str, Task], more: Sequence[str] = ()) -> Task:
    """The task of that name; ``more`` is what else an unknown one may have meant."""
    if name.lower() not in tasks:
        raise SettingError("tasks", unknown("task", name, (*tasks, *more)))
    return tasks[name.lower()]


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file without byte-order mark, one by one: official files are larger than what is used of them.

    Only ``\\n`` ends a line, since texts hold other separators; empty lines at the end are left out.

    Raises:
        UserError: the file cannot be read, or a line is no text; it names file and line.
    """
    empty = 0  # lines that have been held back
    try:
        with path.open("rb") as file:
            for number in itertools.count(1):
                data = file.readline(LONGEST_LINE + 1)
                if not data:
                    return
                if number == 1:
                    data = data.removeprefix(codecs.BOM_UTF8)
                line = check_text(data, f"{path}:{number}").removesuffix("\n").removesuffix("\r")
                if not line:
                    empty += 1
                    continue
                yield from itertools.repeat("", empty)
                empty = 0
                yield line
    except OSError as error:
        raise cannot_read(path, error) from None


def check_text(data: bytes, place: str) -> str:
    """A line of text, or a complaint that begins with its ``place``."""
    if len(data) > LONGEST_LINE:
        raise UserError(f"{place}: a line of more than {LONGEST_LINE} bytes; is this the right file?")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        byte = f"0x{data[error.start]:02x}"
        raise UserError(f"{place}: not UTF-8 (byte {byte}); save the file as UTF-8") from None
    if "\0" in text:
        raise UserError(f"{place}: a NUL byte, which no text has; the file is damaged, copy or download it again")
    return text


def read_split(task: Task, folder: Path, split: str, skip_bad_rows: bool = False) -> Rows:
    """Read ``<folder>/<split>.tsv``, as ``read_tsv`` does."""
    parse = None if split in task.test else partial(parse_label, task)
    return read_tsv(task, folder / f"{split}.tsv", parse, skip_bad_rows)


def read_tsv(task: Task, path: Path, parse: Callable[[str], float] | None, skip_bad_rows: bool = False) -> Rows:
    """Read the task's columns of a file; ``parse`` makes numbers of labels, and is ``None`` where there are none.

    Raises:
        UserError: an empty file, a missing column, a row of the wrong width or with a label of which ``parse`` raised
            a ValueError; it names file and line. With ``skip_bad_rows`` such rows are counted and left out instead.
    """
    labels: list[float] = []
    rows = Rows([], labels if parse else None)
    lines = enumerate(read_lines(path), start=1)
    header: Sequence[str] = task.header
    if not (parse and task.header):
        _, line = next(lines, (1, None))
        if line is None:
            return rows.checked(path)
        header = line.split("\t")
    missing = [column for column in (*task.text, *([task.label] if parse else [])) if column not in header]
    if missing:
        hint = f"is this the official {task.folder} file?"
        if task.own:
            hint = f"between tabs it has {listed(header)}; name them with --text and --label"
        raise UserError(f"{path}:1: no column {missing[0]!r} in the header; {hint}")
    texts_at = [header.index(column) for column in task.text]
    label_at = header.index(task.label) if parse else 0

    for number, line in lines:
        cells = line.split("\t")
        problem, excused = None, skip_bad_rows
        if len(cells) != len(header):
            problem, excused = f"{len(cells)} columns instead of {len(header)}", skip_bad_rows or task.broken_rows
        elif parse:
            try:
                labels.append(parse(cells[label_at]))
            except ValueError as error:
                problem = str(error)
        if problem is None:
            rows.texts.append(tuple(cells[at] for at in texts_at))
        else:
            rows.leave_out(f"{path}:{number}: {problem}", excused)
            if not parse:
                rows.texts.append(("",) * len(texts_at))
    return rows.checked(path)


def parse_label(task: Task, text: str) -> float:
    """A class's number, or a score as it is written; a ValueError if it is neither."""
    if task.labels:
        if text in task.labels:
            return task.labels.index(text)
    else:
        try:
            score = float(text)
        except ValueError:
            score = math.nan
        if 0 <= score <= 5:
            return score
    raise ValueError(f"unknown label {text!r} (expected {listed(task.labels) or 'a number from 0 to 5'})")
