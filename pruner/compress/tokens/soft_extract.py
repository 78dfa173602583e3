"""PoWER-BERT's search (Goyal et al. 2020, section 3.3): how many tokens each layer needs, learned with the weights.

A token is multiplied by a parameter of its layer and of its rank among the tokens of its sentence, the most significant
first. Parameters start at 1; their mass, which a penalty makes smaller, says how many tokens the layer needs.

PoWER-BERT's ranks count the places of one padded length. Here they are relative to the sentence's own length, so that
what is found holds for sentences of any length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.isotonic import isotonic_regression
from torch import Tensor, nn
from transformers import BertForSequenceClassification, TrainerCallback
from transformers.modeling_outputs import SequenceClassifierOutput

from pruner.compress.tokens.budget import bisect, shares_flops
from pruner.compress.tokens.scores import received_attention
from pruner.data.collate import Collate
from pruner.models.bert_layers import attend, classify, embed, layers_of, task_loss
from pruner.models.flops import BertShape
from pruner.models.packing import Packing, pack, rounds_up
from pruner.training.context import Context
from pruner.training.stage import Additions, Recipe, Say
from pruner.utils.distributed import is_main

RANKS = 32  # parameters of a layer; rank 0 is the most significant 32nd of a sentence
POINTS = 40  # of the path that a search keeps
BEYOND = 1.1  # a search goes a little further than it is asked to: other methods may need more of the tokens to leave
PLANNED = 0.9  # the part of the search in which the budget shrinks; the rest is spent on it


class SoftExtract(nn.Module):
    """``retention`` [layers, RANKS]: what goes on of a token, by layer and relative rank, in [0, 1]."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.retention = nn.Parameter(torch.ones(layers, RANKS))

    def forward(self, layer: int, significance: Tensor, packing: Packing) -> Tensor:
        """Significance of each token [T] -> the parameter of its rank, [T]; 1 for [CLS]."""
        by_sentence = packing.pad(significance, float("-inf"))
        by_sentence[:, 0] = float("inf")
        order = by_sentence.sort(dim=1, descending=True, stable=True).indices
        ranks = order.argsort(dim=1)  # the place of each token in the order
        # Of n tokens, rank k is kept by a layer that keeps the share s exactly if k / n < s (``select.keep_count``).
        index = ranks * RANKS // packing.cu_seqlens.diff()[:, None]
        parameters = self.retention[layer].index_select(0, packing.unpad(index.clamp_max(RANKS - 1)))
        return torch.where(packing.positions == 0, 1.0, parameters)

    def masses(self) -> Tensor:
        """[layers] the share of a sentence that each layer retains."""
        return self.retention.mean(dim=1)

    @torch.no_grad()
    def shares(self) -> list[float]:
        """The masses as a retention configuration: no layer has more than the layer before it."""
        return self.masses().cummin(dim=0).values.tolist()

    @torch.no_grad()
    def project(self) -> None:
        """To the nearest parameters that can be: in [0, 1], and no rank below a less significant one.

        The order is not PoWER-BERT's. In short sentences most ranks are missing; what no sentence asks for would sink
        under the penalty and count as tokens that are not needed.
        """
        ordered = [isotonic_regression(row, increasing=False) for row in self.retention.float().cpu().numpy()]
        self.retention.copy_(torch.stack([torch.from_numpy(row) for row in ordered]).clamp(0, 1))
        self.retention[:, 0] = 1  # where [CLS] is


class SoftBert(nn.Module):
    """A BERT with soft-extract layers after its self-attentions, for the configuration search.

    What a layer has taken from a token is missing from it as a key and as a query of later layers as well, so that with
    parameters of 0 and 1 the model is the one that drops tokens. (PoWER-BERT's still attends to the vectors of zeros.)
    """

    path: Tensor

    def __init__(
        self, model: BertForSequenceClassification, penalty: float = 0.0, mean_length: float = 1.0, points: int = 1
    ) -> None:
        """Weigh the retained tokens, shares of ``mean_length``, by ``penalty``, which is PoWER-BERT's lambda.

        ``path`` [points + 1, layers] holds what the layers retained in the course of a search, NaN where it is not yet.
        """
        super().__init__()
        layers = model.config.num_hidden_layers
        self.model, self.soft_extract = model, SoftExtract(layers)
        self.penalty, self.mean_length = penalty, mean_length
        self.register_buffer("path", torch.full((points + 1, layers), float("nan")))
        self.path[0] = 1.0

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor,
        lengths: Sequence[int],
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """As the pruned BERT's; while training, ``loss`` has the penalty in it."""
        (packing,) = pack([lengths], input_ids.device, rounds_up(self.model.dtype, input_ids.device))
        hidden = embed(self.model.bert, packing, input_ids, token_type_ids, None)
        weights = torch.ones(packing.rows, device=hidden.device)
        for index, layer in enumerate(layers_of(self.model.bert)):
            context, significance = attend(layer, hidden, packing, score=received_attention, weights=weights)
            retained = self.soft_extract(index, significance, packing)
            attended = layer.attention.output(context, hidden) * retained[:, None]
            hidden = layer.output(layer.intermediate(attended), attended)
            weights = weights * retained
        logits = classify(self.model, packing.first(hidden))
        loss = None if labels is None else task_loss(logits, labels, self.model.config)
        if loss is not None and self.training:
            masses = self.soft_extract.masses() * self.mean_length
            numbers = torch.arange(1, len(masses) + 1, device=masses.device)
            loss = loss + self.penalty * (numbers * masses).sum()
        return SequenceClassifierOutput(loss=loss, logits=logits)


