"""Several tasks in one encoder, with a classifier each and, with ticket sharing, each task's own ticket put on.

Liang et al. 2021, section 3.2 and its code: every epoch has each batch of each task once, in random order; a step is
one task's, with its masks on, by its own loss; what is shared is trained by all tasks that keep it. Parts that a task
masks have no gradient in its step, but are moved by the optimizer's momentum of steps before, as all that is shared.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import BertForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.method import Method, dense_stage
from pruner.compress.structure.choices import Ticket
from pruner.compress.structure.describe import describe_structure
from pruner.compress.structure.masks import masked
from pruner.compress.structure.shrink import Structure, shrink
from pruner.data.cache import Split
from pruner.data.collate import Collate, SplitDataset, TrainingData
from pruner.models.bert_layers import classify, task_loss
from pruner.models.packed_bert import encode
from pruner.training.context import Context
from pruner.training.stage import Recipe, Say, Stage, Trained

TASK = "tasks"  # of a batch: the number of its task, once for each row


class MultiTaskData(TrainingData):
    """The training rows of several tasks, one after the other; a batch has rows of one of them."""

    def __init__(self, splits: Sequence[Split]) -> None:
        self.parts = [SplitDataset(split) for split in splits]
        self.ends = np.cumsum([len(part) for part in self.parts])
        self.tokens = np.concatenate([split.tokens for split in splits])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, row: int) -> dict:
        task = int(np.searchsorted(self.ends, row, side="right"))
        return self.parts[task][row - int(self.ends[task]) + len(self.parts[task])] | {TASK: task}

    def batches(self, batch_size: int, seed: int) -> "TaskBatches":
        return TaskBatches([len(part) for part in self.parts], batch_size, seed)


class TaskBatches(Sampler[list[int]]):
    """Batches of rows of one task each, put together anew in every epoch, in random order."""

    def __init__(self, sizes: Sequence[int], batch_size: int, seed: int) -> None:
        self.sizes, self.batch_size, self.seed, self.epoch, self.drop_last = sizes, batch_size, seed, 0, False

    def __len__(self) -> int:
        return sum(-(-size // self.batch_size) for size in self.sizes)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        generator, first, batches = np.random.default_rng((self.seed, self.epoch)), 0, list[list[int]]()
        for size in self.sizes:
            rows = (first + generator.permutation(size)).tolist()
            batches += [rows[start : start + self.batch_size] for start in range(0, size, self.batch_size)]
            first += size
        return iter([batches[number] for number in generator.permutation(len(batches))])


class MultiTaskBert(nn.Module):
    """A BERT with a classifier for each task, on packed tokens; masks say what each task's ticket has.

    ``heads`` [tasks, L, H] and ``feed_forwards`` [tasks, L] are booleans.
    """

    heads: Tensor
    feed_forwards: Tensor

    def __init__(self, model: BertForSequenceClassification, configs: Sequence[Any], structures: Sequence[Structure]):
        super().__init__()
        self.bert, self.dropout, self.configs, self.config = model.bert, model.dropout, list(configs), model.config
        classifiers = [model.classifier]
        for config in configs[1:]:
            classifiers.append(nn.Linear(config.hidden_size, config.num_labels))
            classifiers[-1].weight.data.normal_(std=config.initializer_range)
            classifiers[-1].bias.data.zero_()
        self.classifiers = nn.ModuleList(classifiers)
        depth, width = model.config.num_hidden_layers, model.config.num_attention_heads
        heads = torch.zeros(len(configs), depth, width, dtype=torch.bool)
        for task, structure in enumerate(structures):
            for layer, kept in zip(structure.layers, structure.heads, strict=True):
                heads[task, layer, list(kept)] = True
        self.register_buffer("heads", heads)
        whole = [[bool(neurons) for neurons in structure.neurons] for structure in structures]
        self.register_buffer("feed_forwards", torch.tensor(whole))

    def forward(
        self,
        input_ids: Tensor,
        lengths: Sequence[int],
        tasks: Sequence[int] = (0,),
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Classify a batch [B, L] of one task, whose number stands in ``tasks`` once for each row."""
        task = tasks[0]
        with masked(self, self.heads[task], self.feed_forwards[task]):
            cls = encode(self.bert, input_ids, lengths, token_type_ids)
        logits = classify(self, cls, self.classifiers[task])
        loss = None if labels is None else task_loss(logits, labels, self.configs[task])
        return SequenceClassifierOutput(loss=loss, logits=logits)


