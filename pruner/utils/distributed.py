"""Several processes that work on one grid together, as ``torchrun`` starts them, or independently side by side.

Alone, a process is the main one, and waits for nobody. What is read from or written to files is the main process's;
the others learn of it by ``from_main``, and take part in the training.
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
# The others wait that long for the main process, which evaluates and measures alone.
PATIENCE = timedelta(days=7)


def count() -> int:
    """How many processes ``torchrun`` has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def join() -> None:
    """Meet the other processes; only the main one is heard from now on."""
    if count() == 1:
        return
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)  # transformers gives it
    PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    if not is_main():
        # Until the process ends.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def from_main(answer: Callable[[], T]) -> T:
    """What ``answer`` gives in the main process, in all of them. It must not call ``from_main`` itself."""
    if count() == 1:
        return answer()
    box = [answer() if is_main() else None]
    return broadcast_object_list(box)[0]


class Lock:
    """A claim on ``path``, by a hidden file beside it. It ends with the process, however that ends."""

    def __init__(self, path: Path) -> None:
        self.file = path.with_name(f".{path.name}.lock")
        self._lock = FileLock(self.file)

    def take(self, wait: bool) -> bool:
        """Whether the claim is ours now; another process may have it for hours.

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
    """Work on ``path`` while no other process does, but for those that work on it together with this one."""
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
