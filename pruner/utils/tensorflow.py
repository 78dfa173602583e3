"""Import of TensorFlow without the pages that it prints while starting."""

import os
from types import ModuleType

from pruner.utils.errors import UserError


def import_tensorflow(purpose: str) -> ModuleType:
    """Import ``tensorflow``; ``purpose`` completes "only it ..." where it is not installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Its first lines are written before it has read that variable, past Python's own stderr.
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import tensorflow
    except ImportError:
        raise UserError(f"tensorflow is not installed, and only it {purpose}; pip install tensorflow") from None
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
    return tensorflow
