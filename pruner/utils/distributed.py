"""Processes that train together, as ``torchrun`` starts them, or work independently side by side.

Of those that train together, only the main one reads and writes files, evaluates and measures; ``from_main`` tells the
others what they need. A single process is the main one.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from pruner.utils.files import cannot_write

T = TypeVar("T")
# How long the others wait for the main process, which evaluates and measures alone.
PATIENCE = timedelta(days=7)


def num_processes() -> int:
    """Return how many processes ``torchrun`` has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def join() -> None:
    """Join the other processes; from now on only the main one prints."""
    if num_processes() == 1:
        return
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)  # transformers gives it
    PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    if not is_main():
        # Until the process ends.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def from_main(answer: Callable[[], T]) -> T:
    """Call ``answer`` in the main process; return its result in all. It must not call ``from_main`` itself."""
    if num_processes() == 1:
        return answer()
    return broadcast_object_list([answer() if is_main() else None])[0]


class Lock:
    """A lock on ``path``, by a hidden file beside it. It ends with the process, however that ends."""

    def __init__(self, path: Path) -> None:
        self.file = path.with_name(f".{path.name}.lock")
        self._lock = FileLock(self.file)

    def take(self, wait: bool) -> bool:
        """Acquire the lock, which another process may hold for hours; return whether it is ours now.

        Raises:
            UserError: the place cannot be written.
        """
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=-1 if wait else 0, poll_interval=0.2)
        except Timeout:
            return False
        except OSError as error:
            raise cannot_write(self.file, error) from None
        return True

    def release(self) -> None:
        with suppress(OSError):  # Windows removes no open file
            self.file.unlink()  # whoever waits for it notices, and makes another
        self._lock.release()


@contextmanager
def locked(path: Path, log: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock on ``path``; processes that train together hold it together."""
    if not is_main():
        yield
        return
    lock = Lock(path)
    if not lock.take(wait=False):
        log(f"waiting for another process, which is at work on {path}")
        lock.take(wait=True)
    try:
        yield
    finally:
        lock.release()
