"""Locks between processes that know nothing of each other."""

from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pruner.utils.files import cannot_write, missing_folders, remove_empty


class Lock:
    """A lock on ``path``, by a hidden file beside it. It ends with the process, however that ends.

    Folders that it has made are removed with it, if nothing else came to lie in them.
    """

    def __init__(self, path: Path) -> None:
        self.file = path.with_name(f".{path.name}.lock")
        self._lock, self._made = FileLock(self.file), list[Path]()

    def take(self, wait: bool) -> bool:
        """Acquire the lock, which another process may hold for hours; return whether it is ours now."""
        self._made = missing_folders(self.file)
        try:
            try:
                self._acquire(wait)
            except FileNotFoundError:  # another process has just removed the folder, as one that it had made
                self._acquire(wait)
        except Timeout:
            return False
        except OSError as error:
            raise cannot_write(self.file, error) from None
        return True

    def _acquire(self, wait: bool) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._lock.acquire(timeout=-1 if wait else 0, poll_interval=0.2)

    def release(self) -> None:
        with suppress(OSError):  # Windows removes no open file
            self.file.unlink()  # whoever waits for it notices, and makes another
        self._lock.release()
        remove_empty(self._made)
