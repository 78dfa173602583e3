"""Tables that are no TSV: CSV, JSON lines, Parquet, and what ``datasets`` has saved."""

import csv
import json
from collections.abc import Callable, Iterator, Sized
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruner.data.rows import AGAIN, Rows, doubled, read_csv_rows, read_lines, repeats
from pruner.utils.errors import SettingError, UserError, listed
from pruner.utils.files import check_regular

if TYPE_CHECKING:
    from pruner.data.task import Task

TSV = (".tsv", ".tab", ".txt")
# The place of a row, and its columns' names and values, or what is wrong.
Values = Iterator[tuple[str, list[tuple[str, Any]] | str]]


def read_cells(
    task: "Task", path: Path, parse: Callable[[str], float] | None, skip_bad_rows: bool, missing_column: str
) -> Rows:
    """Read the task's columns of a table, as ``read_tsv`` does of a TSV; bad rows are named by line or number, from 1.

    Texts are taken as they are: ``007``, ``NA`` and ``None`` are words. Numbers and truth values become the text that
    Python writes of them.
    """
    labels: list[float] = []
    rows = Rows([], labels if parse else None)
    used = task.columns(parse is not None)

    def refuse(problem: str, advice: str) -> None:
        """Refuse a row for its columns, which are the table's, unless each row says its own."""
        if path.suffix.lower() != ".jsonl":
            raise UserError(f"{problem}; {advice}")
        rows.leave_out(f"{problem}; {advice}", skip_bad_rows, len(task.text))

    for place, pairs in reader(path)(path):
        if isinstance(pairs, str):
            rows.leave_out(f"{place}: {pairs}", skip_bad_rows, len(task.text))
            continue
        names, values = [name for name, _ in pairs], dict(pairs)
        missing = next((column for column in used if column not in values), None)
        if missing is not None:
            refuse(f"{place}: no column {missing!r}; it has {listed([str(name) for name in names])}", missing_column)
            continue
        if twice := doubled(names, used):
            refuse(f"{place}: two columns are called {twice!r}", "rename one of them")
            continue
        if repeats(names, (value for _, value in pairs)):
            rows.leave_out(f"{place}: {AGAIN}", skip_bad_rows, len(task.text))
            continue
        try:
            texts = tuple(as_text(values[column], "text") for column in task.text)
            label = as_text(values[task.label], "label") if parse else ""
        except ValueError as error:
            rows.leave_out(f"{place}: {error}", skip_bad_rows, len(task.text))
            continue
        try:
            if parse:
                labels.append(parse(label))
            rows.texts.append(texts)
        except ValueError as error:
            rows.leave_out_label(label, f"{place}: {error}")
    return rows.checked(path, skip_bad_rows)


def as_text(value: Any, kind: str) -> str:
    """Write a ``"text"`` or ``"label"`` as text; a ValueError where there is none, or what no file of text can hold."""
    if isinstance(value, Sized) and not isinstance(value, str):
        raise ValueError(f"a {kind} of type {type(value).__name__}, not a text or number")
    # NaN is what pandas has for nothing.
    if value is None or value != value or (kind == "label" and not str(value).strip()):
        raise ValueError(f"no {kind}")
    text = str(value)
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"a {kind} with a NUL or half a character, which no text has")
    return text


def reader(path: Path) -> Callable[[Path], Values]:
    """Return the reader of a file by its suffix."""
    if path.is_dir():
        return read_saved_dataset
    readers = {".csv": read_csv, ".jsonl": read_jsonl, ".parquet": read_parquet}
    if path.suffix.lower() not in readers:
        known = ", ".join((*TSV[:1], *readers))
        raise SettingError("table", f"{path} is none of {known}, by its name; rename or convert it")
    return readers[path.suffix.lower()]


def read_csv(path: Path) -> Values:
    """Read CSV by Python's own reader: pandas takes rows that are too wide for rows with an index."""
    header: list[str] | None = None
    for place, cells in read_csv_rows(path):
        if isinstance(cells, csv.Error):
            yield place, f"not a row of CSV ({cells})"
        elif header is None:
            header = cells
        elif len(cells) == len(header):
            yield place, list(zip(header, cells, strict=True))
        elif cells:
            yield place, f"{len(cells)} columns instead of {len(header)}"


def read_jsonl(path: Path) -> Values:
    pairs: list[tuple[str, Any]] = []

    def keep(found: list[tuple[str, Any]]) -> dict[str, Any]:
        """Keep what a dict would lose: names that come twice. A line's outermost object is the last to end."""
        nonlocal pairs
        pairs = found
        return dict(found)

    for number, line in enumerate(read_lines(path), start=1):
        try:
            values = json.loads(line, object_pairs_hook=keep)
        except (ValueError, RecursionError) as error:
            yield f"{path}:{number}", f"not JSON ({error})"
        else:
            yield f"{path}:{number}", pairs if isinstance(values, dict) else "not an object of columns"


def read_parquet(path: Path) -> Values:
    import pandas as pd

    check_regular(path)
    try:
        frame = pd.read_parquet(path, dtype_backend="numpy_nullable")  # whole numbers stay so beside empty cells
    except ImportError:
        raise UserError(f"{path}: only pyarrow reads Parquet, and it is not installed; pip install pyarrow") from None
    except Exception as error:  # pyarrow raises its own
        refuse_doubled(path)
        raise UserError(f"{path}: not Parquet ({' '.join(str(error).split())[:200]}); write it again") from None
    cells = frame.astype(object).where(frame.notna(), None).itertuples(index=False, name=None)
    rows = (list(zip(frame.columns, values, strict=True)) for values in cells)
    return ((f"{path}: row {number}", values) for number, values in enumerate(rows, start=1))


def refuse_doubled(path: Path) -> None:
    """Raise a ``UserError`` if two columns of a Parquet file have one name, used or not: pandas reads no such file."""
    from pyarrow import ArrowException, parquet

    with suppress(ArrowException, OSError):
        names = parquet.read_schema(path).names
        if twice := doubled(names, names):
            raise UserError(f"{path}: two columns are called {twice!r}; rename one of them")


def read_saved_dataset(path: Path) -> Values:
    """Read what ``Dataset.save_to_disk`` has written, classes by their names."""
    try:
        import datasets
    except ImportError:
        problem = "a folder, which only datasets reads, and it is not installed; pip install datasets"
        raise UserError(f"{path}: {problem}") from None
    for file in path.rglob("*"):
        check_regular(file)
    try:
        dataset = datasets.load_from_disk(str(path))
    except Exception as error:  # datasets and pyarrow raise their own
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not a saved dataset ({reason}); write it again by save_to_disk") from None
    if not isinstance(dataset, datasets.Dataset):
        raise UserError(f"{path}: has the splits {listed(list(dataset))}; name their folders one by one")
    classes = {name: kind for name, kind in dataset.features.items() if isinstance(kind, datasets.ClassLabel)}
    for number, values in enumerate(dataset, start=1):
        named = {name: kind.int2str(values[name]) for name, kind in classes.items() if values[name] not in (None, -1)}
        yield f"{path}: row {number}", list((values | named).items())
