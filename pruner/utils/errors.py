"""Errors written for the person who made the mistake: one line, exit code 2, no traceback."""

import platform
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet

from pruner import NO_MEMORY, STOPPED, is_want_of_memory
from pruner.utils.progress import close_bars
from pruner.utils.screen import screens
from pruner.utils.text import printable, shorten

OLDEST_PYTHON = (3, 11)
LONGEST, END = 400, 160  # characters of an error's line, and those of its end, which says what to do
LONGEST_WORD = 90  # of a line that is longer
# Versions that the tests have run on, and later ones that their authors' numbering promises to be compatible.
SUPPORTED = {"torch": ">=2.11,<3", "transformers": ">=5.17,<6"}
# The flags that are not named after their constant.
FLAGS = {"pruning_schedule": "--schedule", "pruning_methods": "--methods"}


class UserError(ValueError):
    """Bad input. The message is one line: what is wrong, where, and what to do about it."""


class SettingError(UserError):
    """A setting has a value that it cannot have; its flag is named beside its constant."""

    def __init__(self, constant: str, problem: str) -> None:
        super().__init__(f"{flag_name(constant)} ({constant}): {problem}")


def check_whole(constant: str, number: object, low: float, high: float, more: str = "") -> None:
    """Raise a ``SettingError`` unless the value of a constant is a whole number from ``low`` to ``high``."""
    if type(number) is not int or not low <= number <= high:
        raise SettingError(constant, f"{number!r:.60} is out of range; use a whole number from {low} to {high}{more}")


class CellError(UserError):
    """One cell of a grid cannot be run; the others can."""


class NotFiniteError(CellError):
    """A loss, score or metric is NaN or infinite; its training cannot continue, nor be resumed."""


def flag_name(constant: str) -> str:
    """Return the flag that overrides a constant: ``"batch_size"`` -> ``"--batch-size"``."""
    return FLAGS.get(constant, f"--{constant.replace('_', '-')}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question for an error's line if ``name`` is a mistyped one of ``known``, else nothing."""
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def unknown(kind: str, name: object, known: Collection[str]) -> str:
    """Return what an error says of a ``name`` that is not among ``known``, which is a ``kind`` of thing."""
    return f"unknown {kind} {name!r}{did_you_mean(str(name), known) or ';'} choose from {', '.join(known)}"


def listed(names: Sequence[str], most: int = 10, longest: int = 40) -> str:
    """List names from a file in an error's line: ``most`` at most, each printable and cut to ``longest`` letters."""
    shown = [printable(shorten(name, longest)) for name in names[:most]]
    return ", ".join(shown) + (f" and {len(names) - most} more" if len(names) > most else "")


def check_versions(packages: Sequence[str]) -> None:
    """Raise a ``UserError`` unless Python and the packages are of versions that this code supports."""
    if sys.version_info < OLDEST_PYTHON:
        needed = "{}.{} or newer".format(*OLDEST_PYTHON)
        raise UserError(f"Python {platform.python_version()}: this code needs {needed}; make a new environment")
    install = "run pip install -r requirements.txt"
    for package in packages:
        try:
            installed = version(package)
        except PackageNotFoundError:
            raise UserError(f"{package}: not installed; {install}") from None
        if not SpecifierSet(SUPPORTED[package]).contains(installed, prereleases=True):
            raise UserError(f"{package} {installed}: this code needs {SUPPORTED[package]}; {install}")


@screens()
def outcome(main: Callable[[], None], packages: Sequence[str] = ()) -> int:
    """Run a script's ``main``; return the exit code: 2 after bad input, with one line on stderr, 130 after Ctrl-C."""
    try:
        check_versions(packages)
        main()
    except (UserError, OSError) as error:  # an OSError that was not foreseen, as a full disk
        print_line(f"error: {error}")
        return 2
    except (MemoryError, ImportError, RuntimeError, SystemError) as error:
        if not is_want_of_memory(error):
            raise
        print_line(f"error: {NO_MEMORY}")
        return 2
    except KeyboardInterrupt as stop:
        print_line(str(stop) or STOPPED)
        return 130
    return 0


def print_line(text: str) -> None:
    """Print a text as one line to stderr, below the progress bars."""
    close_bars()
    words = printable(" ".join(text.split())).split(" ")
    if len(" ".join(words)) > LONGEST:  # most often for a path's sake
        words = [shorten(word, LONGEST_WORD, LONGEST_WORD // 3) for word in words]
    print(shorten(" ".join(words), LONGEST, END), file=sys.stderr)
