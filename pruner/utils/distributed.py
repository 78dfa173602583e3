"""Processes that train together, as ``torchrun`` starts them, or work independently side by side.

Of those that train together, only the main one reads and writes files, evaluates and measures; ``from_main`` tells the
others what they need. A single process is the main one.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from pruner.utils.errors import UserError
from pruner.utils.locks import Lock

T = TypeVar("T")
# How long the others wait for the main process, which evaluates and measures alone.
PATIENCE = timedelta(days=7)


def num_processes() -> int:
    """Return how many processes ``torchrun`` has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def check_environment() -> None:
    """Raise a ``UserError`` where the environment does not say of processes what ``torchrun`` says."""
    numbers = {name: os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT")}
    several, advice = (
        numbers["WORLD_SIZE"] not in ("", "1"),
        "start several processes with torchrun, or unset WORLD_SIZE",
    )
    for name, text in numbers.items():
        if (text or several) and not (text.isascii() and text.isdecimal() and len(text) < 10):
            raise UserError(f"{name}: {text!r:.60} is no number; {advice}")
    if several and "MASTER_ADDR" not in os.environ:
        raise UserError(f"MASTER_ADDR: not set; {advice}")


def join() -> None:
    """Join the other processes; from now on only the main one prints.

    Raises:
        UserError: the environment says of processes what ``torchrun`` does not say.
    """
    check_environment()
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
