"""Atomic writing of files and folders, careful reading of JSON that others wrote; what fails is a ``UserError``."""

import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from pruner.utils.errors import UserError
from pruner.utils.text import shorten


def cannot_write(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be written ({error}); free the place or choose another folder")


def cannot_read(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be read ({error.strerror}); allow reading it, or copy the file again")


def check_writable(folder: Path) -> None:
    """Make the folder, before hours of work whose result is to be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise cannot_write(folder, error) from None


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``, removed in the end, as what killed processes left; folders are made."""
    name = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    missing = [parent for parent in path.parents if not os.path.lexists(parent)]  # innermost first
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path)
        yield name
    except (OSError, SafetensorError) as error:
        raise cannot_write(path, error) from None
    finally:
        with suppress(OSError):
            name.unlink()
        with suppress(OSError):  # folders that hold something by now stay
            for parent in missing:
                parent.rmdir()


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``, which is renamed to it when all is written without an error."""
    with temporary(path) as name:
        yield name
        os.replace(name, path)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; folders are made."""
    with whole(path) as name:
        name.write_bytes(content)


def remove_abandoned(path: Path) -> None:
    """Remove temporary files of ``path`` whose processes have ended."""
    for name in path.parent.glob(f"{glob.escape(path.name)}.*.tmp"):
        number = name.name.split(".")[-2]
        if os.name == "posix" and number.isdecimal():  # elsewhere signal 0 does not ask
            with suppress(OSError):  # another user's process, or a file that another one has removed
                try:
                    os.kill(int(number), 0)
                except (ProcessLookupError, OverflowError):
                    name.unlink()


def remove_folder(folder: Path) -> None:
    """Rename a folder, if it exists, then remove it: one that is half removed must not pass for whole."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    with suppress(OSError):
        folder.replace(old)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder, which replaces ``folder`` when all is written."""
    new = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        # What a killed process has left: a folder is written by one process at a time.
        for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.*"):
            shutil.rmtree(left, ignore_errors=True)
        new.mkdir(parents=True)
        yield new
        remove_folder(folder)
        new.replace(folder)
    except (OSError, SafetensorError) as error:
        raise cannot_write(folder, error) from None
    finally:
        shutil.rmtree(new, ignore_errors=True)


def read_json(path: Path, missing_ok: bool = False) -> dict:
    """Read a JSON object, with ``missing_ok`` an empty one where there is no file; a link to nowhere is an error."""
    if missing_ok and not os.path.lexists(path):
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); copy the file again") from None
    except OSError as error:  # a folder, a link to nowhere
        raise cannot_read(path, error) from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object; copy the file again")
    return content


def short(value: object) -> str:
    """Shorten a value of a JSON file for an error's line."""
    return shorten(json.dumps(value), 40)


def read_size(config: dict, key: str, path: Path) -> int | None:
    """Return a size, a whole number from 1, of the config read from ``path``; ``None`` where there is none."""
    value = config.get(key)
    if key in config and (type(value) is not int or not 1 <= value < 2**31):
        raise UserError(f"{path}: {key} is {short(value)}, which is no size; copy the model's own {path.name} there")
    return value


def megabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
