"""Downloads of official files into ``data/``: what a server sends is not trusted, and all files come or none.

A file gets its name when it has the columns and the number of rows of the official one. Its SHA-256 is written beside
it, in the form of ``sha256sum``: none is known beforehand, but whoever has the files too can compare.
"""

import hashlib
import os
import stat
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from pruner.data.task import Task
from pruner.utils.errors import UserError
from pruner.utils.files import temporary, whole
from pruner.utils.progress import Progress

GLUE_ADDRESS = "https://dl.fbaipublicfiles.com"
MRPC_FILES = (
    "senteval/senteval_data/msr_paraphrase_train.txt",
    "senteval/senteval_data/msr_paraphrase_test.txt",
    "glue/data/mrpc_dev_ids.tsv",
)
LARGEST = 2 << 30  # bytes of a download or of a file in an archive; the largest official ones, MNLI's, have a quarter
LARGEST_IN_MEMORY = 16 << 20  # bytes of each of MRPC's files, which have 1 MB
CHUNK = 1 << 18


def fetch(address: str, path: Path, largest: int = LARGEST) -> None:
    """Write one file by its address to ``path``, with a progress bar."""
    with path.open("wb") as file:
        file.writelines(download(address, largest))


def download(address: str, largest: int) -> Iterator[bytes]:
    """Yield the parts of a file as they come; raise a ``UserError`` unless all do, ``largest`` bytes at most."""
    size, name = 0, address.rsplit("/", 1)[-1]
    try:
        with urlopen(address, timeout=60) as response:
            total = int(response.headers.get("Content-Length") or 0) or None
            with Progress(total=total, unit="B", unit_scale=True, desc=name) as progress:
                while max(size, total or 0) <= largest and (chunk := response.read(CHUNK)):
                    yield chunk
                    size += len(chunk)
                    progress.update(len(chunk))
    except (OSError, ValueError, HTTPException) as error:
        raise UserError(f"{address}: download failed ({error}); try again later") from None
    if max(size, total or 0) > largest:
        raise too_large(address, largest)
    if total is not None and size != total:
        raise UserError(f"{address}: only {size} of {total} bytes came; try again")


def too_large(place: str, largest: int) -> UserError:
    return UserError(f"{place}: more than {largest} bytes, unlike the official files; put those into data/ by hand")


def missing_splits(task: Task, folder: Path) -> list[str]:
    return [split for split in task.splits if not os.path.isfile(folder / task.file(split))]


def download_files(task: Task, folder: Path, address: str) -> None:
    """Put a task's files into ``folder``; files that are there already stay."""
    names = {split: task.file(split) for split in missing_splits(task, folder)}
    write_splits(task, folder, address, ((s, download(f"{address}/{name}", LARGEST)) for s, name in names.items()))


def download_archive(
    task: Task, folder: Path, address: str, archive: str | None = None, optional: Sequence[str] = ()
) -> None:
    """Put a task's files from its archive at GLUE's server into ``folder``; files that are there already stay.

    The archive is named after the task's folder, or ``archive``; it may lack the splits that are ``optional``.
    """
    missing, archive = missing_splits(task, folder), archive or f"{task.folder}.zip"
    if set(missing) - set(optional):
        with temporary(folder / archive) as path:
            source = f"{address}/glue/data/{archive}"
            fetch(source, path)
            write_splits(task, folder, source, archive_files(path, task, missing, archive, optional))


def download_mrpc(task: Task, folder: Path, address: str) -> None:
    """Make MRPC's files of the original ones, since GLUE's server has no archive of them."""
    if missing := missing_splits(task, folder):
        texts = mrpc_files(*(fetch_lines(f"{address}/{path}") for path in MRPC_FILES))
        source = f"{address}/{MRPC_FILES[0].rsplit('/', 1)[0]}"
        write_splits(task, folder, source, ((split, [texts[split].encode()]) for split in missing))


def write_splits(task: Task, folder: Path, source: str, files: Iterable[tuple[str, Iterable[bytes]]]) -> None:
    """Write the parts of each split, which came from ``source``, to its file and its sum beside it.

    The files get their names when all are whole, and are what the task's official ones are.
    """
    with ExitStack() as stack:
        for split, parts in files:
            name, digest = task.file(split), hashlib.sha256()
            path = stack.enter_context(whole(folder / name))
            with path.open("wb") as file:
                for part in parts:
                    file.write(part)
                    digest.update(part)
            check_file(task, split, path, source)
            sum_path = stack.enter_context(whole(folder / f"{name}.sha256"))
            sum_path.write_text(f"{digest.hexdigest()}  {name}\n", encoding="utf-8")


