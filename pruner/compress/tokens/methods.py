"""Token pruning as methods: every scorer, with a schedule that is given or made for a budget."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.method import Cost, Dense, Method
from pruner.compress.tokens.budget import ScheduleFamily, fit_schedule, path_family, rates_of_shares
from pruner.compress.tokens.flops import pruned_flops
from pruner.compress.tokens.lstm import PrunedLstmForSequenceClassification, RateRamp
from pruner.compress.tokens.measures import count_tokens, rank_correlation, shorten
from pruner.compress.tokens.sampled import SampleSchedules, candidates, in_all_layers
from pruner.compress.tokens.schedule import Pruning, schedule_name, schedule_text
from pruner.compress.tokens.soft_extract import SoftExtractSearch
from pruner.data.collate import Collate, make_batch
from pruner.evaluation.predict import predict
from pruner.training.context import Context
from pruner.training.distillation import logits_loss
from pruner.training.stage import Additions, Say, Stage, Trained
from pruner.utils.progress import Progress

CHOICE_ROWS = 512  # training sentences on which schedules are compared


@dataclass
class TokenPruning(Method):
    """Drop tokens of a BERT by a schedule that is known before training: given, or fitted to a budget.

    ``start`` says what is trained: the pre-trained model (``pretrained``), or the fine-tuned one of the same seed,
    whose logits it imitates then (``finetuned``); or all cells of a method and seed share one such training, in which
    schedules are sampled up to the FLOPs reduction ``reach`` (``sampled``).
    """

    pruning: Pruning
    source: str = "given"  # how the schedule was made
    target: float | None = None  # for which FLOPs reduction, if any
    start: str = "pretrained"
    reach: float = 4.0
    student_learning_rate: float = 1e-3

    model_class: ClassVar[Any] = PrunedBertForSequenceClassification

    def __post_init__(self) -> None:
        self.name, (self.variant, schedule) = self.pruning.method, self.schedule_names()
        teacher = f" of {self.pruning.teacher}" if self.pruning.teacher else ""
        self.title = f"{self.name}{teacher}" + (" (padded count)" if self.pruning.count == "padded" else "")
        self.label = self.labelled(schedule)

    def schedule_names(self) -> tuple[str, str]:
        """Return what the schedule is called in tables and in names of folders."""
        return schedule_text(self.pruning.schedule), schedule_name(self.pruning.schedule)

    def labelled(self, schedule: str) -> str:
        teacher = f"-{self.pruning.teacher}" if self.pruning.teacher else ""
        return f"{self.name}{teacher}_{schedule}" + ("_padded" if self.pruning.count == "padded" else "")

    def settings(self, context: Context) -> dict:
        reach = self.reach if self.start == "sampled" else None
        return {"start": self.start, "reach": reach, "search": None} | self._student_settings()

    def _student_settings(self) -> dict:
        if not self.pruning.student_layers:
            return {}
        widths = list(self.pruning.student_widths)
        return {"student_widths": widths, "student_learning_rate": self.student_learning_rate}

    def collate(self, context: Context) -> Collate:
        return context.backbone.collate(context.task, with_lengths=True)

    def stages(self, context: Context, dense: Stage, search: Stage | None = None) -> list[Stage]:
        """List the training: the cell's own, from the weights of the ``search`` if there is one, or a shared one."""
        if self.start == "sampled":
            pruning = self.pruning.with_schedule([0.5] * len(self.pruning.schedule))
            recipe = SampledTraining(pruning, reach=self.reach, student_learning_rate=self.student_learning_rate)
            settings = self._student_settings() | {"pruning": pruning.to_dict(), "reach": self.reach}
            name = f"{self.labelled(f'sampled-{self.reach:g}x')}_seed{context.seed}"
            return [Stage(name, context, recipe, context.settings() | settings, dense, dense, shared=True)]
        teacher = None if self.start == "pretrained" else dense
        settings = self.settings(context) | {"pruning": self.pruning.to_dict(), "target": self.target}
        name = f"{self.label}_seed{context.seed}"
        return [Stage(name, context, self, context.settings() | settings, search or teacher, teacher)]

    def fit(self, family: ScheduleFamily, context: Context, model: nn.Module | None = None) -> list[float]:
        """Return the schedule of a family that meets the budget ``target`` on the dev set's lengths.

        The budget is counted against the dense model, or ``model`` without a schedule, if that is smaller.
        """
        assert self.target is not None  # of a budget's cell
        lengths, shape = context.dev_lengths, context.backbone.shape(context.task, model)
        return fit_schedule(family, self.target, lengths, shape, self.pruning)

    def prepare(self, model: Any, context: Context, told: dict) -> nn.Module:
        counts, pruned = context.cache.counts, self.model_class.from_unpruned(model)
        occurrences = F.pad(torch.from_numpy(counts), (0, model.config.vocab_size - len(counts)))
        return pruned.set_pruning(self._pruning(context, told), token_counts=occurrences)

    def _pruning(self, context: Context, told: dict) -> Pruning:
        """Return the pruning, of which the schedule may be known only when the stage before has ``told`` it."""
        return self.pruning

    def additions(self, model: nn.Module, context: Context, say: Say) -> Additions:
        rates = {"students.": self.student_learning_rate} if self.pruning.student_layers else {}
        return Additions(learning_rates=rates)

    def finalize(self, trained: Sequence[Trained], context: Context, dense: nn.Module, say: Say) -> nn.Module:
        model: Any = trained[-1].model
        if self.start == "sampled":
            model.set_schedule(self._pruning(context, trained[0].result).schedule)
        return model

    def load(self, folder: Path, context: Context) -> nn.Module:
        return self.model_class.from_pretrained(folder)

    def cost(self, model: Any, context: Context) -> Cost:
        lengths, shape = context.dev_lengths, context.backbone.shape(context.task, model)
        flops = pruned_flops(shape, lengths, model.pruning.keep_counts(lengths), model.pruning)
        return replace(super().cost(model, context), flops=flops)

    def describe(self, model: Any, context: Context) -> dict:
        """Describe schedule and tokens; of students also their teacher's metrics and how well they imitate it."""
        pruning, collate = model.pruning, self.collate(context)
        section = {"teacher": pruning.teacher} | self._schedule_section(model)
        section |= {"count": pruning.count, "tokens": count_tokens(context.dev_lengths, pruning)}
        if pruning.teacher:
            section["teacher_metrics"] = context.metrics(model, collate, follow_teacher=True)
            section["student_rank_correlation"] = round(rank_correlation(model, context, collate), 4)
        return section

    def _schedule_section(self, model: Any) -> dict:
        schedule = list(model.pruning.schedule)
        return {"schedule": schedule, "schedule_source": self.source, "target_flops_reduction": self.target}

    def examples(self, model: Any, context: Context, rows: int) -> list[dict]:
        split, examples = context.dev_splits[0], []
        for row in range(min(rows, len(split))):
            batch = make_batch(split, [row], self.collate(context), next(model.parameters()).device)
            with torch.no_grad():
                output = model.eval()(**batch)
            parts = context.backbone.words(context.task, split, row)
            positions = output.token_positions[-1].split(output.token_counts[-1])
            kept = [shorten(words, set(at.tolist())) for words, at in zip(parts, positions, strict=False)]
            examples.append({"sentence": " / ".join(map(" ".join, parts)), "kept": " / ".join(kept)})
        return examples


