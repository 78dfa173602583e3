"""The version of this code: its number, and the commit where there is a checkout."""

import subprocess
from pathlib import Path

from pruner import __version__


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


def version_text() -> str:
    """Return the line that ``--version`` prints."""
    return f"Sequence Pruning {__version__} ({git_commit() or 'no checkout'})"
