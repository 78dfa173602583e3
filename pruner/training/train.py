"""Training a model on a prepared split: interrupted, it goes on from its last checkpoint."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn
from tqdm import tqdm
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from pruner.data.collate import Collate, SplitDataset
from pruner.training.curves import Curves
from pruner.training.trainer import PruningTrainer, TrainSettings
from pruner.utils.distributed import PATIENCE, from_main
from pruner.utils.errors import CellError, NotFiniteError
from pruner.utils.files import remove_folder

CHECKPOINT_SECONDS = 600  # of work are lost at most, beside those at the end of an epoch
CHECKPOINT_FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")


class LossBar(ProgressCallback):
    """One progress bar with the running loss, in place of one line per log entry."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None and logs and "loss" in logs:
            shown = {name: f"{logs[name]:.4f}" for name in ("loss", "student_loss") if name in logs}
            self.training_bar.set_postfix(shown)


class Checkpoints(TrainerCallback):
    """One after each epoch and every few minutes, always when the loss has just been logged, so that none is lost."""

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


def last_checkpoint(folder: Path) -> str | None:
    """The newest of ``Trainer``'s checkpoints in a folder that was written to its end."""
    found = [path for path in folder.glob("checkpoint-*") if is_whole(path)]
    return str(max(found, key=lambda path: int(path.name.rpartition("-")[2]))) if found else None


def is_whole(checkpoint: Path) -> bool:
    """Whether all files are there; the one that tells the step is written last."""
    if not all((checkpoint / name).is_file() for name in CHECKPOINT_FILES) or not any(checkpoint.glob("rng_state*")):
        return False
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        return checkpoint.name == f"checkpoint-{state['global_step']}"
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def training_device() -> torch.device:
    """Where ``train`` leaves a model."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(
    model: nn.Module,
    data: SplitDataset,
    settings: TrainSettings,
    seed: int,
    folder: Path,
    collate: Collate,
    decay: str = "linear",
    callbacks: Sequence[TrainerCallback] = (),
    learning_rates: Mapping[str, float] = MappingProxyType({}),
    say: Callable[[str], None] = tqdm.write,
    curves: Curves | None = None,
) -> list[dict[str, float]]:
    """Train ``model`` in place and leave it on the training device. Several processes train it together.

    Args:
        folder: where the checkpoints are. If it has one, training goes on from there, as if it had not been
            interrupted.
        collate: rows of ``data`` -> what the model's ``forward`` takes.
        decay: of the learning rates: ``linear`` to 0, or ``constant``.
        learning_rates: of parts of the model, by the beginning of their parameters' names.
        say: is told what the user should know, in a line.
        curves: where the training is logged for TensorBoard, if it is.

    Returns:
        the loss curve: ``step``, ``loss`` and, where students learn, ``student_loss``; about 50 entries.

    Raises:
        CellError: the loss or a score was not finite, or memory was short for a single sentence.
        UserError: the checkpoints cannot be written or read.
    """
    on_gpu = torch.cuda.is_available()
    auto = settings.dtype == "auto"
    bf16 = on_gpu and torch.cuda.is_bf16_supported() if auto else settings.dtype == "bfloat16"
    steps = max(1, round(len(data) * settings.epochs / settings.batch_size))
    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=not on_gpu,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=decay,
        max_grad_norm=0.0,  # each parameter group is clipped by itself
        bf16=bf16,
        fp16=on_gpu and auto and not bf16,
        seed=seed,
        logging_steps=max(1, steps // 50),
        logging_nan_inf_filter=False,
        save_strategy="no",  # see Checkpoints
        save_total_limit=1,
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=on_gpu,
        log_level="error",
        log_level_replica="error",
        ddp_broadcast_buffers=False,  # they are the same everywhere
        ddp_timeout=int(PATIENCE.total_seconds()),
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # not DataParallel: several devices need a process each

    def collate_rows(sentences: Sequence[dict]) -> dict:
        return {**collate(sentences), "rows": [sentence["row"] for sentence in sentences]}

    trainer = PruningTrainer(
        settings, learning_rates, say, model=model, args=arguments, train_dataset=data, data_collator=collate_rows
    )
    for callback in (LossBar(), *callbacks, Checkpoints()):
        trainer.add_callback(callback)
    if curves:
        trainer.measure = curves.evaluate
        trainer.add_callback(curves)
    try:
        trainer.train(resume_from_checkpoint=from_main(lambda: last_checkpoint(folder)))
        trainer.check_last_step()
    except NotFiniteError:
        remove_folder(folder)  # there is nothing to go on from
        raise
    except torch.OutOfMemoryError as error:
        raise CellError(f"training: out of memory for the model itself ({error}); take a smaller one") from None
    # Mixed precision is for training: Accelerate would leave it in the model's forward.
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    keys = ("step", "loss", "student_loss")
    return [{key: round(float(entry[key]), 5) for key in keys if key in entry} for entry in history]
