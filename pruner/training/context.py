"""What all trainings of a task and seed share."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property

import numpy as np
from torch import nn

from pruner.data.cache import Cache, Split
from pruner.data.collate import Collate, hold_out, rows_of_lengths, training_rows
from pruner.data.task import Task
from pruner.evaluation.metrics import compute_metrics, dev_metrics
from pruner.evaluation.predict import predict
from pruner.models.backbone import Backbone
from pruner.training.trainer import TrainSettings

TRIED_ROWS = 256  # of training, by which a model that is fine-tuned already is tried


def identity(settings: Mapping) -> dict:
    """Return the settings that decide a result: a model is its weights, wherever its folder lies and however spelled.

    One without a fingerprint of its weights, of the hub, is its name.
    """
    return {name: value for name, value in settings.items() if name != "bert" or not settings.get("weights")}


@dataclass(frozen=True, eq=False)
class Context:
    """Data, plain model and settings of a task and seed."""

    task: Task
    cache: Cache
    seed: int
    backbone: Backbone
    train_settings: TrainSettings
    max_train_rows: int | None = None
    together: list["Context"] = field(default_factory=list)  # of all of the run's tasks with this seed
    held_out: float = 0.0  # share of the training rows that is not trained on, but kept for choosing

    @cached_property
    def _training_splits(self) -> tuple[Split, Split | None]:
        split = training_rows(self.cache.splits["train"], self.max_train_rows)
        return hold_out(split, self.held_out) if self.held_out else (split, None)

    @property
    def training_split(self) -> Split:
        return self._training_splits[0]

    @property
    def held_out_split(self) -> Split | None:
        """The rows of the training set that no training sees, on which one of several results is chosen."""
        return self._training_splits[1]

    def training_subset(self, rows: int) -> Split:
        """Return some of the training rows, drawn at random, on which methods may choose."""
        return training_rows(self.training_split, rows)

    def training_subset_like_dev(self, rows: int) -> Split:
        """Return some of the training rows, about as long as those of dev, on which methods may choose."""
        return rows_of_lengths(self.training_split, self.dev_lengths, rows)

    @property
    def dev_splits(self) -> list[Split]:
        return [self.cache.splits[name] for name in self.task.dev]

    @cached_property
    def dev_lengths(self) -> list[int]:
        """Real tokens of the dev sequences; FLOPs and budgets are counted on them."""
        return self.backbone.lengths(self.task, self.dev_splits)

    def settings(self) -> dict:
        """Return what decides the result of a plain fine-tuning beside task and seed."""
        available = len(self.cache.splits["train"])
        settings = asdict(self.train_settings) | {
            "max_length": self.cache.max_length,
            "train_rows": min(self.max_train_rows or available, available),
            "train_rows_available": available,
        }
        if self.held_out:
            settings["held_out"] = self.held_out
        if self.task.fingerprint:  # of a user's rows: the task's name may have been given to others before
            settings["data"] = self.task.fingerprint
        return settings | self.backbone.settings(self.task)

    def predict_dev(self, model: nn.Module, collate: Collate, **options) -> dict:
        """Predict the logits [rows, labels] of each of the task's dev sets."""
        splits, size = self.cache.splits, self.train_settings.batch_size
        return {name: predict(model, splits[name], size, collate, **options) for name in self.task.dev}

    def metrics(self, model: nn.Module, collate: Collate, **options) -> dict[str, float]:
        """Evaluate a model on the task's dev sets."""
        return dev_metrics(self.task, self.cache, self.predict_dev(model, collate, **options))

    def held_out_metrics(self, model: nn.Module, collate: Collate) -> dict[str, float]:
        """Evaluate a model on the training rows that were held out; nothing where there are none."""
        split = self.held_out_split
        if not split or split.labels is None:
            return {}
        logits = predict(model, split, self.train_settings.batch_size, collate)
        return compute_metrics(self.task.metrics, logits, split.labels)

    def try_trained_head(self, model: nn.Module, say: Callable[[str], None]) -> None:
        """Say so if a model that should know the task's classes is right more seldom than chance, before training."""
        if not self.task.labels:
            return
        split, chance = self.training_subset(TRIED_ROWS), 1 / len(self.task.labels)
        logits = predict(model, split, self.train_settings.batch_size, self.backbone.collate(self.task))
        accuracy = float(np.mean(logits.argmax(axis=1) == split.labels))
        if accuracy < chance:
            say(
                f"warning: before training, the model is right in {accuracy:.1%} of {len(split)} training rows, below "
                f"chance ({chance:.1%}): are its classes in another order? Name them in id2label of its config.json"
            )
