"""BERT for sequence classification and regression whose encoder drops token vectors between layers.

It extends the public classes of ``transformers``; any BERT checkpoint loads:

    model = PrunedBertForSequenceClassification.from_pretrained("bert", num_labels=2, dtype=torch.float32)
    model.set_pruning([0.6] + [0] * 11, methods="student", teacher="emission")
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import BertForSequenceClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from pruner.compress.tokens.model import PrunedModel
from pruner.compress.tokens.outputs import PrunedOutput, Trace
from pruner.compress.tokens.scores import scores_before
from pruner.compress.tokens.select import select_tokens
from pruner.compress.tokens.teachers import Batch
from pruner.models.bert_layers import attend, classify, embed, feed_forward, layers_of, run_layer, task_loss
from pruner.models.packing import pack, real_lengths

# Pipelines warn of classes that are not in this table. No config has this key.
MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES["pruned_bert"] = "PrunedBertForSequenceClassification"


class PrunedBertForSequenceClassification(PrunedModel, BertForSequenceClassification):
    """``BertForSequenceClassification`` that drops tokens before the layers of its schedule; see ``set_pruning``.

    Without a schedule it computes what its parent does.
    """

    plain_class, scored_size = BertForSequenceClassification, "hidden_size"

    def unpruned_twin(self) -> BertForSequenceClassification:
        """Make the stock model of a copy of the weights, with SDPA attention, in evaluation mode."""
        twin = super().unpruned_twin()
        twin.set_attn_implementation("sdpa")
        return twin

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        lengths: Sequence[int] | None = None,
        follow_teacher: bool | None = None,
        return_dict: bool = True,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> PrunedOutput | tuple:
        """Classify sentences.

        Args:
            input_ids, attention_mask, token_type_ids, position_ids: [B, L], padding on the right, as for the parent.
            labels: [B] class numbers, or floats for a regression (one label).
            lengths: B real lengths known on the host; without them they are read from ``attention_mask``.
            follow_teacher: students' layers select by the teacher's scores (as in training) or by their own.
                Default: the teacher's while training. Needs an unpruned pass first, students are distilled in it.
        """
        if output_attentions or output_hidden_states:
            raise ValueError("output_attentions, output_hidden_states: tokens leave on the way; see token_positions")
        lengths = real_lengths(attention_mask, *input_ids.shape) if lengths is None else list(lengths)
        follow_teacher = self.training if follow_teacher is None else follow_teacher
        # Padding that no sentence of this batch needs goes first.
        input_ids = input_ids[:, : max(lengths)]
        types, ordered = (None if x is None else x[:, : max(lengths)] for x in (token_type_ids, position_ids))

        kept_counts = self.pruning.keep_counts(lengths)
        # On a CPU, oneDNN compiles a kernel for every new number of rows unless they are in float32.
        half = self.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
        round_up = half and input_ids.device.type == "cpu"
        entering, *packings = pack([lengths, *kept_counts], input_ids.device, round_up)
        batch = Batch(entering, input_ids, types, ordered)
        known = scores_before(self, batch, teach=follow_teacher or self.training)

        packing, hidden = entering, embed(self.bert, entering, input_ids, types, ordered)
        origin = torch.arange(packing.rows, device=input_ids.device)  # where each token lay in the first packed row
        positions = packing.positions
        trace, students = Trace(kept_counts), iter(self.students)
        layers = zip(layers_of(self.bert), self.pruning.scorers, packings, strict=True)
        for index, (layer, scorer, kept) in enumerate(layers):
            drops, context = kept is not packing, None
            scores = entering.unpad(known[index]).index_select(0, origin) if index in known else None
            if scorer is not None and scorer.reads == "attention" and drops:
                context, scores = attend(layer, hidden, packing, scorer.function)
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
            hidden = run_layer(layer, hidden, packing) if context is None else feed_forward(layer, context, hidden)

        logits = classify(self, hidden, packing)
        output = trace.output(None if labels is None else task_loss(logits, labels), logits, self.training)
        return output if return_dict else output.to_tuple()
