"""Checkpoints of a training: when they are written, which is the last whole one, errors as one line."""

import time
from collections.abc import Callable
from pathlib import Path

from transformers import TrainerCallback, TrainerState

from pruner.utils.distributed import from_main
from pruner.utils.errors import UserError
from pruner.utils.files import is_there, remove
from pruner.utils.folders import SUMS, check_sums, write_sums

CHECKPOINTS = "checkpoint-*"
CHECKPOINT_SECONDS = 600  # of work are lost at most, beside those at the end of an epoch


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


def seal(checkpoint: Path) -> None:
    """Mark a checkpoint as whole, by its checksums; those before it go."""
    write_sums(checkpoint)
    for other in checkpoint.parent.glob(CHECKPOINTS):
        if other != checkpoint:
            remove(other)


def last_checkpoint(folder: Path, say: Callable[[str], None]) -> str | None:
    """Find the newest whole checkpoint in a training's folder; those that are not are named."""
    whole = []
    for path in folder.glob(CHECKPOINTS):
        number = path.name.rpartition("-")[2]
        try:
            check_whole(path)
            whole.append((int(number), str(path)))
        except (UserError, ValueError, TypeError, LookupError) as error:
            say(f"{path}: cut short or damaged, training goes on without it ({error})")
    return max(whole)[1] if whole else None


def check_whole(checkpoint: Path) -> None:
    """Raise an error unless all files of a checkpoint are there, as they were written, for the step in its name."""
    if not is_there(checkpoint / SUMS):
        raise UserError(f"no {SUMS}")
    check_sums(checkpoint, "it is not used")
    step = TrainerState.load_from_json(str(checkpoint / "trainer_state.json")).global_step
    if checkpoint.name != f"checkpoint-{step}":
        raise UserError(f"made at step {step}")
