"""What is measured of a model before parts of it are removed, on training rows alone, as stages."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BertForSequenceClassification

from pruner.compress.structure.importance import Scores, importance
from pruner.data.cache import Split
from pruner.data.collate import SplitDataset, sorted_rows
from pruner.models.bert_layers import layers_of, task_loss
from pruner.training.context import Context
from pruner.training.stage import Measurement, Say, Stage
from pruner.utils.progress import Progress

ROWS = 1024  # of the training set, on which layers are compared


def batches(context: Context, split: Split, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Yield the rows of a split with their labels, in batches of similar length."""
    dataset, collate = SplitDataset(split), context.backbone.collate(context.task)
    bar = Progress(total=len(split), unit="row", desc="measuring")
    for rows in sorted_rows(split, context.train_settings.batch_size):
        yield {name: x.to(device) for name, x in collate([dataset[int(row)] for row in rows]).items()}
        bar.update(len(rows))
    bar.close()


class Importance(Measurement):
    """Importance scores of heads, feed-forwards and neurons, on all training rows (Liang et al. 2021, section 3.1)."""

    def measure(self, model: Any, context: Context, say: Say) -> dict:
        scores = importance(model, batches(context, context.training_split, model.device))
        return {name: values.tolist() for name, values in scores._asdict().items()}


class Contribution(Measurement):
    """How little each layer changes: the cosine between what enters and what leaves it (Sajjad et al. 2020, section 3).

    ``cls`` is the mean over sentences of that of [CLS], ``all`` that of all real tokens.
    """

    @torch.no_grad()
    def measure(self, model: Any, context: Context, say: Say) -> dict:
        split, of_cls, of_all = context.training_subset(ROWS), [], []
        model.eval()
        for batch in batches(context, split, model.device):
            inputs = {name: x for name, x in batch.items() if name != "labels"}
            states = model(**inputs, output_hidden_states=True).hidden_states
            cosines = torch.stack([F.cosine_similarity(a, b, dim=-1) for a, b in pairwise(states)])
            real = batch["attention_mask"].bool()
            of_cls.append(cosines[:, :, 0].cpu())
            of_all.append(cosines[:, real].cpu())
        return {
            name: torch.cat(x, dim=1).double().mean(dim=1).tolist() for name, x in (("cls", of_cls), ("all", of_all))
        }


class Skipping(Measurement):
    """By how much the loss grows when a single layer is skipped, on training rows."""

    @torch.no_grad()
    def measure(self, model: Any, context: Context, say: Say) -> dict:
        split, losses = context.training_subset(ROWS), []
        model.eval()
        for batch in batches(context, split, model.device):
            inputs = {name: x for name, x in batch.items() if name != "labels"}
            row = []
            for layer in (None, *range(len(layers_of(model.bert)))):
                with skipped(model, layer):
                    loss = task_loss(model(**inputs).logits, batch["labels"], model.config)
                row.append(loss.item() * len(batch["labels"]))
            losses.append(row)
        dense, *without = np.sum(losses, axis=0) / len(split)
        return {"skipping": [loss - dense for loss in without]}


@contextmanager
def skipped(model: BertForSequenceClassification, layer: int | None) -> Iterator[None]:
    """Let a layer return what it was given."""
    if layer is None:
        yield
        return
    hook = layers_of(model.bert)[layer].register_forward_hook(
        lambda module, inputs, output: (inputs[0], *output[1:]) if isinstance(output, tuple) else inputs[0]
    )
    try:
        yield
    finally:
        hook.remove()


def measured(recipe: Measurement, name: str, context: Context, dense: Stage | None) -> Stage:
    """Make the stage of a measurement of the fine-tuned model, or without one of the pre-trained."""
    settings = context.settings() | {"measured": name}
    return Stage(f"{name}_seed{context.seed}", context, recipe, settings, dense, shared=True)


def reading(told: dict, name: str, context: Context) -> dict:
    """Return what the measurement of that name has found for a task and seed."""
    return told[f"{context.task.name}/{name}_seed{context.seed}"]


def scores_of(told: dict, context: Context, name: str = "importance") -> Scores:
    """Read the scores of a measurement, by default those of ``Importance``."""
    scores = reading(told, name, context)
    return Scores(*(torch.tensor(scores[name], dtype=torch.float64) for name in Scores._fields))