@dataclass
class LstmPruning(TokenPruning):
    """Drop words before the LSTM reads; ``rate_start`` is the rate at the first step, ``None`` where it is constant."""

    rate_start: float | None = None

    model_class: ClassVar[Any] = PrunedLstmForSequenceClassification

    def settings(self, context: Context) -> dict:
        return {"pruning_rate_start": self.rate_start} | self._student_settings()

    def additions(self, model: nn.Module, context: Context, say: Say) -> Additions:
        ramp = [] if self.rate_start is None else [RateRamp(model, self.rate_start)]
        return replace(super().additions(model, context, say), callbacks=ramp)

    def _schedule_section(self, model: Any) -> dict:
        return {"target_prune_rate": model.pruning.schedule[0], "schedule_source": self.source}


class Unpruned(Dense):
    """The dense model; its record says in token pruning's words that every layer computes all tokens."""

    def describe(self, model: Any, context: Context) -> dict:
        pruning = Pruning.none(context.backbone.shape(context.task).depth)
        is_lstm = context.backbone.name == "lstm"
        rates = {"target_prune_rate": 0.0} if is_lstm else {"schedule": list(pruning.schedule)}
        section = {"teacher": None, "schedule_source": "given", "target_flops_reduction": None, "count": "real"}
        return rates | section | {"tokens": count_tokens(context.dev_lengths, pruning)}


