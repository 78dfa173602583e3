"""Sequence Pruning: what the scripts share. The rooms are described in README.md beside this file."""

import os
import sys
from collections.abc import Callable, Sequence

__version__ = "2.0.0"
STOPPED = "stopped: run the same command again, finished work is kept"
NO_MEMORY = "out of memory; close other programs, or use a machine with more"

if "WORLD_SIZE" in os.environ:
    # DDP would warn that a step left out no parameter: some steps may. PyTorch reads this when it is imported.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def is_want_of_memory(error: Exception) -> bool:
    """Tell whether that is why a library cannot be loaded, or cannot work."""
    signs = "failed to map segment", "allocate memory", "bad_alloc", "start new thread", "without exception set"
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


def run_script(main: Callable[[], None], packages: Sequence[str] = ()) -> None:
    """Run a script's ``main`` as ``errors.outcome`` does, and exit. What that takes is imported here, not before."""
    try:
        from pruner.utils.errors import outcome

        code = outcome(main, packages)
    except KeyboardInterrupt:  # while that was imported
        print(STOPPED, file=sys.stderr)
        code = 130
    except (MemoryError, ImportError, SystemError) as error:
        if not is_want_of_memory(error):
            raise
        print(f"error: {NO_MEMORY}", file=sys.stderr)
        code = 2
    if code == 130 or os.environ.get("WORLD_SIZE", "1") != "1":
        # Without waiting for threads: libraries have pools, and one that was interrupted may never end; those by which
        # several processes meet have aborted them on the way out.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)
