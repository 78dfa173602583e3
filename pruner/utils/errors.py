"""Errors written for the person who made the mistake: one line, exit code 2, no traceback."""

import argparse
import io
import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

from packaging.specifiers import SpecifierSet
from tqdm import tqdm

from pruner import STOPPED

OLDEST_PYTHON = (3, 11)
# Versions that the tests have run on, and what their authors' numbering promises to be like them.
SUPPORTED = {"torch": ">=2.11,<3", "transformers": ">=5.17,<6"}


class UserError(ValueError):
    """Bad input. The message is one line: what is wrong, where, and what to do about it."""


class CellError(UserError):
    """It concerns one cell of a grid: the others can be run."""


class NotFiniteError(CellError):
    """Numbers that are none: what they came from cannot go on, nor be resumed."""


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose complaints are one line instead of a usage block."""

    def __init__(self, description: str | None) -> None:
        super().__init__(
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def comma_list(text: str) -> list[str]:
    """``"a,b"`` -> ``["a", "b"]``, the form in which flags take lists; nothing is an empty one."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(parts):
        raise ValueError("a part is empty")
    return parts


def listed(names: Sequence[str], most: int = 10) -> str:
    """Names from a file for an error's one line: some of them if there are many, each only so far and printable."""
    shown = [repr(name if len(name) <= 40 else f"{name[:37]}...")[1:-1] for name in names[:most]]
    return ", ".join(shown) + (f" and {len(names) - most} more" if len(names) > most else "")


def check_versions(packages: Sequence[str]) -> None:
    """Complain about a Python or packages that this code is not made for.

    Raises:
        UserError: an older or newer one than those supported, or none.
    """
    if sys.version_info < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        raise UserError(
            f"Python {platform.python_version()}: this code needs {wanted} or newer; make a new environment"
        )
    for package in packages:
        wanted = SUPPORTED[package]
        try:
            found = version(package)
        except PackageNotFoundError:
            raise UserError(f"{package}: not installed; run pip install -r requirements.txt") from None
        if not SpecifierSet(wanted).contains(found, prereleases=True):
            raise UserError(f"{package} {found}: this code needs {wanted}; run pip install -r requirements.txt")


def outcome(main: Callable[[], None], packages: Sequence[str] = ()) -> int:
    """Run a script's ``main``; its exit code. Bad input ends with one line on stderr and 2, Ctrl-C with 130.

    ``packages`` are those whose versions are checked before.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what is printed is UTF-8 wherever it goes
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        check_versions(packages)
        main()
    except (UserError, OSError) as error:  # of the system's own errors, those that nobody foresaw: a full disk
        last_line("error: " + " ".join(str(error).split()))
        return 2
    except MemoryError:
        last_line("error: out of memory; close other programs, or use a machine with more")
        return 2
    except KeyboardInterrupt as stop:
        last_line(str(stop) or STOPPED)
        return 130
    return 0


def run_script(main: Callable[[], None], packages: Sequence[str] = ()) -> NoReturn:
    """As ``outcome``, and leave the interpreter."""
    code = outcome(main, packages)
    if code == 130 or os.environ.get("WORLD_SIZE", "1") != "1":
        # Without waiting for threads: libraries have pools, and one that was interrupted may never end; those by which
        # several processes meet have aborted them on the way out.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)


def last_line(text: str) -> None:
    """Say it in a line of its own, below the progress bars."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()
    print(text, file=sys.stderr)
