"""Training by ``transformers.Trainer``, with students beside the main model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from pruner.batches import Collate
from pruner.errors import UserError


@dataclass(frozen=True)
class TrainSettings:
    """How a cell is trained; the defaults are those published for BERT. ``clip`` is ``None`` for no clipping."""

    epochs: float = 3.0
    batch_size: int = 32
    learning_rate: float = 2e-5
    student_learning_rate: float = 1e-3
    clip: float | None = 1.0
    accumulation_steps: int = 1


class LossBar(ProgressCallback):
    """One progress bar with the running loss, in place of one line per log entry."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None and logs and "loss" in logs:
            shown = {name: f"{logs[name]:.4f}" for name in ("loss", "student_loss") if name in logs}
            self.training_bar.set_postfix(shown)


class PruningTrainer(Trainer):
    """``Trainer`` with two parameter groups, each clipped by itself.

    Students have their own learning rate, and neither their loss nor the clipping of their gradients moves the main
    model: it ends with the same weights with and without them.
    """

    def __init__(self, settings: TrainSettings, **kwargs) -> None:
        super().__init__(**kwargs)
        self.settings = settings
        # The losses here are means over a batch. (Trainer looks at the signature and believes otherwise.)
        self.model_accepts_loss_kwargs = False
        self._student_losses: list[torch.Tensor] = []
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.add_callback(LossBar())

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            named = [(name, p) for name, p in (model or self.model).named_parameters() if p.requires_grad]
            main = [p for name, p in named if "students." not in name]
            students = [p for name, p in named if "students." in name]
            groups = [{"params": main, "lr": self.settings.learning_rate}]
            if students:
                groups.append({"params": students, "lr": self.settings.student_learning_rate})
            # Without weight decay, AdamW is the students' Adam too.
            self.optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
            self.optimizer.register_step_pre_hook(self._clip_groups)
        return self.optimizer

    def _clip_groups(self, optimizer: torch.optim.Optimizer, *_) -> None:
        if self.settings.clip is None:
            return
        for group in optimizer.param_groups:
            nn.utils.clip_grad_norm_(group["params"], self.settings.clip)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        student_loss = getattr(outputs, "student_loss", None)
        if student_loss is not None:
            self._student_losses.append(student_loss.detach())
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._student_losses:
            mean = torch.stack(self._student_losses).mean().item()
            self._student_losses.clear()
            logs = {**logs, "loss": logs["loss"] - mean, "student_loss": mean}  # "loss" is the task's alone
        super().log(logs, start_time)


def train(
    model: nn.Module,
    data: Dataset,
    settings: TrainSettings,
    seed: int,
    folder: Path,
    collate: Collate,
    decay: str = "linear",
    callbacks: Sequence[TrainerCallback] = (),
) -> list[dict[str, float]]:
    """Train ``model`` in place and leave it on the training device.

    Args:
        folder: where ``Trainer`` may keep its own files.
        collate: rows of ``data`` -> what the model's ``forward`` takes.
        decay: of the learning rates: ``linear`` to 0, or ``constant``.

    Returns:
        the loss curve: ``step``, ``loss`` and, where students learn, ``student_loss``; about 50 entries.

    Raises:
        UserError: the loss was not a finite number; the step is named.
    """
    on_gpu = torch.cuda.is_available()
    bf16 = on_gpu and torch.cuda.is_bf16_supported()
    steps = max(1, round(len(data) * settings.epochs / settings.batch_size))  # type: ignore[arg-type]
    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=not on_gpu,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size // settings.accumulation_steps,
        gradient_accumulation_steps=settings.accumulation_steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=decay,
        max_grad_norm=0.0,  # each parameter group is clipped by itself
        bf16=bf16,
        fp16=on_gpu and not bf16,
        seed=seed,
        logging_steps=max(1, steps // 50),
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=on_gpu,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # not DataParallel: it would split the batch's tensors, but not its lengths
    trainer = PruningTrainer(settings, model=model, args=arguments, train_dataset=data, data_collator=collate)
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    for entry in history:
        if not math.isfinite(entry["loss"]):
            raise UserError(f"training: the loss is {entry['loss']} at step {entry['step']}; try a lower learning_rate")
    keys = ("step", "loss", "student_loss")
    return [{key: round(float(entry[key]), 5) for key in keys if key in entry} for entry in history]
