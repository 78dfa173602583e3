"""``transformers.Trainer`` for models with students, on one device or several, with as much memory as there is."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from safetensors import SafetensorError
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from pruner.evaluation.predict import computed_pairs
from pruner.utils.distributed import from_main
from pruner.utils.errors import CellError, NotFiniteError
from pruner.utils.files import cannot_write, readable, remove_folder


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


def logits_loss(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """How unlike a teacher's the logits are, mean over the batch: KL divergence of the classes, or the squared error of
    a regression. [B, labels] x 2 -> scalar
    """
    if logits.shape[1] == 1:
        return F.mse_loss(logits.float(), teacher_logits)
    return F.kl_div(logits.float().log_softmax(dim=1), teacher_logits.softmax(dim=1), reduction="batchmean")


class PruningTrainer(Trainer):
    """``Trainer`` with several parameter groups, each clipped by itself, whose steps are computed in parts.

    Students have their own learning rate, and neither their loss nor the clipping of their gradients moves the main
    model: it ends with the same weights with and without them. ``learning_rates`` are those of other parts, by the
    beginning of their parameters' names.

    Where the batch has ``teacher_logits``, being unlike them costs as much as being wrong. Its ``rows`` are the numbers
    of its sentences, for those who have to look for a bad one.

    A step is the mean over a batch, whoever computes which of its rows: every process sees the whole batch, takes its
    own share of the rows, in ``accumulation_steps`` parts or more where memory is short, and their gradients are added.
    """

    model: Any  # not all have students, and the count of their tokens
    train_dataset: Dataset
    measure: Callable[[nn.Module], dict[str, float]]  # the metrics that it is evaluated by, if it is

    def __init__(
        self, settings: TrainSettings, learning_rates: Mapping[str, float], say: Callable[[str], None], **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.settings, self.say = settings, say
        self.learning_rates = {"students.": settings.student_learning_rate, **learning_rates}
        # The losses here are means over a batch. (Trainer looks at the signature and believes otherwise.)
        self.model_accepts_loss_kwargs = False
        self.parts = settings.accumulation_steps
        self.several = self.accelerator.num_processes > 1
        self._part = torch.zeros(5)
        self._since_log: list[Tensor] = []
        self._last_step: tuple[Tensor, Sequence[int]] | None = None
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)

    def get_train_dataloader(self) -> DataLoader:
        """Whole batches, the same in every process, in the order in which one process alone would meet them."""
        sampler = self._get_train_sampler(self.train_dataset)
        loader = DataLoader(
            self.train_dataset,
            self._train_batch_size,
            sampler=sampler,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return prepare_data_loader(loader, num_processes=1, process_index=0, use_seedable_sampler=True)

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

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Add the gradients of a batch; returns its loss. Where memory runs out, it is computed again in more parts."""
        self.check_last_step()
        inputs = dict(inputs)
        rows = inputs.pop("rows")
        while True:
            losses = self._in_parts(model, inputs, len(rows))
            if not self._anywhere(losses is None):
                break
            if self.parts >= len(rows):
                raise CellError("training: out of memory with one sentence at a time; take a smaller model")
            self.parts *= 2
            model.zero_grad()
            torch.cuda.empty_cache()
            step = self.state.global_step + 1
            self.say(
                f"out of memory in step {step}: its {len(rows)} sentences and all later ones in {self.parts} parts"
            )
        assert losses is not None  # or the parts would have been computed again
        if self.several:
            self._add_gradients(model)
            dist.all_reduce(losses)
        self._since_log.append(losses)
        self._last_step = (losses, rows)
        return losses[0]

    def _in_parts(self, model: nn.Module, inputs: dict, size: int) -> Tensor | None:
        """Compute this process's rows of a batch of ``size``, forward and back.

        Returns:
            [5] what its rows add to the loss, and to the students' loss in it, and the sum of their scores, which is
            finite if all scores are; their ``computed_pairs``, and all; ``None`` where memory ran out.
        """
        total = torch.zeros(5, device=self.args.device)
        first, end = (size * (self.args.process_index + i) // self.args.world_size for i in (0, 1))
        bounds = np.linspace(first, end, min(self.parts, end - first) + 1).astype(int).tolist()
        try:
            with self.accelerator.no_sync(model):  # the processes' gradients are added when all parts are done
                for begin, stop in pairwise(bounds):
                    part = {name: x[begin:stop] for name, x in inputs.items()}
                    super().training_step(model, part | {"share": (stop - begin) / size})
                    total += self._part
        except torch.OutOfMemoryError:
            return None
        return total

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """What a part adds to the loss of its batch, of which it is a ``share``."""
        share, teacher_logits = inputs.pop("share"), inputs.pop("teacher_logits", None)
        outputs = model(**inputs)
        loss = outputs.loss * share
        student_loss = getattr(outputs, "student_loss", None)
        student_loss = loss.new_zeros(()) if student_loss is None else student_loss * share
        if teacher_logits is not None:
            loss = loss + share * logits_loss(outputs.logits, teacher_logits)
        score_sum = getattr(outputs, "score_sum", None)
        scores = loss.new_zeros(()) if score_sum is None else score_sum
        # Filled on the device: to send two numbers there would be to wait for it.
        pairs = [torch.full((), float(number), device=loss.device) for number in computed_pairs(outputs, **inputs)]
        self._part = torch.stack([loss, student_loss, scores, *pairs]).detach()
        return (loss, outputs) if return_outputs else loss

    def _anywhere(self, here: bool) -> bool:
        """Whether something is so in any of the processes."""
        if not self.several:
            return here
        found = torch.tensor(int(here), device=self.args.device)
        dist.all_reduce(found)
        return bool(found)

    def _add_gradients(self, model: nn.Module) -> None:
        """Those of all processes. A parameter without a gradient in all of them has none, as in one process alone."""
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        there = torch.tensor([int(each.grad is not None) for each in parameters], device=self.args.device)
        dist.all_reduce(there)
        for parameter, number in zip(parameters, there.tolist(), strict=True):
            if number:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad)

    def check_last_step(self) -> None:
        """Complain if its numbers were no numbers: one step late, so that no step has to wait for the device.

        Raises:
            NotFiniteError: the loss or a score was not.
        """
        if self._last_step is None:
            return
        losses, rows = self._last_step
        self._last_step = None
        loss, _, scores, *_ = losses.tolist()
        if math.isfinite(loss) and math.isfinite(scores):
            return
        what = "a score is not finite" if math.isfinite(loss) else f"the loss is {loss}"
        raise NotFiniteError(
            f"training: {what} at step {self.state.global_step} (training rows {', '.join(map(str, rows))}, counted "
            "from 0); try a lower learning_rate, or train_dtype float32"
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._since_log:
            _, mean, _, computed, pairs = torch.stack(self._since_log).mean(dim=0).tolist()
            self._since_log.clear()
            if len(getattr(self.model, "students", ())):
                logs = {**logs, "loss": logs["loss"] - mean, "student_loss": mean}  # "loss" is the task's alone
            logs = {**logs, "retained_tokens": computed / pairs} if pairs else logs
        super().log(logs, start_time)

    def evaluate(self, *_, **__) -> dict[str, float]:
        """Log the metrics, which the main process computes while the others wait for it."""
        metrics = {f"eval_{name}": value for name, value in from_main(lambda: self.measure(self.model)).items()}
        self.log(metrics)
        return metrics

    def _save_checkpoint(self, model, trial):
        self.check_last_step()
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:
            folder = Path(f"{self.args.output_dir}/checkpoint-{self.state.global_step}")
            remove_folder(folder)
            raise cannot_write(folder, error) from None

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        with readable(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint):
        with readable(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint):
        with readable(checkpoint):
            super()._load_rng_state(checkpoint)
