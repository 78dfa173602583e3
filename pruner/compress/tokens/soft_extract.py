"""The soft-extract layers of PoWER-BERT (Goyal et al. 2020, section 3.3): how many tokens each layer needs, learned.

A token is multiplied by a parameter of its layer and of its rank among the tokens of its sentence, the most significant
first. Parameters start at 1; their mass, which a penalty makes smaller, says how many tokens the layer needs.

PoWER-BERT's ranks count the places of one padded length. Here they are relative to the sentence's own length, so that
what is found holds for sentences of any length.
"""

from collections.abc import Sequence

import torch
from sklearn.isotonic import isotonic_regression
from torch import Tensor, nn
from transformers import BertForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from pruner.compress.tokens.scores import received_attention
from pruner.models.bert_layers import attend, classify, embed, layers_of, task_loss
from pruner.models.packing import Packing, pack

RANKS = 32  # parameters of a layer; rank 0 is the most significant 32nd of a sentence


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

    accepts_loss_kwargs = False
    path: Tensor

    def __init__(
        self, model: BertForSequenceClassification, penalty: float = 0.0, mean_length: float = 1.0, points: int = 1
    ) -> None:
        """``penalty`` is PoWER-BERT's lambda; ``mean_length`` turns shares into tokens, which it weighs.

        ``path`` [points + 1, layers] holds what the layers retained in the course of a search, NaN where it is not yet.
        """
        super().__init__()
        self.model = model
        layers = model.config.num_hidden_layers
        self.soft_extract = SoftExtract(layers)
        self.penalty, self.mean_length = penalty, mean_length
        path = torch.full((points + 1, layers), float("nan"))
        path[0] = 1.0
        self.register_buffer("path", path)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor,
        lengths: Sequence[int],
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """As the pruned BERT's; while training, ``loss`` has the penalty in it."""
        half = torch.is_autocast_enabled("cpu") and input_ids.device.type == "cpu"
        (packing,) = pack([list(lengths)], input_ids.device, round_up=half)
        hidden = embed(self.model.bert, packing, input_ids, token_type_ids, None)
        weights = torch.ones(packing.rows, device=hidden.device)
        for index, layer in enumerate(layers_of(self.model.bert)):
            context, significance = attend(layer, hidden, packing, score=received_attention, weights=weights)
            retained = self.soft_extract(index, significance, packing)
            attended = layer.attention.output(context, hidden) * retained[:, None]
            hidden = layer.output(layer.intermediate(attended), attended)
            weights = weights * retained
        logits = classify(self.model, hidden, packing)
        loss = None
        if labels is not None:
            loss = task_loss(logits, labels)
            if self.training:
                masses = self.soft_extract.masses() * self.mean_length
                numbers = torch.arange(1, len(masses) + 1, device=masses.device)
                loss = loss + self.penalty * (numbers * masses).sum()
        return SequenceClassifierOutput(loss=loss, logits=logits)
