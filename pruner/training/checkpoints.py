"""Checkpoints of a training: when they are written, which is the last whole one, errors as one line."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from transformers import TrainerCallback

from pruner.utils.distributed import from_main
from pruner.utils.errors import UserError
from pruner.utils.files import read_json

CHECKPOINT_SECONDS = 600  # of work are lost at most, beside those at the end of an epoch
CHECKPOINT_FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")


class CheckpointCallback(TrainerCallback):
    """Save after each epoch and every few minutes, always when the loss has just been logged, so that none is lost."""

    def __init__(self) -> None:
        self.saved_at, self.saved_step = time.monotonic(), 0

    def on_step_end(self, args, state, control, **kwargs):
        if control.should_log:
            control.should_save = from_main(lambda: time.monotonic() - self.saved_at >= CHECKPOINT_SECONDS)

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_log = True
        control.should_save = state.global_step != self.saved_step  # never over one that is whole

    def on_save(self, args, state, control, **kwargs):
        self.saved_at, self.saved_step = time.monotonic(), state.global_step


def readable(load: Callable) -> Callable:
    """Turn every error of a method that reads a checkpoint into a ``UserError``."""

    def load_or_raise(self, checkpoint, *args):
        try:
            load(self, checkpoint, *args)
        except Exception as error:  # safetensors, pickle and torch each raise their own
            raise UserError(f"{checkpoint}: cannot be resumed ({error}); remove the folder") from None

    return load_or_raise


def last_checkpoint(folder: Path) -> str | None:
    """Find the newest whole checkpoint in a training's folder."""
    checkpoints = [path for path in folder.glob("checkpoint-*") if is_whole(path)]
    return str(max(checkpoints, key=lambda path: int(path.name.rpartition("-")[2]))) if checkpoints else None


def is_whole(checkpoint: Path) -> bool:
    """Tell whether all files are there; the one that names the step is written last."""
    if all((checkpoint / name).is_file() for name in CHECKPOINT_FILES) and any(checkpoint.glob("rng_state*")):
        with suppress(UserError):
            return checkpoint.name == f"checkpoint-{read_json(checkpoint / 'trainer_state.json').get('global_step')}"
    return False
