"""AG News: the official ``train.csv`` and ``test.csv``, class, title and description, and where they are fetched."""

import csv
import os
from pathlib import Path

from pruner.data.download import fetch
from pruner.data.glue import TASKS as GLUE
from pruner.data.glue import Rows, Task, read_lines
from pruner.utils.files import whole

COLUMNS = ("title", "description")
# There is no dev set: as published, results are on the test set, which nothing here is chosen by.
TASK = Task(
    "agnews",
    "ag_news_csv",
    ("text",),
    "class",
    ("World", "Sports", "Business", "Sci/Tech"),
    ("accuracy",),
    dev=("test",),
    test=(),
    extension="csv",
)
BERT_TASKS = GLUE | {TASK.name: TASK}  # what RunBert4Glue.py runs
# A copy of the authors' files, which are on a drive without addresses of their own.
AGNEWS_ADDRESS = "https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/master/data/ag_news_csv"


def read_agnews(folder: Path, split: str, columns: tuple[str, ...], skip_bad_rows: bool = False) -> Rows:
    """Read ``<folder>/<split>.csv``; a text is the given columns with a space between them, as they come.

    Raises:
        UserError: an empty file, a row that is not CSV or of the wrong width, an unknown class; it names file and line.
            With ``skip_bad_rows`` such rows are counted and left out instead, but for those that end the file amiss.
    """
    path = folder / f"{split}.csv"
    at = [1 + COLUMNS.index(column) for column in columns]
    labels: list[float] = []
    rows = Rows([], labels)
    reader = csv.reader((line + "\n" for line in read_lines(path)), strict=True)
    while True:
        first = reader.line_num + 1
        problem = None
        try:
            cells = next(reader)
            if len(cells) != 3:
                problem = f"{len(cells)} columns instead of 3 (class, title, description)"
            elif cells[0] not in ("1", "2", "3", "4"):
                problem = f"unknown class {cells[0]!r} (expected 1, 2, 3, 4)"
        except StopIteration:
            break
        except csv.Error as error:
            problem = f"not a row of CSV ({error})"
        if problem is None:
            labels.append(int(cells[0]) - 1)
            rows.texts.append((" ".join(cells[column] for column in at),))
        else:
            rows.leave_out(f"{path}:{first}: {problem}", skip_bad_rows)
    return rows.checked(path)


def download_agnews(folder: Path, address: str = AGNEWS_ADDRESS) -> None:
    """Put the official files into ``folder``; files that are there already stay."""
    for split in TASK.splits:
        path = folder / f"{split}.csv"
        if not os.path.isfile(path):
            with whole(path) as name:
                fetch(f"{address}/{split}.csv", name)
