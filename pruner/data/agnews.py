"""AG News: the official ``train.csv`` and ``test.csv``, class, title and description, and where they are fetched."""

import csv
from collections.abc import Sequence
from pathlib import Path

from pruner.data.download import download_files
from pruner.data.rows import Rows, read_lines
from pruner.data.task import Task

COLUMNS = ("title", "description")
CLASSES = ("1", "2", "3", "4")  # as the files have them


def read_agnews(
    task: Task, folder: Path, split: str, skip_bad_rows: bool = False, columns: Sequence[str] = COLUMNS
) -> Rows:
    """Read a split, bad rows as ``read_tsv`` does; a text is the given columns with a space between, as they come."""
    path = folder / task.file(split)
    positions = [1 + COLUMNS.index(column) for column in columns]
    labels: list[float] = []
    rows = Rows([], labels)
    reader = csv.reader((line + "\n" for line in read_lines(path)), strict=True)
    while True:
        place = f"{path}:{reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return rows.checked(path)
        except csv.Error as error:
            rows.leave_out(f"{place}: not a row of CSV ({error})", skip_bad_rows)
            continue
        if len(cells) != 3:
            rows.leave_out(f"{place}: {len(cells)} columns instead of 3 (class, title, description)", skip_bad_rows)
        elif cells[0] not in CLASSES:
            rows.leave_out(f"{place}: unknown class {cells[0]!r} (expected {', '.join(CLASSES)})", skip_bad_rows)
        else:
            labels.append(CLASSES.index(cells[0]))
            rows.texts.append((" ".join(cells[position] for position in positions),))


AGNEWS = Task(
    *("agnews", "ag_news_csv", ("text",), "class", ("World", "Sports", "Business", "Sci/Tech"), ("accuracy",)),
    dev=("test",),  # there is no dev set: as published, results are on the test set, which nothing here is chosen by
    test=(),
    files="{split}.csv",
    reader=read_agnews,
    downloader=download_files,
    # A copy of the authors' files, which are on a drive without addresses of their own.
    address="https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/master/data/ag_news_csv",
)
