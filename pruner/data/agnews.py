"""AG News: the official ``train.csv`` and ``test.csv``, class, title and description, and where they are fetched."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from pruner.data.download import download_files
from pruner.data.rows import Rows, read_csv_rows
from pruner.data.task import Task, exactly
from pruner.utils.errors import UserError

COLUMNS = ("title", "description")
CLASSES, FROM_ZERO = ("1", "2", "3", "4"), ("0", "1", "2", "3")  # as the files have them, or copies


def read_agnews(
    task: Task, folder: Path, split: str, skip_bad_rows: bool = False, columns: Sequence[str] = COLUMNS
) -> Rows:
    """Read a split, bad rows as ``read_tsv`` does; a text is the given columns with a space between, as they come.

    Classes are 1 to 4, as the official files have them, or 0 to 3, as copies made by ``datasets`` do; a header is
    skipped.
    """
    path = folder / task.file(split)
    positions = [1 + COLUMNS.index(column) for column in columns]
    classes = known_classes(task, folder)
    labels: list[float] = []
    rows = Rows([], labels)
    for place, cells in read_cells(path):
        if isinstance(cells, str):
            rows.leave_out(f"{place}: {cells}", skip_bad_rows)
        elif cells[0].strip() not in classes:
            problem = f"{place}: unknown class {cells[0]!r} (expected {', '.join(classes)})"
            rows.leave_out_label(cells[0], problem)
        else:
            labels.append(classes.index(cells[0].strip()))
            rows.texts.append((" ".join(cells[position] for position in positions),))
    return rows.checked(path, skip_bad_rows)


def known_classes(task: Task, folder: Path) -> tuple[str, ...]:
    """Return the classes as the files have them: from 0 where any has a 0; a ``UserError`` if any has a 4 then."""
    paths = [path for path in (folder / task.file(split) for split in task.splits) if path.is_file()]
    seen = {cells[0].strip() for path in paths for _, cells in read_cells(path) if isinstance(cells, list)}
    if {"0", "4"} <= seen:
        raise UserError(f"{folder}: classes 0 and 4; they are 1 to 4, or 0 to 3 in all files: copy them again")
    return FROM_ZERO if "0" in seen else CLASSES


def count_agnews(task: Task, path: Path, split: str) -> int:
    """Count the rows that ``read_agnews`` would read, one by one; a ``UserError`` at the first that is none."""
    count = 0
    for place, cells in read_cells(path):
        if isinstance(cells, str):
            raise UserError(f"{place}: {cells}")
        count += 1
    return count


def read_cells(path: Path) -> Iterator[tuple[str, list[str] | str]]:
    """Yield the place and the cells of each row, without a header; what is wrong with one that is no row."""
    for number, (place, cells) in enumerate(read_csv_rows(path)):
        if isinstance(cells, csv.Error):
            yield place, f"not a row of CSV ({cells})"
        elif not number and is_header(cells):
            continue
        else:
            fits = len(cells) == 1 + len(COLUMNS)
            yield place, cells if fits else f"{len(cells)} columns instead of 3 (class, title, description)"


def is_header(cells: list[str]) -> bool:
    """Tell whether a first row is one of names, whichever they are: where others have a class, it has no number."""
    with suppress(ValueError):
        float(cells[0] if cells else "0")
        return False
    return True


AGNEWS = Task(
    *("agnews", "ag_news_csv", ("text",), "class", ("World", "Sports", "Business", "Sci/Tech"), ("accuracy",)),
    dev=("test",),  # there is no dev set: as published, results are on the test set, which nothing here is chosen by
    test=(),
    files="{split}.csv",
    reader=read_agnews,
    downloader=download_files,
    counter=count_agnews,
    official_rows=exactly(120_000, 7600),
    # A copy of the authors' files, which are on a drive without addresses of their own.
    address="https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/master/data/ag_news_csv",
)