class SampledTraining(TokenPruning):
    """The training with another schedule in every step; that of ``pruning`` has some rate in all layers."""

    def additions(self, model: nn.Module, context: Context, say: Say) -> Additions:
        sampler = SampleSchedules(model, context.dev_lengths, self.reach, context.seed)
        return replace(super().additions(model, context, say), callbacks=[sampler])


@dataclass
class LearnedPruning(TokenPruning):
    """Token pruning whose schedule is chosen for a model that was trained with sampled schedules."""

    source: str = "sampled"

    def schedule_names(self) -> tuple[str, str]:
        return f"learned for {self.target:g}x", f"learned-{self.target:g}x"

    def candidates(self, context: Context, model: nn.Module | None = None) -> Iterator[list[float]]:
        """Yield the schedules that meet the budget; raise a ``UserError`` if none does."""
        return candidates(len(self.pruning.schedule), lambda family: self.fit(family, context, model))

    def finalize(self, trained: Sequence[Trained], context: Context, dense: nn.Module, say: Say) -> nn.Module:
        """Choose the schedule with which the model is most like the dense one, on training sentences."""
        model: Any = trained[-1].model
        split, batch_size = context.training_subset(CHOICE_ROWS), context.train_settings.batch_size
        collate, plain = self.collate(context), context.backbone.collate(context.task)
        teacher_logits = torch.from_numpy(predict(dense, split, batch_size, plain))
        progress = Progress(desc="choosing the schedule", unit="schedule")

        def unlikeness(schedule: Sequence[float]) -> float:
            model.set_schedule(in_all_layers(schedule))
            progress.update()
            return logits_loss(torch.from_numpy(predict(model, split, batch_size, collate)), teacher_logits).item()

        least, schedule = min((unlikeness(schedule), schedule) for schedule in self.candidates(context, model))
        progress.close()
        say(f"chosen of {progress.n} schedules; unlike the dense model by {least:.4f}")
        say(f"schedule: {schedule_text(schedule)}")
        return model.set_schedule(schedule)


@dataclass(kw_only=True)
class SoftExtractPruning(TokenPruning):
    """Token pruning whose schedule is found by PoWER-BERT's search, for a budget or by that paper's penalty."""

    source: str = "soft-extract"
    how: SoftExtractSearch

    def schedule_names(self) -> tuple[str, str]:
        title = f"soft-extract for {self.target:g}x" if self.target else f"lambda {self.how.penalty:g}"
        return title, replace(self.how, reach=self.target).name

    def settings(self, context: Context) -> dict:
        return super().settings(context) | {"search": asdict(self.how)}

    def stages(self, context: Context, dense: Stage, search: Stage | None = None) -> list[Stage]:
        name, settings = f"{self.how.name}_seed{context.seed}", context.settings() | asdict(self.how)
        search = Stage(name, context, self.how, settings, dense, shared=True)
        return [search, *super().stages(context, dense, search)]

    def _pruning(self, context: Context, told: dict) -> Pruning:
        end = [round(rate, 3) for rate in rates_of_shares(told["path"][-1])]
        return self.pruning.with_schedule(self.fit(path_family(told["path"]), context) if self.target else end)

    def finalize(self, trained: Sequence[Trained], context: Context, dense: nn.Module, say: Say) -> nn.Module:
        model: Any = super().finalize(trained, context, dense, say)
        say(f"schedule: {schedule_text(model.pruning.schedule)}")
        return model
