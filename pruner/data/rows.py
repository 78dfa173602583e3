"""Readers of text files, which name the line of a bad row."""

import codecs
import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruner.utils.errors import UserError, listed
from pruner.utils.files import cannot_read, check_regular

if TYPE_CHECKING:
    from pruner.data.task import Task

# A label that is unknown in so many rows, and in such a share of them, is no slip.
OFTEN, OFTEN_SHARE = 3, 0.01
LONGEST_LINE = 1 << 20  # bytes; the longest official ones, with two parses, have some thousands
AGAIN = "the names of the columns once more, as where files were joined"


@dataclass
class Rows:
    """A split as read from its file: texts of one or two sentences, labels (``None`` in test files), bad rows.

    Bad rows are left out, but for those of a test set, which are empty: every row of it needs a prediction.
    """

    texts: list[tuple[str, ...]]
    labels: list[float] | None
    skipped: int = 0
    first_bad: str = field(default="", compare=False)  # where it is and what is wrong with it
    # Labels that the task does not know, how often they occur, and what is wrong with the first of them, and where.
    unknown: Counter = field(default_factory=Counter, compare=False)
    first_unknown: str = field(default="", compare=False)

    def leave_out(self, problem: str, skip_bad_rows: bool, columns: int = 1) -> None:
        """Skip a bad row of so many text ``columns``, or raise a ``UserError``; ``problem`` begins with its place."""
        if not skip_bad_rows:
            raise UserError(f"{problem}; mend the row or leave such rows out with --skip-bad-rows")
        self.skipped += 1
        self.first_bad = self.first_bad or problem
        if self.labels is None:
            self.texts.append(("",) * columns)

    def leave_out_label(self, label: str, problem: str) -> None:
        """Skip a row of an unknown label for now; ``checked`` knows how many there are."""
        self.unknown[label] += 1
        self.first_unknown = self.first_unknown or problem

    def checked(self, path: Path, skip_bad_rows: bool) -> "Rows":
        """Return the rows, when all are read.

        Raises:
            UserError: none of them is good; or there are unknown labels, unless they are few and to be skipped: a label
                that comes again and again is a class of another coding, without which the others mean nothing.
        """
        if not self.texts and not self.skipped and not self.unknown:
            raise no_rows(path)
        total = len(self.texts) + self.unknown.total()
        often = [label for label, times in self.unknown.items() if times >= OFTEN and times > OFTEN_SHARE * total]
        if often:
            rows = sum(self.unknown[label] for label in often)
            problem = f"{rows} rows have such labels ({listed(often)}), too many to leave out"
            raise UserError(f"{self.first_unknown}; {problem}: write the expected ones, or mend the column")
        if self.unknown:
            self.leave_out(self.first_unknown, skip_bad_rows)
            self.skipped += self.unknown.total() - 1
        if len(self.texts) == (self.skipped if self.labels is None else 0):
            bad = f"all {self.skipped} rows are bad, the first at {self.first_bad}"
            raise UserError(f"{path}: {bad}; copy or download the file again")
        return self