@dataclass(frozen=True)
class SoftExtractSearch(Recipe):
    """A training with soft-extract layers; what others are told is the ``path`` of its retention configuration.

    The path is [points][layers] shares of a sentence, from all of it to the end of the search. ``reach`` is the FLOPs
    reduction that it ends with; without one, ``penalty`` is PoWER-BERT's lambda (1e-4 to 7e-3). ``learning_rate`` is
    that of the soft-extract parameters (PoWER-BERT: 1e-4 to 1e-2).
    """

    reach: float | None
    penalty: float | None
    learning_rate: float

    @property
    def name(self) -> str:
        return f"soft-extract-{self.reach:g}x" if self.reach else f"soft-extract-lambda{self.penalty:g}"

    def collate(self, context: Context) -> Collate:
        return context.backbone.collate(context.task, with_lengths=True)

    def prepare(self, model: Any, context: Context, told: dict) -> SoftBert:
        soft = SoftBert(model, self.penalty or 0.0, float(np.mean(context.training_split.lengths)), POINTS)
        # Without budget or penalty, freeze the retention parameters: noise alone would move them.
        soft.soft_extract.requires_grad_(bool(self.reach or self.penalty))
        return soft

    def additions(self, model: Any, context: Context, say: Say) -> Additions:
        return Additions([SearchCallback(self, model, context, say)], {"soft_extract.": self.learning_rate})

    def finish(self, model: Any) -> tuple[nn.Module, dict]:
        return model.model, {"path": model.path[~model.path.isnan().any(dim=1)].tolist()}


class SearchCallback(TrainerCallback):
    """Keeps the soft-extract parameters possible and within the budget, and the path that they take."""

    def __init__(self, search: SoftExtractSearch, soft: SoftBert, context: Context, say: Say) -> None:
        self.search, self.soft, self.context, self.say = search, soft, context, say
        self.flops = partial(shares_flops, BertShape.of_model(soft.model), np.array(context.dev_lengths, dtype=float))
        self.unpruned = self.flops([1.0] * len(soft.path[0]))

    @torch.no_grad()
    def shrink_to(self, limit: float) -> None:
        """Penalise the masses as much as it takes for the FLOPs not to be above ``limit``.

        The penalty is PoWER-BERT's: each parameter of layer l loses l times as much as one of the first layer.
        """
        retention = self.soft.soft_extract.retention
        before, numbers = retention.clone(), torch.arange(1, len(retention) + 1, device=retention.device)[:, None]

        def penalised(penalty: float) -> float:
            retention.copy_((before - penalty * numbers).clamp(0, 1))
            retention[:, 0] = 1  # where [CLS] is
            return self.flops(self.soft.soft_extract.shares())

        if penalised(0.0) > limit:
            penalised(bisect(lambda penalty: penalised(penalty) > limit, 1.0, steps=24)[1])

    def on_step_end(self, args, state, control, **kwargs):
        self.soft.soft_extract.project()
        progress = state.global_step / state.max_steps
        if self.search.reach:
            progress = min(1.0, progress / PLANNED)
            self.shrink_to(self.unpruned * (1 - (1 - 1 / (self.search.reach * BEYOND)) * progress))
        self.soft.path[int(progress * POINTS + 1e-9)] = torch.tensor(self.soft.soft_extract.shares())

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "retained_tokens" in logs:  # all are computed; how much of them goes on, the parameters say
            logs["retained_tokens"] = float(np.mean(self.soft.soft_extract.shares()))

    def on_epoch_end(self, args, state, control, **kwargs):
        if is_main():
            metrics = self.context.metrics(self.soft, self.search.collate(self.context))
            results = ", ".join(f"{name} {100 * value:.1f}" for name, value in metrics.items())
            retained = " ".join(f"{share:.2f}" for share in self.soft.soft_extract.shares())
            self.say(f"search, epoch {round(state.epoch)}: {results}; retained {retained}")
