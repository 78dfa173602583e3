"""BERT for sequence classification and regression whose encoder drops token vectors between layers.

It extends the public classes of ``transformers``; any BERT checkpoint loads:

    model = PrunedBertForSequenceClassification.from_pretrained("bert", num_labels=2, dtype=torch.float32)
    model.set_pruning([0.6] + [0] * 11, methods="student", teacher="emission")
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from pruner.compress.precision.factorised import factorised_init
from pruner.compress.precision.load import precision_init
from pruner.compress.structure.shrink import shrunk_init
from pruner.compress.tokens.model import PrunedModel
from pruner.compress.tokens.outputs import PrunedOutput, Trace
from pruner.compress.tokens.scores import scores_before
from pruner.compress.tokens.select import select_tokens
from pruner.compress.tokens.teachers import Batch
from pruner.data.tokenizer import check_kind, model_of
from pruner.models.bert_layers import (
    attend,
    classify,
    embed,
    feed_forward,
    layers_of,
    recomputed,
    run_last_layer,
    run_layer,
    task_loss,
)
from pruner.models.encoders import ENCODERS, as_bert, encoder_init, plain_class, register_class
from pruner.models.packing import Packing, pack, real_lengths, rounds_up
from pruner.utils.errors import UserError

# What would change the result, and is not computed here; whatever else comes with a batch is ignored, as in the parent.
NOT_COMPUTED = ("head_mask", "encoder_hidden_states", "encoder_attention_mask", "past_key_values")


class PrunedBertConfig(BertConfig):
    """``BertConfig`` with a schedule; what is not a BERT, or one of another kind, is refused by name."""

    model_type = "pruned_bert"

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs) -> tuple[dict, dict]:
        """Read a config, a plain BERT's too."""
        config, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if (kind := config.get("model_type")) in ENCODERS:  # its weights have other names
            how = "load it with AutoModelForSequenceClassification, and give that to from_unpruned"
            raise UserError(f"{pretrained_model_name_or_path}: {model_of(kind)}; {how}")
        check_kind(config, pretrained_model_name_or_path)
        return config | {"model_type": cls.model_type}, kwargs


