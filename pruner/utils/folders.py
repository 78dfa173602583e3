"""Folders of what is kept: written whole, with checksums, beside what users have put there."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pruner.utils.errors import UserError
from pruner.utils.files import FILE_MODE, cannot_read, check_regular, is_there, remove, temporary, write_whole

SUMS = "SHA256SUMS"  # as sha256sum -c reads it
FOR_PEOPLE = "README.md"  # without a sum: who reads it may write in it
NAME = r"\w[\w.+-]*"  # of files that libraries write: none leads elsewhere, none is a pattern
LINE = re.compile(rf"([0-9a-f]{{64}})  ({NAME})")


@contextmanager
def whole_folder(folder: Path, last: str, stale: Iterable[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder for files, which come to ``folder`` when all are written, ``last`` as the mark of it.

    What was there of an earlier one, by its checksums and the names of ``stale`` files, goes; what else was, stays.
    """
    with temporary(folder) as new:
        new.mkdir()
        yield new
        files = sorted(new.iterdir(), key=lambda path: path.name == last)
        for path in files:
            with suppress(PermissionError):  # of file systems that have no modes
                path.chmod(FILE_MODE)
        if not is_there(folder):
            new.replace(folder)
            return
        for name in (last, *({*stale, *own_files(folder)} - {path.name for path in files})):
            with suppress(FileNotFoundError):
                (folder / name).unlink()
        for path in files:
            path.replace(folder / path.name)


def remove_own(folder: Path, own: Iterable[str]) -> None:
    """Remove what is ours, by names or patterns, from a folder, and the folder if nothing else is in it."""
    for pattern in own:
        for path in folder.glob(pattern):
            remove(path)
    with suppress(OSError):
        folder.rmdir()


def own_files(folder: Path) -> list[str]:
    """List the files that came with the checksums of a folder; none where it has no readable ones."""
    try:
        return [*read_sums(folder), SUMS, FOR_PEOPLE] if is_there(folder / SUMS) else []
    except UserError:
        return []


def write_sums(folder: Path) -> None:
    """Write the checksums of a folder's files beside them."""
    files = {path.name for path in folder.iterdir() if path.is_file() and re.fullmatch(NAME, path.name)}
    names = sorted(files - {SUMS, FOR_PEOPLE})
    write_whole(folder / SUMS, "".join(f"{sha256(folder / name)}  {name}\n" for name in names).encode())


def read_sums(folder: Path) -> dict[str, str]:
    """Read the checksums of a folder's files, by their names."""
    path = folder / SUMS
    check_regular(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise cannot_read(path, error) from None
    matches = [LINE.fullmatch(line) for line in lines]
    if not all(matches):
        raise UserError(f"{path}: damaged; remove the folder, or that file if all others are as they should be")
    return {match[2]: match[1] for match in matches if match}


def check_sums(folder: Path, advice: str) -> None:
    """Raise a ``UserError`` if a file is not what it was when the folder was written; ``advice`` is what to do then.

    Folders that have no checksums are not checked: older versions wrote none.
    """
    if not is_there(folder / SUMS):
        return
    for name, expected in read_sums(folder).items():
        if sha256(folder / name) != expected:
            raise UserError(f"{folder / name}: not as it was written, by {SUMS} beside it; {advice}")


def sha256(path: Path) -> str:
    """Return the checksum of a file."""
    check_regular(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise cannot_read(path, error) from None
