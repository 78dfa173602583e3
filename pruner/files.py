"""Files are written whole or not at all."""

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from pruner.errors import UserError


def cannot_write(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be written ({error}); free the place or choose another folder")


def write_whole(path: Path, content: bytes) -> None:
    """Write under a temporary name, which is changed when all is written; folders are made.

    Raises:
        UserError: the place cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def remove_folder(folder: Path) -> None:
    """Remove it, if it is there, under another name: what is half removed must not pass for whole."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    with suppress(OSError):
        folder.replace(old)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to write into, which takes the place of ``folder`` when all is written.

    What a killed process has left of it is removed: a folder is written by one process at a time.

    Raises:
        UserError: the place cannot be written.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.*"):
            shutil.rmtree(left, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        remove_folder(folder)
        temporary.replace(folder)
    except (OSError, SafetensorError) as error:
        raise cannot_write(folder, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