class PrunedBertForSequenceClassification(PrunedModel, BertForSequenceClassification):
    """``BertForSequenceClassification`` that drops tokens before the layers of its schedule; see ``set_pruning``.

    Without a schedule it computes what its parent does.
    """

    config_class = PrunedBertConfig
    plain_class, scored_size = BertForSequenceClassification, "hidden_size"
    # Of int8 weights, in whatever dtype the rest is loaded.
    _keep_in_fp32_modules_strict = ["scale", "input_scale"]  # noqa: RUF012

    def __init__(self, config: BertConfig) -> None:
        check_kind(config.to_dict(), type(config).__name__)
        super().__init__(config)
        encoder_init(self)
        shrunk_init(self)
        factorised_init(self)
        precision_init(self)

    @classmethod
    def from_unpruned(cls, model: PreTrainedModel) -> Self:
        """Make a model that can be pruned, and is not yet, of a copy of a classifier: a BERT, or one of ``ENCODERS``.

        It draws no random numbers of a BERT. A ``UserError`` names what is not supported.
        """
        return super().from_unpruned(as_bert(model))

    def unpruned_twin(self) -> BertForSequenceClassification:
        """Make the stock model of a copy of the weights, with SDPA attention, in evaluation mode.

        Where heads or layers have been removed, it is without them, and computes all tokens.
        """
        twin = super().unpruned_twin()
        twin.__class__ = plain_class(twin.config)  # which saves and loads it as what it is
        twin.config.__class__ = twin.config_class
        twin.set_attn_implementation("sdpa")
        return twin

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        lengths: Sequence[int] | None = None,
        follow_teacher: bool | None = None,
        return_dict: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> PrunedOutput | tuple:
        """Classify sentences.

        Args:
            input_ids, attention_mask, token_type_ids, position_ids: [B, L], padding on the right, as for the parent.
            inputs_embeds: [B, L, D] vectors in place of ``input_ids``, for scorers that do not read words.
            labels: what the config's ``problem_type`` asks for; without one, [B] class numbers, or floats for a
                regression (one label).
            lengths: B real lengths known on the host; without them they are read from ``attention_mask``.
            follow_teacher: students' layers select by the teacher's scores (as in training) or by their own.
                Default: the teacher's while training. Needs an unpruned pass first, students are distilled in it.
            return_dict, output_hidden_states: by default, what the config says.
            output_hidden_states: also returns the vectors that entered the first layer and left each layer, [B, L, D],
                0 at padding and where a token has been dropped.

        Raises:
            ValueError: inputs that are not computed here, each by its name; ``torch.jit.trace``, and ``torch.export``
                without ``lengths``, which would freeze how many tokens are kept.
        """
        inputs = self._inputs(input_ids, inputs_embeds, output_attentions, kwargs)
        batch_size, width = inputs.shape[:2]
        lengths = self._lengths(lengths, attention_mask, batch_size, width)
        follow_teacher = self.training if follow_teacher is None else follow_teacher
        # Padding that no sentence of this batch needs goes first.
        inputs = inputs[:, : max(lengths)]
        types, ordered = (None if x is None else x[:, : max(lengths)] for x in (token_type_ids, position_ids))

        kept_counts = self.pruning.keep_counts(lengths)
        round_up = rounds_up(self.dtype, inputs.device)
        entering, *packings = pack([lengths, *kept_counts], inputs.device, round_up)
        batch = Batch(entering, inputs, types, ordered)
        known = scores_before(self, batch, teach=follow_teacher or self.training)

        packing, hidden = entering, embed(self.bert, entering, inputs, types, ordered)
        origin = torch.arange(packing.rows, device=inputs.device)  # where each token lay in the first packed row
        positions = packing.positions
        trace, students = Trace(kept_counts), iter(self.students)
        with_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        states = [pad_kept(hidden, origin, packing, entering, width)] if with_states else []
        layers = zip(layers_of(self.bert), self.pruning.scorers, packings, strict=True)
        for index, (layer, scorer, kept) in enumerate(layers):
            drops, context = kept is not packing, None
            scores = entering.unpad(known[index]).index_select(0, origin) if index in known else None
            if scorer is not None and scorer.reads == "attention" and drops:
                context, scores = recomputed(layer, attend, hidden, packing, scorer.function)
            elif scorer is not None and scorer.reads == "hidden":
                score_hidden = next(students) if scorer.learned else scorer.function
                if scores is not None:  # the teacher's
                    own = score_hidden(hidden)
                    trace.distil(packing.pad(own), packing.pad(scores), packing)
                    scores = scores if follow_teacher else own
                elif drops:
                    scores = score_hidden(hidden)
            if drops:
                assert scores is not None  # every layer that is pruned has a scorer
                trace.score_sums.append(scores.detach().float().sum())
                by_sentence = packing.pad(scores.detach(), float("-inf"))
                by_sentence[:, 0] = float("inf")  # [CLS] always stays
                indices = select_tokens(by_sentence, kept)
                hidden, origin = hidden.index_select(0, indices), origin.index_select(0, indices)
                positions = positions.index_select(0, indices)
                context = None if context is None else context.index_select(0, indices)
                packing = kept
            trace.token_positions.append(positions[: packing.num_tokens])
            cls_alone = self.training and not with_states and index == self.num_layers - 1
            if context is None:
                hidden = recomputed(layer, run_last_layer if cls_alone else run_layer, hidden, packing)
            else:
                context, hidden = (packing.first(x) if cls_alone else x for x in (context, hidden))
                hidden = recomputed(layer, feed_forward, context, hidden)
            if with_states:
                states.append(pad_kept(hidden, origin, packing, entering, width))

        logits = classify(self, hidden if cls_alone else packing.first(hidden))
        loss = None if labels is None else task_loss(logits, labels, self.config)
        output = trace.output(loss, logits, self.training, tuple(states) or None)
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def _inputs(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, attentions: bool | None, more: dict
    ) -> Tensor:
        """Return what is embedded, ids [B, L] or vectors [B, L, D]; a ValueError names what is not computed."""
        if torch.jit.is_tracing():
            raise ValueError(
                "torch.jit.trace: it would freeze how many tokens are kept; use torch.export with lengths="
            )
        if self.config.output_attentions if attentions is None else attentions:
            raise ValueError("output_attentions: the map of a layer has only the tokens it keeps; see token_positions")
        for name in NOT_COMPUTED:
            if more.get(name) is not None:
                raise ValueError(f"{name}: not computed by {type(self).__name__}; leave it out")
        given = [x for x in (input_ids, inputs_embeds) if x is not None]
        if len(given) != 1:
            raise ValueError("input_ids, inputs_embeds: give one of them")
        return given[0]

    def _lengths(self, lengths: Sequence[int] | None, mask: Tensor | None, batch_size: int, width: int) -> list[int]:
        """Return the real lengths [B], those given or those of the ``mask``."""
        if lengths is None:
            if torch.compiler.is_exporting() and mask is not None:
                raise ValueError(
                    "torch.export: shapes depend on how long sentences are; give lengths=, and it works for these"
                )
            return real_lengths(mask, batch_size, width)
        if len(lengths) != batch_size or not 1 <= min(lengths) <= max(lengths) <= width:
            raise ValueError(f"lengths: not {batch_size} numbers from 1 to {width}")
        return list(lengths)


def pad_kept(hidden: Tensor, origin: Tensor, packing: Packing, entering: Packing, width: int) -> Tensor:
    """Put the vectors [T, D] of ``packing`` back where their tokens were: [B, width, D], 0 elsewhere"""
    real = slice(packing.num_tokens)  # what follows is repeated
    everywhere = hidden.new_zeros(entering.rows, hidden.shape[1]).index_copy(0, origin[real], hidden[real])
    return F.pad(entering.pad(everywhere), (0, 0, 0, width - entering.max_seqlen))


register_class(PrunedBertForSequenceClassification)
