"""Readers of text files, which name the line of a bad row."""

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pruner.utils.errors import UserError, listed
from pruner.utils.files import cannot_read

if TYPE_CHECKING:
    from pruner.data.task import Task

LONGEST_LINE = 1 << 20  # bytes; the longest official ones, with two parses, have some thousands


@dataclass
class Rows:
    """A split as read from its file: texts of one or two sentences, labels (``None`` in test files), bad rows.

    Bad rows are left out, but for those of a test set, which are empty: every row of it needs a prediction.
    """

    texts: list[tuple[str, ...]]
    labels: list[float] | None
    skipped: int = 0

    def leave_out(self, problem: str, skip_bad_rows: bool) -> None:
        """Skip a bad row, or raise a ``UserError``; ``problem`` begins with its file and line."""
        if not skip_bad_rows:
            raise UserError(f"{problem}; mend the row or leave such rows out with --skip-bad-rows")
        self.skipped += 1

    def checked(self, path: Path) -> "Rows":
        """Return the rows; raise a ``UserError`` if none of them is good."""
        if not self.texts and not self.skipped:
            raise UserError(f"{path}: no rows; copy or download the whole file again")
        if len(self.texts) == (self.skipped if self.labels is None else 0):
            raise UserError(f"{path}: all {self.skipped} rows are bad; copy or download the file again")
        return self


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file without byte-order mark, one by one: official files are larger than what is used of them.

    Only ``\\n`` ends a line, since texts hold other separators; empty lines at the end are left out. What cannot be
    read, or is no text, is a ``UserError`` that names file and line.
    """
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


def check_text(data: bytes, place: str) -> str:
    """Decode a line of text, or raise a ``UserError`` that begins with its ``place``."""
    if len(data) > LONGEST_LINE:
        raise UserError(f"{place}: a line of more than {LONGEST_LINE} bytes; is this the right file?")
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
    return read_tsv(task, folder / task.file(split), parse, skip_bad_rows, f"is this the official {task.folder} file?")


def read_tsv(
    task: "Task", path: Path, parse: Callable[[str], float] | None, skip_bad_rows: bool, missing_column: str
) -> Rows:
    """Read the task's columns; ``parse`` makes a number of a label, and is ``None`` where there are none.

    A row of the wrong width, or with a label of which ``parse`` raises a ValueError, is a ``UserError`` that names file
    and line, or left out and counted with ``skip_bad_rows``. ``missing_column`` says what to do about such a header.
    """
    labels: list[float] = []
    rows = Rows([], labels if parse else None)
    lines = enumerate(read_lines(path), start=1)
    header = list(task.header) if parse else []
    if not header:
        _, line = next(lines, (1, None))
        if line is None:
            return rows.checked(path)
        header = line.split("\t")
    for column in (*task.text, *([task.label] if parse else [])):
        if column not in header:
            columns = f"between tabs it has {listed(header)}"
            raise UserError(f"{path}:1: no column {column!r} in the header; {columns}; {missing_column}")
    text_columns = [header.index(column) for column in task.text]
    label_column = header.index(task.label) if parse else 0

    for number, line in lines:
        cells, excused = line.split("\t"), skip_bad_rows
        try:
            if len(cells) != len(header):
                excused = skip_bad_rows or task.broken_rows
                raise ValueError(f"{len(cells)} columns instead of {len(header)}")
            if parse:
                labels.append(parse(cells[label_column]))
            rows.texts.append(tuple(cells[column] for column in text_columns))
        except ValueError as error:
            rows.leave_out(f"{path}:{number}: {error}", excused)
            if not parse:
                rows.texts.append(("",) * len(text_columns))
    return rows.checked(path)