@dataclass(frozen=True)
class MultiTaskTraining(Recipe):
    """The one training of several tasks; ``tickets`` are theirs, or none."""

    tickets: tuple[Ticket | None, ...]

    def data(self, context: Context, teacher_logits: np.ndarray | None) -> TrainingData:
        return MultiTaskData([one.training_split for one in context.together])

    def collate(self, context: Context) -> Collate:
        plain = context.backbone.collate(context.task, with_lengths=True)
        return lambda rows: plain(rows) | {TASK: [row.get(TASK, 0) for row in rows]}

    def prepare(self, model: Any, context: Context, told: dict) -> nn.Module:
        configs = [one.backbone.model_config(one.task) for one in context.together]
        return MultiTaskBert(model, configs, structures_of(self.tickets, told, context))


def structures_of(tickets: Sequence[Ticket | None], told: dict, context: Context) -> list[Structure]:
    """Return what each task keeps."""
    whole = Structure.of(context.backbone.model_config(context.task))
    pairs = zip(tickets, context.together, strict=True)
    return [ticket.narrow(whole, told, one) if ticket else whole for ticket, one in pairs]


@dataclass
class MultiTask(Method):
    """Train one encoder on several tasks; a cell's model has its task's classifier, and its ticket's parts alone."""

    tickets: tuple[Ticket | None, ...]

    def __post_init__(self) -> None:
        levels = [ticket.level if ticket else "0" for ticket in self.tickets]
        shares = any(self.tickets)
        self.name = "multi-task-tickets" if shares else "multi-task"
        self.title = "multi-task with tickets" if shares else "multi-task"
        shown = "/".join(levels if len({*levels}) > 1 else levels[:1])
        self.variant = f"{len(levels)} tasks" + (f", without {shown} % of heads" if shares else "")
        self.label = "_".join([self.name, *(["-".join(levels)] if shares else [])])

    def settings(self, context: Context) -> dict:
        tasks = {
            one.task.name: one.settings() | {"ticket": ticket and ticket.settings()}
            for one, ticket in zip(context.together, self.tickets, strict=True)
        }
        return {"multi_task": tasks}

    def stages(self, context: Context, dense: Stage) -> list[Stage]:
        """List the training of all tasks, the same for each of them."""
        first, recipe = context.together[0], MultiTaskTraining(self.tickets)
        sources = [
            source
            for one, ticket in zip(context.together, self.tickets, strict=True)
            for source in (ticket.sources(one, dense_stage(one)) if ticket else ())
        ]
        name, settings = f"{self.label}_seed{context.seed}", self.settings(context)
        return [Stage(name, first, recipe, settings, shared=True, told_by=tuple(sources))]

    def collate(self, context: Context) -> Collate:
        return context.backbone.collate(context.task, with_lengths=True)

    def finalize(self, trained: Sequence[Trained], context: Context, dense: nn.Module, say: Say) -> nn.Module:
        together: Any = trained[-1].model
        at = context.together.index(context)
        model: Any = copy.deepcopy(dense)
        model.bert, model.classifier = together.bert, together.classifiers[at]
        masks = zip(together.heads, together.feed_forwards, strict=True)
        whole = Structure.of(model.config)
        kept = [whole.mask(heads=heads).mask(neurons=feed_forwards) for heads, feed_forwards in masks]
        small = shrink(PrunedBertForSequenceClassification.from_unpruned(model), kept[at])
        small.config.multi_task = union(kept, [one.task.name for one in context.together])
        return small.eval()

    def load(self, folder: Any, context: Context) -> nn.Module:
        return PrunedBertForSequenceClassification.from_pretrained(folder)

    def describe(self, model: Any, context: Context) -> dict:
        return describe_structure(model, context) | {"multi_task": model.config.multi_task}


def union(kept: Sequence[Structure], tasks: Sequence[str]) -> dict[str, Any]:
    """Count what each task keeps, what any of them does, and the mean over tasks, rounded down as published."""

    def counts(structure: Structure) -> dict[str, int]:
        return {"heads": sum(map(len, structure.heads)), "feed_forwards": sum(map(bool, structure.neurons))}

    each = [counts(structure) for structure in kept]
    heads = {(layer, head) for one in kept for layer, of in enumerate(one.heads) for head in of}
    feed_forwards = {layer for one in kept for layer, neurons in enumerate(one.neurons) if neurons}
    return {
        "tasks": dict(zip(tasks, each, strict=True)),
        "union": {"heads": len(heads), "feed_forwards": len(feed_forwards)},
        "mean": {name: sum(one[name] for one in each) // len(each) for name in ("heads", "feed_forwards")},
    }
