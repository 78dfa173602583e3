"""Locks between processes that know nothing of each other."""

from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pruner.utils.files import cannot_write


class Lock:
    """A lock on ``path``, by a hidden file beside it. It ends with the process, however that ends."""

    def __init__(self, path: Path) -> None:
        self.file = path.with_name(f".{path.name}.lock")
        self._lock = FileLock(self.file)

    def take(self, wait: bool) -> bool:
        """Acquire the lock, which another process may hold for hours; return whether it is ours now."""
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
