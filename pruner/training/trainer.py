"""``transformers.Trainer`` with parameter groups and distillation, on one device or several."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from pruner.data.collate import TrainingData
from pruner.training.checkpoints import readable, seal
from pruner.training.distillation import Distillation, Loss, logits_loss
from pruner.utils.errors import NotFiniteError
from pruner.utils.files import cannot_write, remove


@dataclass(frozen=True)
class TrainSettings:
    """How a model is trained; the defaults are those published for BERT."""

    epochs: float = 3.0
    batch_size: int = 32
    learning_rate: float = 2e-5
    clip: float | None = 1.0  # None: no clipping
    accumulation_steps: int = 1
    dtype: str = "auto"  # of mixed precision; ``auto``: what a GPU does best, and float32 on a CPU


class PruningTrainer(Trainer):
    """``Trainer`` with several parameter groups, each clipped by itself.

    ``learning_rates`` are those of parts of the model, by the prefix of their parameters' names. A part whose input is
    detached, as a student's is, leaves the rest of the model as it would be without it, to the last bit.

    With ``teacher_logits`` in the batch, adds a distillation loss of equal weight. The batch's ``rows`` are the numbers
    of its sentences, for error messages. A checkpoint that cannot be written or read is a ``UserError``.

    A step's loss is the mean over its batch, whichever process computes which sentence: every process sees the whole
    batch and computes its share of the rows, in ``accumulation_steps`` parts.
    """

    model: Any  # not all have students
    train_dataset: TrainingData
    _sums: Tensor  # of this step's parts in this process, see ``compute_loss``

    def __init__(self, settings: TrainSettings, learning_rates: Mapping[str, float], **kwargs) -> None:
        super().__init__(**kwargs)
        self.settings, self.learning_rates = settings, learning_rates
        # The losses here are means over a batch. (Trainer looks at the signature and believes otherwise.)
        self.model_accepts_loss_kwargs = False
        self.distillation: Distillation | None = None
        self.losses: Sequence[Loss] = ()
        self._since_log: list[Tensor] = []
        self._unchecked: list[tuple[int, Tensor, Sequence[int]]] = []  # steps, their ``_sums`` of all parts, their rows
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)

    def get_train_dataloader(self) -> DataLoader:
        """Load whole batches, the same in every process, in the order in which one process alone would meet them."""
        batches = self.train_dataset.batches(self._train_batch_size, self.args.seed)
        rows = {"batch_size": self._train_batch_size, "sampler": self._get_train_sampler(self.train_dataset)}
        how: dict[str, Any] = {"batch_sampler": batches} if batches is not None else rows
        memory = torch.cuda.is_available()
        loader = DataLoader(self.train_dataset, collate_fn=self.data_collator, pin_memory=memory, **how)
        return prepare_data_loader(loader, num_processes=1, process_index=0, use_seedable_sampler=True)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            rest = dict((model or self.model).named_parameters())
            groups = [
                {"params": [rest.pop(name) for name in list(rest) if name.startswith(prefix)], "lr": rate}
                for prefix, rate in self.learning_rates.items()
            ]
            main = {"params": list(rest.values()), "lr": self.settings.learning_rate}
            # Without weight decay, AdamW is the students' Adam too. With float16's scaler, a fused one would be given
            # gradients that are scaled still, and the clipping with it.
            groups = [main, *(group for group in groups if group["params"])]
            self.optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=not self.args.fp16)
            self.optimizer.register_step_pre_hook(self._clip_groups)
        return self.optimizer

    def _clip_groups(self, optimizer: torch.optim.Optimizer, *_) -> None:
        if self.settings.clip is not None:
            for group in optimizer.param_groups:
                nn.utils.clip_grad_norm_(group["params"], self.settings.clip)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Compute this process's rows of a batch, forward and backward; return the loss of the whole batch."""
        self.check_steps(but_last=1)
        inputs = dict(inputs)
        rows = inputs.pop("rows")
        self._sums = torch.zeros(5, device=self.args.device)
        *parts, last = self._parts(inputs, len(rows))
        with self.accelerator.no_sync(model):
            for part in parts:
                super().training_step(model, part)
        super().training_step(model, last)  # DDP averages the processes' gradients during this backward pass
        sums = self.accelerator.reduce(self._sums)
        self._unchecked.append((self.state.global_step + 1, sums, rows))
        self._since_log.append(sums)
        return sums[0]

    def _parts(self, inputs: Mapping, size: int) -> Iterator[dict]:
        """Split this process's rows of a batch of ``size``; each part comes with its ``share`` of the batch.

        A process whose share is empty computes a row of another one's, with share 0: all must meet in DDP.
        """
        first, end = (size * (self.args.process_index + i) // self.args.world_size for i in (0, 1))
        number = max(1, end - first)
        bounds = np.linspace(first, first + number, min(self.settings.accumulation_steps, number) + 1).astype(int)
        for begin, stop in pairwise(bounds.tolist()):
            share = (stop - begin) / size if first < end else 0.0
            yield {name: x[begin:stop] for name, x in inputs.items()} | {"share": share}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Compute what a part adds to the loss of its batch, times the number of processes, since DDP averages.

        ``_sums`` sums over the parts what they add to the loss and to the students' loss in it; their scores, whose sum
        is finite if all are; the pairs of a real token and a layer that were computed, and all such pairs. (A model
        that does not say what it computed has computed everything: 1 of 1.)
        """
        share, teacher_logits = inputs.pop("share"), inputs.pop("teacher_logits", None)
        outputs = model(**inputs)
        loss = outputs.loss
        if teacher_logits is not None and self.distillation:
            students = getattr(outputs, "student_loss", None)
            students = 0.0 if students is None else students
            loss = students + self.distillation.loss(loss - students, outputs.logits, teacher_logits)
        elif teacher_logits is not None:
            loss = loss + logits_loss(outputs.logits, teacher_logits)
        for extra in self.losses:
            loss = loss + extra(inputs, outputs)
        student_loss, scores = (getattr(outputs, name, None) for name in ("student_loss", "score_sum"))
        student_loss, scores = (loss.new_zeros(()) if x is None else x for x in (student_loss, scores))
        numbers, counts = (1, 1), getattr(outputs, "token_counts", None)
        if counts:
            num_tokens = sum(sum(inputs.get(name, ())) for name in ("lengths", "second_lengths"))
            numbers = sum(map(sum, counts)), len(counts) * num_tokens
        # Filled on the device: to send two numbers there would be to wait for it.
        pairs = [torch.full((), float(number if share else 0), device=loss.device) for number in numbers]
        self._sums += torch.stack([loss * share, student_loss * share, scores, *pairs]).detach()
        return loss * (share * self.args.world_size)

    def check_steps(self, but_last: int = 0) -> None:
        """Raise a ``NotFiniteError`` if a step's loss or scores are not finite.

        A GPU is still at work on the last step when the next one is sent to it: to ask for its loss would be to wait.
        """
        while len(self._unchecked) > but_last:
            step, sums, rows = self._unchecked.pop(0)
            loss, _, scores, *_ = sums.tolist()
            if not math.isfinite(loss) or not math.isfinite(scores):
                what = "a score is not finite" if math.isfinite(loss) else f"the loss is {loss}"
                raise NotFiniteError(
                    f"training: {what} at step {step} (training rows {', '.join(map(str, rows))}, counted from 0); "
                    "try a lower learning_rate, or train_dtype float32"
                )

    def check_weights(self) -> None:
        """Raise a ``NotFiniteError`` if the last step has left weights without a number, which no loss has told."""
        for name, weights in self.model.named_parameters():
            if not bool(weights.isfinite().all()):
                raise NotFiniteError(f"training: {name} is not finite after the last step; try a lower learning_rate")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._since_log:
            _, student_loss, _, computed, pairs = torch.stack(self._since_log).mean(dim=0).tolist()
            self._since_log.clear()
            if len(getattr(self.model, "students", ())):  # "loss" is the task's alone
                logs = {**logs, "loss": logs["loss"] - student_loss, "student_loss": student_loss}
            logs = {**logs, "retained_tokens": computed / pairs} if pairs else logs
        super().log(logs, start_time)

    def _save_checkpoint(self, model, trial):
        self.check_steps()
        folder = Path(f"{self.args.output_dir}/checkpoint-{self.state.global_step}")
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each process writes its random generators' states
            if self.args.should_save:
                seal(folder)
        except (OSError, RuntimeError, SafetensorError) as error:
            remove(folder)
            raise cannot_write(folder, error) from None

    _load_from_checkpoint = readable(Trainer._load_from_checkpoint)
    _load_optimizer_and_scheduler = readable(Trainer._load_optimizer_and_scheduler)
    _load_rng_state = readable(Trainer._load_rng_state)
