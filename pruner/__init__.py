"""Sequence Pruning: what the scripts share. The rooms are described in README.md beside this file."""

import os

__version__ = "2.0.0"
STOPPED = "stopped: run the same command again, finished work is kept"

if "WORLD_SIZE" in os.environ:
    # DDP would warn that a step left out no parameter: some steps may. PyTorch reads this when it is imported.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
