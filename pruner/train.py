"""Training by ``transformers.Trainer``, with students beside the main model."""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from pruner.batches import Collate
from pruner.errors import UserError


@dataclass(frozen=True)
class TrainSettings:
    """How a cell is trained; the defaults are those published for BERT. ``clip`` is ``None`` for no clipping.

    ``dtype`` is that of mixed precision: ``auto`` is what a GPU does best, and float32 on a CPU.
    """

    epochs: float = 3.0
    batch_size: int = 32
    learning_rate: float = 2e-5
    student_learning_rate: float = 1e-3
    clip: float | None = 1.0
    accumulation_steps: int = 1
    dtype: str = "auto"


class LossBar(ProgressCallback):
    """One progress bar with the running loss, in place of one line per log entry."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None and logs and "loss" in logs:
            shown = {name: f"{logs[name]:.4f}" for name in ("loss", "student_loss") if name in logs}
            self.training_bar.set_postfix(shown)


class PruningTrainer(Trainer):
    """``Trainer`` with several parameter groups, each clipped by itself.

    Students have their own learning rate, and neither their loss nor the clipping of their gradients moves the main
    model: it ends with the same weights with and without them. ``learning_rates`` are those of other parts, by the
    beginning of their parameters' names.

    Where the batch has ``teacher_logits``, being unlike them costs as much as being wrong.
    """

    def __init__(self, settings: TrainSettings, learning_rates: Mapping[str, float], **kwargs) -> None:
        super().__init__(**kwargs)
        self.settings = settings
        self.learning_rates = {"students.": settings.student_learning_rate, **learning_rates}
        # The losses here are means over a batch. (Trainer looks at the signature and believes otherwise.)
        self.model_accepts_loss_kwargs = False
        self._student_losses: list[torch.Tensor] = []
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.add_callback(LossBar())

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            named = dict((model or self.model).named_parameters())
            groups = []
            for part, rate in self.learning_rates.items():
                names = [name for name in named if name.startswith(part)]
                groups.append({"params": [named.pop(name) for name in names], "lr": rate})
            main = {"params": list(named.values()), "lr": self.settings.learning_rate}
            groups = [main, *(group for group in groups if group["params"])]
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
        teacher_logits = inputs.pop("teacher_logits", None)
        outputs = model(**inputs)
        student_loss = getattr(outputs, "student_loss", None)
        if student_loss is not None:
            self._student_losses.append(student_loss.detach())
        loss = outputs.loss
        if teacher_logits is not None:
            loss = loss + logits_loss(outputs.logits, teacher_logits)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._student_losses:
            mean = torch.stack(self._student_losses).mean().item()
            self._student_losses.clear()
            logs = {**logs, "loss": logs["loss"] - mean, "student_loss": mean}  # "loss" is the task's alone
        super().log(logs, start_time)


def logits_loss(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """How unlike a teacher's the logits are, mean over the batch: KL divergence of the classes, or the squared error of
    a regression. [B, labels] x 2 -> scalar
    """
    if logits.shape[1] == 1:
        return F.mse_loss(logits.float(), teacher_logits)
    return F.kl_div(logits.float().log_softmax(dim=1), teacher_logits.softmax(dim=1), reduction="batchmean")


def last_checkpoint(folder: Path) -> str | None:
    """The newest of ``Trainer``'s checkpoints in a folder that was written to its end."""
    found = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]  # what is written last
    return str(max(found, key=lambda path: int(path.name.rpartition("-")[2]))) if found else None


def training_device() -> torch.device:
    """Where ``train`` leaves a model."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(
    model: nn.Module,
    data: Dataset,
    settings: TrainSettings,
    seed: int,
    folder: Path,
    collate: Collate,
    decay: str = "linear",
    callbacks: Sequence[TrainerCallback] = (),
    learning_rates: Mapping[str, float] = MappingProxyType({}),
) -> list[dict[str, float]]:
    """Train ``model`` in place and leave it on the training device.

    Args:
        folder: where the checkpoints are, one after each epoch. If it has one, training goes on from there, as if it
            had not been interrupted.
        collate: rows of ``data`` -> what the model's ``forward`` takes.
        decay: of the learning rates: ``linear`` to 0, or ``constant``.
        learning_rates: of parts of the model, by the beginning of their parameters' names.

    Returns:
        the loss curve: ``step``, ``loss`` and, where students learn, ``student_loss``; about 50 entries.

    Raises:
        UserError: the loss was not a finite number; the step is named.
    """
    on_gpu = torch.cuda.is_available()
    auto = settings.dtype == "auto"
    bf16 = on_gpu and torch.cuda.is_bf16_supported() if auto else settings.dtype == "bfloat16"
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
        fp16=on_gpu and auto and not bf16,
        seed=seed,
        logging_steps=max(1, steps // 50),
        logging_nan_inf_filter=False,
        save_strategy="epoch",
        save_total_limit=1,
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=on_gpu,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # not DataParallel: it would split the batch's tensors, but not its lengths
    trainer = PruningTrainer(
        settings, learning_rates, model=model, args=arguments, train_dataset=data, data_collator=collate
    )
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    # Mixed precision is for training: Accelerate would leave it in the model's forward.
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    for entry in history:
        if not math.isfinite(entry["loss"]):
            shutil.rmtree(folder, ignore_errors=True)  # there is nothing to go on from
            raise UserError(f"training: the loss is {entry['loss']} at step {entry['step']}; try a lower learning_rate")
    keys = ("step", "loss", "student_loss")
    return [{key: round(float(entry[key]), 5) for key in keys if key in entry} for entry in history]
