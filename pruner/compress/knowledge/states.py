"""Distillation of what a BERT computes on its way: hidden states, and the attention that they lead to."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruner.models.attention import in_float32
from pruner.models.bert_layers import heads_of, layers_of


class States:
    """The squared error of a model's hidden states from a teacher's (TinyBERT, Jiao et al. 2020, equations 8 and 9).

    After layer m of L the model imitates the teacher after m * L_T / L of its L_T, both from the embeddings on: a mean
    over the tokens that are left, over layers and numbers. With ``attention`` there is beside it the squared error of
    what goes into the softmax (equation 7), of the teacher's layer that ends where the model's does, a mean over pairs
    of tokens that are left; over heads too, unless teacher and model have as many.

    Teacher and model are BERT classifiers that return the states of padded sentences [B, W, D], 0 where there is no
    token.
    """

    def __init__(self, model: Any, teacher: nn.Module, attention: bool = False) -> None:
        self.model, self.teacher, self.attention = model, teacher, attention

    def __call__(self, inputs: Mapping[str, Any], outputs: Any) -> Tensor:
        """Compute what is added to the loss, of a batch and of what the model made of it."""
        own = outputs.hidden_states
        sentences = {name: x for name, x in inputs.items() if name != "labels"}
        with torch.no_grad():
            theirs = self.teacher.eval()(**sentences, output_hidden_states=True).hidden_states  # without dropout
        ends = [round(number * (len(theirs) - 1) / (len(own) - 1)) for number in range(len(own))]
        present = [state.detach().abs().sum(dim=-1) > 0 for state in own]
        errors = [
            F.mse_loss(state[real].float(), theirs[end][real].float())
            for state, real, end in zip(own, present, ends, strict=True)
        ]
        loss = torch.stack(errors).mean()
        return loss + self._attention(own, theirs, present, ends) if self.attention else loss

    def _attention(self, own: Any, theirs: Any, present: list[Tensor], ends: list[int]) -> Tensor:
        layers, others = layers_of(self.model.bert), layers_of(self.teacher.bert)  # type: ignore[arg-type]
        errors = []
        for number, layer in enumerate(layers):
            other = others[ends[number + 1] - 1]
            # Of the tokens that leave a layer, some of which had entered it only to be scored.
            pairs = present[number + 1][:, :, None] & present[number + 1][:, None, :]
            found = attention_logits(layer, own[number])
            with torch.no_grad():
                wanted = attention_logits(other, theirs[ends[number + 1] - 1])
            if found.shape[1] != wanted.shape[1]:
                found, wanted = found.mean(dim=1, keepdim=True), wanted.mean(dim=1, keepdim=True)
            errors.append(((found - wanted).square() * pairs[:, None]).sum() / (pairs.sum() * found.shape[1]))
        return torch.stack(errors).mean()


def attention_logits(layer: Any, hidden: Tensor) -> Tensor:
    """Compute what goes into the softmax, of what enters a ``BertLayer``: [B, W, D] -> [B, H, W, W] in float32"""
    attention, heads = layer.attention.self, heads_of(layer)
    q, k = (part(hidden).unflatten(-1, heads).transpose(1, 2) for part in (attention.query, attention.key))
    with in_float32():
        return q.float() @ k.float().transpose(2, 3) * attention.scaling
