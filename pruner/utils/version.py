"""The commit of this code, where there is a checkout."""

import subprocess
from pathlib import Path


def git_commit() -> str | None:
    """Return the commit, with ``-dirty`` where tracked files were changed; ``None`` outside a checkout."""
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
