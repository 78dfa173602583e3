"""Where output goes: UTF-8, nothing from outside steers the terminal, and a reader that has left ends it quietly."""

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, NoReturn, TextIO, cast

from pruner.utils.text import printable

BARS = "\r", "\x1b[A"  # by which tqdm draws bars over each other
NO_READER = 141  # the exit code of what a shell's `| head` has ended


class Screen:
    """A stream whose text is made printable, but for line ends and what is ``kept``."""

    def __init__(self, stream: TextIO, kept: Sequence[str] = ()) -> None:
        self.stream, self.kept = stream, ("\n", *kept)
        printable("", self.kept)  # compiles what it takes

    def write(self, text: str) -> int:
        try:
            return self.stream.write(printable(text, self.kept))
        except OSError as error:
            self.give_up(error)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            self.give_up(error)

    def give_up(self, error: OSError) -> NoReturn:
        """End the script where nobody reads on, else raise the error; what is left goes nowhere, at exit too."""
        with suppress(OSError):  # a stream without a file
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        if isinstance(error, BrokenPipeError):
            raise SystemExit(NO_READER) from None
        raise error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def screens() -> Iterator[None]:
    """Print through a ``Screen`` on both streams, where there are any."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what is printed is UTF-8 wherever it goes
            # In a file, lines of both streams come in their order, and at once.
            stream.reconfigure(encoding="utf-8", errors="replace", line_buffering=True)
    out, err = sys.stdout and Screen(sys.stdout), sys.stderr and Screen(sys.stderr, BARS)
    with redirect_stdout(cast(TextIO, out)), redirect_stderr(cast(TextIO, err)):
        yield


def print_coloured(text: str, colours: Sequence[str]) -> None:
    """Print a text whose colours are ours, and in which the sequences that make them come from nowhere else."""
    print(text, file=cast(TextIO, Screen(getattr(sys.stdout, "stream", sys.stdout), colours)))
