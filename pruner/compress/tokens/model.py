"""The base of pruned models: sets a schedule, keeps it in the config, makes pruned models of plain ones and back.

Pruned models have a ``model_type`` of their own, so that no folder of theirs is taken for a plain model's.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from pruner.compress.tokens.schedule import Pruning, check_schedule, make_pruning
from pruner.utils.errors import SettingError


class PrunedModel(PreTrainedModel):
    """The schedule and its students, set and saved with the model; a base of pruned models beside their plain class."""

    plain_class: ClassVar[Any]  # a PreTrainedModel
    scored_size: ClassVar[str]  # the config's entry that says how many numbers a student reads of a token
    # The loss is a mean over the batch: Trainer then divides it by the accumulation steps.
    accepts_loss_kwargs = False

    pruning: Pruning
    students: nn.ModuleList  # one per layer of a learned scorer, in order
    token_counts: Tensor | None  # [vocabulary] occurrences in the training set, for scorers that need them

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(_as_config(config, cast(type[PretrainedConfig], self.config_class)))
        config = self.config
        self.pruning, self.students = Pruning.none(self.num_layers), nn.ModuleList()
        self.register_buffer("token_counts", None)
        saved = getattr(config, "pruning", None)
        if saved is not None:
            pruning = Pruning.from_dict(saved)
            check_schedule(pruning.schedule, self.num_layers)
            self._apply_pruning(pruning)
        self.post_init()

    @property
    def num_layers(self) -> int:
        """The number of layers that may have a rate; an LSTM is one layer to pruning."""
        return getattr(self.config, "num_hidden_layers", 1)

    @classmethod
    def from_unpruned(cls, model: PreTrainedModel) -> Self:
        """Make a model that can be pruned, and is not yet, of a copy of a plain one; draws no random numbers."""
        return _as_class(cls, model)

    def unpruned_twin(self) -> Any:
        """Make the plain model of a copy of the weights, in evaluation mode."""
        return _as_class(self.plain_class, self).eval()

    def set_pruning(
        self,
        schedule: float | Sequence[float] | Pruning,
        methods: str | Sequence[str | None] = "student",
        teacher: str | None = None,
        token_counts: Tensor | None = None,
        **options: Any,
    ) -> Self:
        """Set the schedule: one rate per layer, each the share of the real tokens dropped before that layer.

        Students stay where the same layers had some of the same widths; others are new and untrained.

        Args:
            schedule: one rate per layer, ``0 <= rate < 1``, a single one for an LSTM; or all of it, as made by
                ``make_pruning``, which explains the other arguments.
            token_counts: [vocabulary] occurrences in the training set; needed by ``frequency``.
            options: ``count``, ``padded_length``, ``seed``, ``student_widths``.

        Raises:
            UserError: a schedule of the wrong length or with an impossible rate, an unknown method or option.
        """
        if not isinstance(schedule, Pruning):
            model = self.plain_class.config_class.model_type  # as in ``Scorer.models``
            schedule = make_pruning(schedule, methods, self.num_layers, teacher, model=model, **options)
        if schedule.needs_occurrences:
            if token_counts is None:
                problem = f"{schedule.method!r} needs how often words occur in the training set"
                raise SettingError("token_counts", f"{problem}; give [vocabulary] numbers, as a cache's counts")
            size = self.config.vocab_size
            if token_counts.shape != (size,):
                problem = f"{token_counts.numel()} numbers for a vocabulary of {size}"
                raise SettingError("token_counts", f"{problem}; give one for each word, 0 where it does not occur")
        self._apply_pruning(schedule, token_counts)
        return self

    def set_schedule(self, schedule: Sequence[float]) -> Self:
        """Set other rates for the layers of a model pruned by one method; the students of those that remain stay.

        A ``UserError`` is raised if the schedule is impossible, or prunes at a layer that has no student.
        """
        pruning = self.pruning.with_schedule(check_schedule(schedule, self.num_layers))
        students = dict(zip(self.pruning.student_layers, self.students, strict=True))
        for layer in pruning.student_layers:
            if layer not in students:
                problem = f"layer {layer} has no student; train the model with a rate there"
                raise SettingError("pruning_schedule", problem)
        self.students = nn.ModuleList(students[layer] for layer in pruning.student_layers)
        self.pruning, self.config.pruning = pruning, pruning.to_dict()
        return self

    def _apply_pruning(self, pruning: Pruning, token_counts: Tensor | None = None) -> None:
        before, size = self.pruning, getattr(self.config, self.scored_size)
        if (pruning.student_layers, pruning.student_widths) != (before.student_layers, before.student_widths):
            learned = [scorer for scorer in pruning.scorers if scorer and scorer.learned]
            students = [scorer.function(size, pruning.student_widths) for scorer in learned]
            self.students = nn.ModuleList(students).to(self.device, self.dtype).train(self.training)
        occurrences = None
        if pruning.needs_occurrences:
            occurrences = torch.zeros(self.config.vocab_size, dtype=torch.int64, device=self.device)
            if token_counts is not None:  # else they come with the weights
                occurrences.copy_(token_counts)
        self.register_buffer("token_counts", occurrences)
        self.pruning, self.config.pruning = pruning, pruning.to_dict()


def _as_config(config: PretrainedConfig, config_class: type[PretrainedConfig]) -> PretrainedConfig:
    """Return the config as one of that class, which has the same entries: itself, or else a copy."""
    if type(config) is not config_class:
        config = copy.deepcopy(config)
        config.__class__ = config_class
    return config


def _as_class(model_class: Any, model: PreTrainedModel) -> Any:
    """Make an unpruned model of another class, of copies of the modules of ``model``, whatever their shapes."""
    config = copy.deepcopy(_as_config(model.config, model_class.config_class))
    config.pruning = None
    with torch.device("meta"):  # no memory, no random numbers
        made = model_class(config)
    for name, _ in list(made.named_children()):
        if name != "students":
            setattr(made, name, copy.deepcopy(getattr(model, name), {id(model.config): config}))
    return made.train(model.training)
