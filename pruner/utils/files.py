"""Atomic writing of files, careful reading of JSON that others wrote; what fails is a ``UserError``."""

import errno
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from pruner.utils.errors import UserError
from pruner.utils.text import shorten

UMASK = os.umask(0o077)  # to ask for it is to set it
os.umask(UMASK)
FILE_MODE = 0o666 & ~UMASK  # libraries write files that their owner alone may read


def cannot_write(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be written ({error}); free the place or choose another folder")


def cannot_read(path: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(f"{path}: cannot be read ({reason}); allow reading it, or move away what is in its place")


def is_there(path: Path) -> bool:
    """Tell whether there is something, be it a link to nowhere; raise a ``UserError`` where that cannot be known."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:  # a folder that may not be entered, a file in a folder's place
        if getattr(error, "errno", None) == errno.ENAMETOOLONG:
            return False  # there can be none
        raise cannot_read(path, error) from None
    return True


def check_regular(path: Path) -> None:
    """Raise a ``UserError`` for a pipe, socket or device in place of a file: opening or reading it may never end."""
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise UserError(f"{path}: a pipe, socket or device, not a file; put the file itself there, or name another")


def check_writable(folder: Path) -> None:
    """Check that something can be written there, before hours of work whose result it is; makes no folder."""
    try:
        there = next((parent for parent in (folder, *folder.parents) if os.path.lexists(parent)), folder)
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise cannot_write(folder, error) from None


def temporary_name(path: Path) -> Path:
    """Return a name beside ``path`` that nobody else knows, with the number of this process."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(8)}.tmp")


def remove_abandoned(path: Path) -> None:
    """Remove what lies under temporary names of ``path`` whose processes have ended."""
    ours = re.compile(re.escape(f".{path.name}.") + r"(\d+)\.[0-9a-f]{16}\.tmp")
    for name in path.parent.iterdir() if os.name == "posix" else ():  # elsewhere signal 0 does not ask
        if match := ours.fullmatch(name.name):
            with suppress(OSError):  # another user's process, or what another one has removed
                try:
                    os.kill(int(match[1]), 0)
                except (ProcessLookupError, OverflowError):
                    remove(name)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, as far as that can be."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def missing_folders(path: Path) -> list[Path]:
    """List the folders around ``path`` that are not there yet, the innermost first."""
    return [parent for parent in path.parents if not os.path.lexists(parent)]


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, the innermost first, as far as nothing has come to lie in them."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``, removed in the end, as what killed processes left; folders are made."""
    name, missing = temporary_name(path), missing_folders(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path)
        yield name
    except (OSError, SafetensorError) as error:
        raise cannot_write(path, error) from None
    finally:
        remove(name)
        remove_empty(missing)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``, which is renamed to it when all is written without an error."""
    with temporary(path) as name:
        yield name
        with suppress(PermissionError):  # of file systems that have no modes
            name.chmod(FILE_MODE)
        os.replace(name, path)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; folders are made."""
    with whole(path) as name:
        name.write_bytes(content)


def read_json(path: Path, missing_ok: bool = False) -> dict:
    """Read a JSON object, with ``missing_ok`` an empty one where there is no file; a link to nowhere is an error."""
    if missing_ok and not is_there(path):
        return {}
    check_regular(path)
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
