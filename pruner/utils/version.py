"""The commit of this code, where there is a checkout."""

import subprocess
from contextlib import suppress
from pathlib import Path


def git_commit() -> str | None:
    """Return the commit, with ``-dirty`` where tracked files were changed; ``None`` outside a checkout."""
    command = "git describe --always --dirty --abbrev=12 --exclude=*".split()
    with suppress(OSError, subprocess.CalledProcessError):
        return subprocess.check_output(command, cwd=Path(__file__).parent, stderr=subprocess.DEVNULL, text=True).strip()
    return None
