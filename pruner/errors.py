"""Errors written for the person who made the mistake: one line, exit code 2, no traceback."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn


class UserError(ValueError):
    """Bad input. The message is one line: what is wrong, where, and what to do about it."""


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
    """``"a,b"`` -> ``["a", "b"]``, the form in which flags take lists."""
    return [part.strip() for part in text.split(",") if part.strip()]


def run_script(main: Callable[[], None]) -> None:
    """Run a script's ``main``: bad input ends with one line on stderr and exit code 2, Ctrl-C with 130."""
    try:
        main()
    except UserError as error:
        message = " ".join(str(error).split())
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped: run the same command again, finished work is kept", file=sys.stderr)
        sys.exit(130)
