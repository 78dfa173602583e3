"""Runs stages: each once, resumed after an interruption, kept for others.

A stage is kept as a folder ``<task>/<name>-<hash of its settings and of its parents>`` with ``stage.json`` and the
weights, where it has some of its own, written whole or not at all, with checksums; beside it, while it is trained,
``....training`` with the checkpoints.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pruner.data.collate import TrainingData
from pruner.evaluation.predict import predict
from pruner.training.checkpoints import CHECKPOINTS
from pruner.training.curves import Curves
from pruner.training.distillation import Loss
from pruner.training.stage import Measurement, Say, Stage, Trained
from pruner.training.train import train, training_device
from pruner.utils.distributed import from_main, is_main, locked
from pruner.utils.errors import UserError
from pruner.utils.files import check_regular, is_there
from pruner.utils.folders import check_sums, own_files, remove_own, whole_folder, write_sums
from pruner.utils.locks import Lock

WEIGHTS, RESULT = "model.safetensors", "stage.json"
REMOVE = "remove the folder, and the stage is trained again"


@dataclass(frozen=True)
class Stages:
    """The folder in which stages are kept; runs those that are not there yet."""

    root: Path
    say: Say
    tensorboard: Path | None = None

    def folder(self, stage: Stage) -> Path:
        return self.root / stage.place

    def checkpoints(self, stage: Stage) -> Path:
        return self.root / f"{stage.place}.training"

    def state(self, stage: Stage) -> str:
        """Say how far a stage is, for ``--dry-run``."""
        if self.finished(stage):
            return "finished"
        names = [path.name.removeprefix("checkpoint-") for path in self.checkpoints(stage).glob(CHECKPOINTS)]
        steps = [int(name) for name in names if name.isdigit()]
        return f"begun, at step {max(steps)}" if steps else "to do"

    def finished(self, stage: Stage) -> bool:
        """Tell whether a stage is kept; raise a ``UserError`` where that cannot be known."""
        return is_there(self.folder(stage) / RESULT)

    def remove(self, stage: Stage) -> None:
        """Forget a stage, finished or interrupted, unless another process is at work on it."""
        folder = self.folder(stage)
        lock = Lock(folder)
        if folder.parent.is_dir() and lock.take(wait=False):
            remove_own(folder, [RESULT, WEIGHTS, *own_files(folder)])
            remove_own(self.checkpoints(stage), [CHECKPOINTS])
            lock.release()

    def obtain(self, stage: Stage, quiet: bool = False) -> Trained:
        """Return a stage's model: as it was kept (said unless ``quiet``), or trained now, its parents before it.

        Raises:
            UserError: a kept stage cannot be read, or the place cannot be written.
            CellError: the training came to no end.
        """
        context, folder = stage.context, self.folder(stage)
        with locked(folder, self.say):
            if from_main(lambda: self.finished(stage)):
                if not quiet:
                    self.say(f"stage {stage.name}: as it was kept in {folder}")
                return self._read(stage)
            start = self.obtain(stage.start, quiet=True) if stage.start else None
            if isinstance(stage.recipe, Measurement):
                return self._measure(stage, stage.recipe, start)
            told = dict(start.result) if start else {}
            told |= {source.title: self.obtain(source, quiet=True).result for source in stage.told_by}
            data = stage.recipe.data(context, self._teacher_logits(stage, start))
            model = build(stage, told, self._tell(stage), start.model.state_dict() if start else None)
            del start  # not to be in memory beside what is trained
            self.say(f"stage {stage.name}: training, {context.train_settings.epochs:g} epochs")
            loss = self._train(stage, model, data)
            if is_main():
                self._keep(stage, {"loss": loss, "told": told}, model.state_dict())
                remove_own(self.checkpoints(stage), [CHECKPOINTS])
        # As it is read when it was kept: training leaves traces, in the config for one.
        return rebuilt(stage, told, model.state_dict(), loss)

    def _keep(self, stage: Stage, result: dict, weights: Mapping[str, Tensor] | None = None) -> None:
        with whole_folder(self.folder(stage), last=RESULT) as temporary:
            if weights is not None:
                save_file({name: x.contiguous() for name, x in weights.items()}, temporary / WEIGHTS)
            (temporary / RESULT).write_text(json.dumps(result), encoding="utf-8")
            write_sums(temporary)

    def _measure(self, stage: Stage, recipe: Measurement, start: Trained | None) -> Trained:
        """Measure the model of ``start``, or the backbone's own, and keep what was found."""
        model = start.model if start else build(stage, {}).to(training_device())
        self.say(f"stage {stage.name}: measuring")
        told = from_main(lambda: recipe.measure(model, stage.context, self.say))
        if is_main():
            self._keep(stage, {"loss": [], "told": told})
        return Trained(model, told, [])

    def _tell(self, stage: Stage) -> Say | None:
        """Return who hears how a stage's model is built: the user, where it is the plain fine-tuning, else nobody."""
        return self.say if stage.shared and not stage.start and is_main() else None

    def _train(self, stage: Stage, model: nn.Module, data: TrainingData) -> list[dict]:
        context, collate = stage.context, stage.recipe.collate(stage.context)
        additions = stage.recipe.additions(model, context, self.say)
        packed = context.backbone.packed(model)
        if packed is not None:
            model, collate = packed, context.backbone.collate(context.task, with_lengths=True)
        model = additions.trained(model) if additions.trained else model
        callbacks = [*additions.callbacks]
        if self.tensorboard:
            folder = self.tensorboard / context.task.name / stage.name
            callbacks.append(Curves(folder, lambda model: context.metrics(model, collate), self.say))
        losses: Sequence[Loss] = ()
        if additions.losses:
            assert stage.teacher is not None  # of which they are made
            losses = additions.losses(self.obtain(stage.teacher, quiet=True).model)
        return train(
            model,
            data,
            context.train_settings,
            context.seed,
            self.checkpoints(stage),
            collate,
            context.backbone.decay,
            callbacks,
            additions.learning_rates,
            self.say,
            additions.distillation,
            losses,
        )

    def _teacher_logits(self, stage: Stage, start: Trained | None) -> np.ndarray | None:
        """Compute [rows, labels] of the training rows by the stage's teacher, if it has one."""
        if stage.teacher is None:
            return None
        teacher = start if start and stage.teacher is stage.start else self.obtain(stage.teacher, quiet=True)
        context, collate = stage.context, stage.teacher.recipe.collate(stage.context)
        return predict(teacher.model, context.training_split, context.train_settings.batch_size, collate)

    def _read(self, stage: Stage) -> Trained:
        folder, measured = self.folder(stage), stage.measures
        check_sums(folder, REMOVE)
        for name in (RESULT,) if measured else (RESULT, WEIGHTS):
            check_regular(folder / name)
        try:
            kept = json.loads((folder / RESULT).read_text(encoding="utf-8"))
            if not isinstance(kept["loss"], list) or not isinstance(kept["told"], dict):
                raise ValueError(f"{RESULT} has no loss curve")
            weights = {} if measured else load_file(folder / WEIGHTS)
        except (OSError, LookupError, TypeError, ValueError, RecursionError, SafetensorError) as error:
            raise damaged(folder, error) from None
        if measured:
            return Trained(nn.Module(), kept["told"], [])
        try:
            return rebuilt(stage, kept["told"], weights, kept["loss"])
        except RuntimeError as error:
            raise damaged(folder, error) from None


def rebuilt(stage: Stage, told: dict, weights: Mapping[str, Tensor], loss: list[dict]) -> Trained:
    """Return a stage's model of its weights alone; raise a RuntimeError if they are not such a model's."""
    model = build(stage, told)
    model.load_state_dict(weights)
    return Trained(*stage.recipe.finish(model.to(training_device())), loss)


def damaged(folder: Path, error: Exception) -> UserError:
    reason = str(error).split("\n")[0]
    return UserError(f"{folder}: not a finished stage ({reason}); {REMOVE}")


def build(stage: Stage, told: dict, say: Say | None = None, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Make a stage's model before training, ``weights`` being those of the stage that it starts from.

    With ``say``, the user is told what there is to know of the model, a classifier that is trained already is tried.
    """
    context = stage.context
    transformers.set_seed(context.seed)
    model = context.backbone.build(context.task, say or (lambda line: None))
    if say and getattr(model, "trained_head", False):
        context.try_trained_head(model.to(training_device()), say)
    if weights is not None:
        model.load_state_dict(weights)
    return stage.recipe.prepare(model, context, told)