def no_rows(path: Path) -> UserError:
    return UserError(f"{path}: no rows; copy or download the whole file again")


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file without byte-order mark, one by one: official files are larger than what is used of them.

    Only ``\\n`` ends a line, since texts hold other separators; empty lines at the end are left out. What cannot be
    read, or is no text, is a ``UserError`` that names file and line.
    """
    check_regular(path)
    held_back = 0  # empty lines, until one with text follows
    try:
        with path.open("rb") as file:
            for number, data in enumerate(iter(partial(file.readline, LONGEST_LINE + 1), b""), start=1):
                content = data.removeprefix(codecs.BOM_UTF8) if number == 1 else data
                line = check_text(content, f"{path}:{number}").removesuffix("\n").removesuffix("\r")
                if not line:
                    held_back += 1
                    continue
                yield from [""] * held_back
                held_back = 0
                yield line
    except OSError as error:
        raise cannot_read(path, error) from None


def read_csv_rows(path: Path) -> Iterator[tuple[str, list[str] | csv.Error]]:
    """Yield file and line at which each row begins, and its cells, or the error of one that is no CSV."""
    reader = csv.reader((line + "\n" for line in read_lines(path)), strict=True)
    while True:
        place = f"{path}:{reader.line_num + 1}"
        try:
            yield place, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield place, error


def check_text(data: bytes, place: str) -> str:
    """Decode a line of text, or raise a ``UserError`` that begins with its ``place``."""
    if len(data) > LONGEST_LINE:
        raise UserError(f"{place}: a line of more than {LONGEST_LINE} bytes; name or copy the right file")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: not UTF-8 (byte {data[error.start]:#04x}); save the file as UTF-8") from None
    if "\0" in text:
        raise UserError(f"{place}: a NUL byte, which no text has; the file is damaged, copy or download it again")
    return text


def read_split(task: "Task", folder: Path, split: str, skip_bad_rows: bool = False) -> Rows:
    """Read the tab-separated file of a split, as ``read_tsv`` does."""
    parse = None if split in task.test else task.parse_label
    return read_tsv(
        task, folder / task.file(split), parse, skip_bad_rows, f"copy or download the official {task.folder} file again"
    )


def count_rows(task: "Task", path: Path, split: str) -> int:
    """Count the rows that ``read_split`` would read, one by one; a ``UserError`` at the first of another width."""
    lines = enumerate(read_lines(path), start=1)
    width = len(read_header(task, path, lines, split not in task.test, ""))
    count = 0
    for number, line in lines:
        columns = line.count("\t") + 1
        if columns == width:
            count += 1
        elif not task.broken_rows:
            raise UserError(f"{path}:{number}: {columns} columns instead of {width}")
    return count


def read_tsv(
    task: "Task",
    path: Path,
    parse: Callable[[str], float] | None,
    skip_bad_rows: bool,
    missing_column: str,
    may_quote: bool = True,
) -> Rows:
    """Read the task's columns; ``parse`` makes a number of a label, and is ``None`` where there are none.

    A row of the wrong width, or with a label of which ``parse`` raises a ValueError, is a ``UserError`` that names file
    and line, or left out and counted with ``skip_bad_rows``. ``missing_column`` says what to do about such a header.
    Quotes are text; where no field may be quoted as CSV has it (``may_quote``), one that is is a ``UserError``.
    """
    labels: list[float] = []
    rows = Rows([], labels if parse else None)
    lines = enumerate(read_lines(path), start=1)
    header = read_header(task, path, lines, parse is not None, missing_column)
    text_columns = [header.index(column) for column in task.text]
    label_column = header.index(task.label) if parse else 0

    opened = False  # whether the row before may end within a quoted text of several lines
    for number, line in lines:
        cells = line.split("\t")
        fits = len(cells) == len(header)
        if not may_quote:
            begun = opened and not fits
            if begun or any(is_quoted(cell, closed) for cell in cells for closed in {True, fits}):
                problem = "quoted as CSV has it; write the table as .csv and name it with --table"
                raise UserError(f"{path}:{number - begun}: {problem}")
            opened = is_quoted(cells[-1], closed=False)
        if not fits:
            problem = f"{path}:{number}: {len(cells)} columns instead of {len(header)}"
            rows.leave_out(problem, skip_bad_rows or task.broken_rows, len(text_columns))
            continue
        if repeats(header, cells):
            rows.leave_out(f"{path}:{number}: {AGAIN}", skip_bad_rows, len(text_columns))
            continue
        if parse:
            label = cells[label_column]
            try:
                labels.append(parse(label))
            except ValueError as error:
                problem = f"{path}:{number}: {error}"
                if label.strip():
                    rows.leave_out_label(label, problem)
                else:
                    rows.leave_out(problem, skip_bad_rows)
                continue
        rows.texts.append(tuple(cells[column] for column in text_columns))
    return rows.checked(path, skip_bad_rows)


def read_header(
    task: "Task", path: Path, lines: Iterator[tuple[int, str]], with_label: bool, missing_column: str
) -> list[str]:
    """Take the header off the numbered lines of a TSV, or return the task's; check the columns that are used."""
    header = list(task.header) if with_label else []
    if not header:
        _, line = next(lines, (1, None))
        if line is None:
            raise no_rows(path)
        header = line.split("\t")
    used = task.columns(with_label)
    for column in used:
        if column not in header:
            columns = f"between tabs it has {listed(header)}"
            raise UserError(f"{path}:1: no column {column!r} in the header; {columns}; {missing_column}")
    if twice := doubled(header, used):
        raise UserError(f"{path}:1: two columns are called {twice!r}; rename one of them")
    return header


def doubled(names: Sequence[str], used: Iterable[str]) -> str | None:
    """Return one of the ``used`` columns whose name is that of another one too."""
    return next((column for column in used if names.count(column) > 1), None)


def repeats(names: Iterable[str], cells: Iterable[Any]) -> bool:
    """Tell whether a row is the header again; a joined file may have begun with a byte-order mark."""
    pairs = zip(names, cells, strict=True)
    return all(isinstance(cell, str) and cell.removeprefix("\ufeff") == name for name, cell in pairs)


def is_quoted(cell: str, closed: bool) -> bool:
    """Tell whether a cell is quoted as CSV has it; with ``closed`` false, whether its first line may be."""
    return bool(re.fullmatch(r'"(?:[^"]|"")*' + '"' * closed, cell))
