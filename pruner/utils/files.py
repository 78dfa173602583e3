"""Files are written whole or not at all, and JSON of others is read with care."""

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


def cannot_write(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be written ({error}); free the place or choose another folder")


def cannot_read(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be read ({error.strerror}); allow reading it, or copy the file again")


def check_writable(folder: Path) -> None:
    """Make the folder, before hours of work whose result is to be written into it.

    Raises:
        UserError: it cannot be made, or no file in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise cannot_write(folder, error) from None


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write under; folders are made. Whatever is left there in the end is removed.

    If this process is killed, the next that writes the same file removes it.

    Raises:
        UserError: the place cannot be written.
    """
    name = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    made = [parent for parent in path.parents if not os.path.lexists(parent)]  # innermost first
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path)
        yield name
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:
        with suppress(OSError):
            name.unlink()
        with suppress(OSError):  # those that something was written into stay
            for parent in made:
                parent.rmdir()


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """``temporary``, but the file gets its own name when all is written, unless there was an error."""
    with temporary(path) as name:
        yield name
        os.replace(name, path)


def write_whole(path: Path, content: bytes) -> None:
    """Write under a temporary name, which is changed when all is written; folders are made.

    Raises:
        UserError: the place cannot be written.
    """
    with whole(path) as name:
        name.write_bytes(content)


def remove_abandoned(path: Path) -> None:
    """Remove what processes that are no more left of ``path``."""
    for name in path.parent.glob(f"{glob.escape(path.name)}.*.tmp"):
        number = name.name.split(".")[-2]
        if number.isdecimal() and not is_running(int(number)):
            with suppress(OSError):
                name.unlink()


def is_running(process: int) -> bool:
    if os.name != "posix":
        return True  # elsewhere signal 0 is no question
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        pass
    return True


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
    new = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
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


def read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); copy the file again") from None
    except OSError as error:  # a folder, a link to nowhere
        raise UserError(f"{path}: cannot be read ({error.strerror}); copy the file again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object; copy the file again")
    return content


def read_json_if_there(path: Path) -> dict:
    """Empty where there is no such file; a link to nowhere is one that was lost."""
    return read_json(path) if os.path.lexists(path) else {}


def short(value: object) -> str:
    """What stands in a file, for an error's one line."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def read_size(config: dict, key: str, path: Path) -> int | None:
    """A size, a whole number from 1, in the config that was read from ``path``, ``None`` where it is not there."""
    value = config.get(key)
    if key in config and (type(value) is not int or not 1 <= value < 2**31):
        raise UserError(f"{path}: {key} is {short(value)}, which is no size; copy the model's own {path.name} there")
    return value
