"""Fetching the official GLUE files into ``data/``."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tqdm import tqdm

from pruner.errors import UserError
from pruner.files import write_whole
from pruner.glue import Task

GLUE_ADDRESS = "https://dl.fbaipublicfiles.com"
ARCHIVES = {"qqp": "QQP-clean.zip", "qnli": "QNLIv2.zip"}  # the others are named after their folder
OPTIONAL = {"diagnostic"}  # splits that an archive may lack
MRPC_FILES = (
    "senteval/senteval_data/msr_paraphrase_train.txt",
    "senteval/senteval_data/msr_paraphrase_test.txt",
    "glue/data/mrpc_dev_ids.tsv",
)


def fetch(address: str) -> bytes:
    """One file by its address, with a progress bar."""
    try:
        with urlopen(address, timeout=60) as response:
            total = int(response.headers.get("Content-Length") or 0) or None
            content = io.BytesIO()
            name = address.rsplit("/", 1)[-1]
            with tqdm(total=total, unit="B", unit_scale=True, desc=name) as progress:
                while chunk := response.read(1 << 18):
                    content.write(chunk)
                    progress.update(len(chunk))
    except (URLError, OSError, ValueError) as error:
        raise UserError(f"{address}: download failed ({error}); try again later") from None
    if total is not None and content.tell() != total:
        raise UserError(f"{address}: only {content.tell()} of {total} bytes came; try again")
    return content.getvalue()


def download_task(task: Task, folder: Path, address: str = GLUE_ADDRESS) -> None:
    """Put the official files of ``task`` into ``folder``; files that are there already stay."""
    wanted = [split for split in task.splits if not (folder / f"{split}.tsv").is_file()]
    if not set(wanted) - OPTIONAL:
        return
    if task.name == "mrpc":
        files = mrpc_files(*(fetch(f"{address}/{path}").decode("utf-8-sig") for path in MRPC_FILES))
    else:
        archive = ARCHIVES.get(task.name, f"{task.folder}.zip")
        files = archive_files(fetch(f"{address}/glue/data/{archive}"), task, archive)
    for split in files.keys() & set(wanted):
        write_whole(folder / f"{split}.tsv", files[split]())


def archive_files(data: bytes, task: Task, archive: str) -> dict[str, Callable[[], bytes]]:
    """The splits in a GLUE archive. Members are looked up by name, so none can be written anywhere else."""
    try:
        opened = zipfile.ZipFile(io.BytesIO(data))
        members = {}
        for split in task.splits:
            ending = f"{task.folder}/{split}.tsv"
            if split in OPTIONAL and not any(name.endswith(ending) for name in opened.namelist()):
                continue
            name = next(name for name in opened.namelist() if name.endswith(ending))
            members[split] = lambda name=name: opened.read(name)
        return members
    except zipfile.BadZipFile:
        raise UserError(f"{archive}: not a zip archive; try the download again later") from None
    except StopIteration:
        raise UserError(f"{archive}: does not hold the files of {task.folder}; put them into data/ by hand") from None


def mrpc_files(train: str, test: str, dev_ids: str) -> dict[str, Callable[[], bytes]]:
    """MRPC has no archive: GLUE's split is the original training file, part of it taken out as dev by sentence ids."""
    ids = {tuple(line.split("\t")) for line in dev_ids.replace("\r", "").split("\n") if line}
    header, *rows = [line for line in train.replace("\r", "").split("\n") if line]
    parts: dict[str, list[str]] = {"train": [header], "dev": [header]}
    for row in rows:
        parts["dev" if tuple(row.split("\t")[1:3]) in ids else "train"].append(row)
    header, *rows = [line for line in test.replace("\r", "").split("\n") if line]
    # GLUE's test file has the row's number in place of the label.
    parts["test"] = ["\t".join(["index", *header.split("\t")[1:]])]
    parts["test"] += ["\t".join([str(number), *row.split("\t")[1:]]) for number, row in enumerate(rows)]
    return {split: lambda lines=lines: ("\n".join(lines) + "\n").encode() for split, lines in parts.items()}