def check_file(task: Task, split: str, path: Path, source: str) -> None:
    """Raise a ``UserError`` unless a file that came from ``source`` is a split as the official one is."""
    if task.counter is None:
        return
    problem = ""
    official = dict(zip(task.splits, task.official_rows, strict=False))
    try:
        rows = task.counter(task, path, split)
        few, many = official.get(split, (rows, rows))
        if not few <= rows <= many:
            problem = f": {rows} rows instead of {few if few == many else f'{few} to {many}'}"
    except UserError as error:  # which ends with what to do about a file of one's own
        problem = str(error).removeprefix(str(path)).split(";")[0]
    if problem:
        again = f"run again to fetch it anew, or put the official files into {path.parent} by hand"
        raise UserError(f"{source}: not the official {task.file(split)}{problem}; {again}")


def fetch_lines(address: str) -> list[str]:
    """Fetch a small text file; return its lines without byte-order mark, but for empty ones."""
    try:
        text = b"".join(download(address, LARGEST_IN_MEMORY)).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{address}: not UTF-8 ({error}); try the download again later") from None
    return [line for line in text.replace("\r", "").split("\n") if line]


def archive_files(
    path: Path, task: Task, splits: Sequence[str], archive: str, optional: Sequence[str]
) -> Iterator[tuple[str, Iterable[bytes]]]:
    """Yield splits of an archive. Members are looked up by name, so none can be written anywhere else."""
    try:
        opened = zipfile.ZipFile(path)
    except Exception as error:  # zipfile's own, and whatever a damaged list of members leads to
        raise broken(archive, error) from None
    with opened:
        for split in splits:
            ending = f"{task.folder}/{task.file(split)}"
            member = next((member for member in opened.infolist() if member.filename.endswith(ending)), None)
            if member is not None:
                yield split, read_member(opened, member, archive)
            elif split not in optional:
                raise UserError(f"{archive}: does not hold the files of {task.folder}; put them into data/ by hand")


def read_member(opened: zipfile.ZipFile, member: zipfile.ZipInfo, archive: str) -> Iterator[bytes]:
    """Yield the parts of a file in an archive; no more comes than its size says, nor is held in memory at once."""
    place = f"{archive}: {member.filename!r}"
    if stat.S_ISLNK(member.external_attr >> 16):
        raise UserError(f"{place}: a symbolic link, not a file; put the official files into data/ by hand")
    if member.file_size > LARGEST:
        raise too_large(place, LARGEST)
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{place}: its compression is not the official archives'; put the files into data/ by hand")
    try:
        with opened.open(member) as file:
            yield from iter(partial(file.read, CHUNK), b"")
    except Exception as error:  # zipfile's own, zlib's, RuntimeError where there is a password, and more
        raise broken(place, error) from None


def broken(place: str, error: Exception) -> UserError:
    return UserError(f"{place}: not a zip archive, or damaged ({error}); try the download again later")


def mrpc_files(train: Sequence[str], test: Sequence[str], dev_ids: Sequence[str]) -> dict[str, str]:
    """Make GLUE's files of MRPC's lines: dev is a part of the original training file, chosen by sentence ids."""
    ids = {tuple(line.split("\t")) for line in dev_ids}
    header, *rows = train or [""]
    test_header, *test_rows = test or [""]
    for name, columns in (("train", header), ("test", test_header)):
        if not columns.startswith("Quality\t"):
            raise UserError(f"msr_paraphrase_{name}.txt: not MRPC's file; put the official files into data/ by hand")
    parts = {"train": [header], "dev": [header]}
    for row in rows:
        parts["dev" if tuple(row.split("\t")[1:3]) in ids else "train"].append(row)
    # GLUE's test file has the row's number in place of the label.
    numbered = zip(("index", *range(len(test_rows))), (test_header, *test_rows), strict=True)
    parts["test"] = ["\t".join([str(number), *row.split("\t")[1:]]) for number, row in numbered]
    return {split: "\n".join(lines) + "\n" for split, lines in parts.items()}
