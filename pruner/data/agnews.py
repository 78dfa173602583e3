"""AG News: the official ``train.csv`` and ``test.csv``, class, title and description, and where they are fetched."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from pruner.data.download import fetch
from pruner.data.rows import Rows, read_lines
from pruner.data.task import Task
from pruner.utils.files import whole

COLUMNS = ("title", "description")
CLASSES = ("1", "2", "3", "4")  # as the files have them
# A copy of the authors' files, which are on a drive without addresses of their own.
AGNEWS_ADDRESS = "https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/master/data/ag_news_csv"


def read_agnews(
    task: Task, folder: Path, split: str, skip_bad_rows: bool = False, columns: Sequence[str] = COLUMNS
) -> Rows:
    """Read a split; a text is the given columns with a space between them, as they come.

    Raises:
        UserError: an empty file, a row that is not CSV or of the wrong width, an unknown class; it names file and line.
            With ``skip_bad_rows`` such rows are counted and left out instead, but for those that end the file amiss.
    """
    path = folder / task.file(split)
    positions = [1 + COLUMNS.index(column) for column in columns]
    labels: list[float] = []
    rows = Rows([], labels)
    reader = csv.reader((line + "\n" for line in read_lines(path)), strict=True)
    while True:
        first_line = reader.line_num + 1
        problem = None
        try:
            cells = next(reader)
            if len(cells) != 3:
                problem = f"{len(cells)} columns instead of 3 (class, title, description)"
            elif cells[0] not in CLASSES:
                problem = f"unknown class {cells[0]!r} (expected {', '.join(CLASSES)})"
        except StopIteration:
            return rows.checked(path)
        except csv.Error as error:
            problem = f"not a row of CSV ({error})"
        if problem is None:
            labels.append(CLASSES.index(cells[0]))
            rows.texts.append((" ".join(cells[position] for position in positions),))
        else:
            rows.leave_out(f"{path}:{first_line}: {problem}", skip_bad_rows)


def download_agnews(task: Task, folder: Path, address: str) -> None:
    """Put the official files into ``folder``; files that are there already stay."""
    for name in map(task.file, task.splits):
        if not os.path.isfile(folder / name):
            with whole(folder / name) as path:
                fetch(f"{address}/{name}", path)


AGNEWS = Task(
    *("agnews", "ag_news_csv", ("text",), "class", ("World", "Sports", "Business", "Sci/Tech"), ("accuracy",)),
    dev=("test",),  # there is no dev set: as published, results are on the test set, which nothing here is chosen by
    test=(),
    files="{split}.csv",
    reader=read_agnews,
    downloader=download_agnews,
    address=AGNEWS_ADDRESS,
)
