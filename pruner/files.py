"""Files are written whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path

from pruner.errors import UserError


def cannot_write(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be written ({error}); free the place or choose another folder")


def write_whole(path: Path, content: bytes) -> None:
    """Write under a temporary name, which is changed when all is written; folders are made.

    Raises:
        UserError: the place cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:
        with suppress(OSError):
            temporary.unlink()
