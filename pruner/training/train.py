"""Train a model on a prepared split; an interrupted training resumes from its last checkpoint."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn
from tqdm import tqdm
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from pruner.data.collate import Collate, TrainingData
from pruner.models.dropout import use_fast_dropout
from pruner.training.checkpoints import CHECKPOINTS, CheckpointCallback, last_checkpoint
from pruner.training.distillation import Distillation, Loss
from pruner.training.embedding import used_words
from pruner.training.trainer import PruningTrainer, TrainSettings
from pruner.utils.distributed import PATIENCE, from_main
from pruner.utils.environment import named_dtype
from pruner.utils.errors import CellError, NotFiniteError
from pruner.utils.folders import remove_own
from pruner.utils.progress import SECONDS


class LossBar(ProgressCallback):
    """On a terminal one progress bar with the running loss, in place of one line per log entry."""

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.training_bar = tqdm(total=state.max_steps, dynamic_ncols=True, disable=None)  # elsewhere EpochLosses
        self.current_step = 0

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None and logs and "loss" in logs:
            shown = {name: f"{logs[name]:.4f}" for name in ("loss", "student_loss") if name in logs}
            self.training_bar.set_postfix(shown)


class EpochLosses(TrainerCallback):
    """Says where an interrupted training goes on, and the mean loss of each epoch: a line for one or for a minute.

    The longer of both counts: a training of hours says something each epoch, one of many short epochs every minute.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self.waiting, self.told = say, list[str](), 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.said = time.monotonic()
        if state.global_step:
            self.say(f"training goes on after step {state.global_step} of {state.max_steps}")

    def on_epoch_end(self, args, state, control, train_dataloader=None, **kwargs):
        steps = len(train_dataloader)
        first, self.told = self.told + 1, math.ceil(state.global_step / steps)
        for epoch in range(first, self.told + 1):  # with those from before an interruption
            of_epoch = range((epoch - 1) * steps + 1, epoch * steps + 1)
            losses = [entry["loss"] for entry in state.log_history if "loss" in entry and entry["step"] in of_epoch]
            if losses:  # an epoch may be shorter than what is logged together
                self.waiting.append(f"{sum(losses) / len(losses):.4f} in epoch {epoch}")
        is_last = state.global_step >= state.max_steps
        if self.waiting and (is_last or time.monotonic() - self.said >= SECONDS):
            self.say(f"loss {', '.join(self.waiting)} of {args.num_train_epochs:g}")
            self.said, self.waiting = time.monotonic(), []


def training_device() -> torch.device:
    """Return the device on which ``train`` leaves a model."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_trainer(
    model: nn.Module,
    data: TrainingData,
    settings: TrainSettings,
    seed: int,
    folder: Path,
    collate: Collate,
    decay: str = "linear",
    learning_rates: Mapping[str, float] = MappingProxyType({}),
) -> PruningTrainer:
    """Make the trainer of ``model``, whose arguments are those of ``train``; it says and saves nothing yet."""
    on_gpu = torch.cuda.is_available()
    auto = settings.dtype == "auto"
    bf16 = named_dtype(settings.dtype) is torch.bfloat16
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
        save_strategy="no",  # see CheckpointCallback
        log_level="error",
        log_level_replica="error",
        ddp_broadcast_buffers=False,  # they are the same everywhere
        ddp_find_unused_parameters=True,  # a step may leave some out: they then get no gradient, as in one process
        ddp_timeout=int(PATIENCE.total_seconds()),
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # not DataParallel: several devices need a process each

    def collate_rows(sentences: Sequence[dict]) -> dict:
        return {**collate(sentences), "rows": [sentence["row"] for sentence in sentences]}

    use_fast_dropout(model)
    return PruningTrainer(
        settings, learning_rates, model=model, args=arguments, train_dataset=data, data_collator=collate_rows
    )


def train(
    model: nn.Module,
    data: TrainingData,
    settings: TrainSettings,
    seed: int,
    folder: Path,
    collate: Collate,
    decay: str = "linear",
    callbacks: Sequence[TrainerCallback] = (),
    learning_rates: Mapping[str, float] = MappingProxyType({}),
    say: Callable[[str], None] = tqdm.write,
    distillation: Distillation | None = None,
    losses: Sequence[Loss] = (),
) -> list[dict[str, float]]:
    """Train ``model`` in place and leave it on the training device. Several processes train it together.

    Returns the loss curve, about 50 entries: ``step``, ``loss`` and, where students learn, ``student_loss``.

    Args:
        folder: of the checkpoints. If it has one, training resumes from there, as if it had not been interrupted.
        decay: of the learning rates: ``linear`` to 0, or ``constant``.
        learning_rates: of parts of the model, by the prefix of their parameters' names; each is clipped by itself.
        say: prints or logs a line for the user.
        distillation: how the logits of a teacher count, if ``data`` has them; by default as much as the labels.
        losses: further ones of each batch.

    Raises:
        CellError: the loss or a score was not finite, or memory ran out.
        UserError: the checkpoints cannot be written or read.
    """
    with used_words(model, data.tokens):
        trainer = make_trainer(model, data, settings, seed, folder, collate, decay, learning_rates)
        trainer.distillation, trainer.losses = distillation, losses
        for callback in (LossBar(), EpochLosses(say), *callbacks, CheckpointCallback()):
            trainer.add_callback(callback)
        checkpoint = from_main(lambda: last_checkpoint(folder, say))
        if checkpoint:
            say(f"training resumes from {checkpoint}")
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
            trainer.check_steps()
            trainer.check_weights()
        except NotFiniteError:
            remove_own(folder, [CHECKPOINTS])  # there is nothing to resume from
            raise
        except torch.OutOfMemoryError:
            parts, size = settings.accumulation_steps, settings.batch_size
            larger = next((number for number in range(parts + 1, size + 1) if size % number == 0), None)
            advice = f"set it to {larger}, or take a smaller model" if larger else "take a smaller model"
            line = f"training: out of memory with accumulation_steps {parts}, batches of {size}; {advice}"
            raise CellError(line) from None
        # Mixed precision is for training: Accelerate would leave it in the model's forward.
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    keys = ("step", "loss", "student_loss")
    return [{key: round(float(entry[key]), 5) for key in keys if key in entry} for entry in history]
