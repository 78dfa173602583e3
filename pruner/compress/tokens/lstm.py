"""The LSTM classifier that drops words before it reads."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import TrainerCallback

from pruner.compress.tokens.model import PrunedModel
from pruner.compress.tokens.outputs import PrunedOutput, Trace
from pruner.compress.tokens.scores import scores_before
from pruner.compress.tokens.select import keep_counts, select_tokens
from pruner.compress.tokens.teachers import Batch
from pruner.data.vocabulary import PADDING
from pruner.models.lstm import LstmConfig, LstmForSequenceClassification, one_below_another
from pruner.models.packing import pack


class PrunedLstmConfig(LstmConfig):
    """``LstmConfig`` with a schedule."""

    model_type = "pruned_lstm"

    @classmethod
    def get_config_dict(cls, *args, **kwargs) -> tuple[dict, dict]:
        """Read a config, a plain model's too."""
        config, kwargs = super().get_config_dict(*args, **kwargs)
        known = config.get("model_type") == LstmConfig.model_type
        return config | ({"model_type": cls.model_type} if known else {}), kwargs


class PrunedLstmForSequenceClassification(PrunedModel, LstmForSequenceClassification):
    """``LstmForSequenceClassification`` that reads the kept words only; see ``set_pruning``."""

    config_class = PrunedLstmConfig
    plain_class, scored_size = LstmForSequenceClassification, "embedding_size"
    ramp_rate: float | None = None  # takes the place of the rate while training
    _word_scores: tuple[tuple, Tensor] | None = None

    def forward(
        self,
        input_ids: Tensor,
        second_ids: Tensor | None = None,
        labels: Tensor | None = None,
        lengths: Sequence[int] | None = None,
        second_lengths: Sequence[int] | None = None,
        return_dict: bool = True,
        follow_teacher: bool | None = None,
    ) -> PrunedOutput | tuple:
        """Classify sentences, or pairs of them.

        Args:
            input_ids, second_ids, labels, lengths, second_lengths: as for the parent.
            follow_teacher: choose by the scores of the student's teacher, not by its own. Default: while training.
        """
        ids, seqlens = one_below_another(input_ids, second_ids, lengths, second_lengths)
        follow_teacher = self.training if follow_teacher is None else follow_teacher
        rate, scorer = self.pruning.schedule[0], self.pruning.scorers[0]
        if self.training and self.ramp_rate is not None:
            rate = self.ramp_rate
        kept_counts = keep_counts(seqlens, [rate], self.pruning.count, self.pruning.padded_length)
        packing, kept = pack([seqlens, *kept_counts], ids.device)
        drops, trace = kept is not packing, Trace(kept_counts, [packing.positions])

        scores = scores_before(self, Batch(packing, ids), teach=follow_teacher or self.training).get(0)
        if scorer is not None and scorer.reads == "hidden":
            if scores is not None:  # the teacher's
                own = self.students[0](self.embedding(ids))
                trace.distil(own, scores, packing)
                scores = scores if follow_teacher else own
            elif drops:
                scores = self.word_scores()[ids] if scorer.learned else scorer.function(self.embedding(ids))

        if drops:
            assert scores is not None  # where words are dropped there is a scorer
            scores = scores.detach()
            trace.score_sums.append(scores.masked_fill(~packing.real, 0).float().sum())
            indices = select_tokens(scores.masked_fill(~packing.real, float("-inf")), kept)
            trace.token_positions = [packing.positions.index_select(0, indices)]
            ids = kept.pad(packing.unpad(ids).index_select(0, indices), PADDING)
        logits = self.classify(self.last_states(ids, kept.seqlens), pairs=second_ids is not None)

        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        output = trace.output(loss, logits, self.training)
        return output if return_dict else output.to_tuple()

    @torch.no_grad()
    def word_scores(self) -> Tensor:
        """Return the student's score of every word [vocabulary].

        The student reads the embedding, which knows no context: what it says is a property of the word. So the scores
        are computed once, until a weight changes or evaluation begins anew.
        """
        weights = [self.embedding.weight, *self.students.parameters()]
        state = tuple((w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights)
        if self._word_scores is None or self._word_scores[0] != state:
            self._word_scores = (state, self.students[0](self.embedding.weight).float())
        return self._word_scores[1]

    def train(self, mode: bool = True) -> "PrunedLstmForSequenceClassification":
        self._word_scores = None
        return super().train(mode)


class RateRamp(TrainerCallback):
    """Lets the rate grow linearly from a start to its target at the last optimizer step, as published."""

    def __init__(self, model: Any, start: float) -> None:
        self.model, self.start = model, start

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        share = state.global_step / max(1, state.max_steps - 1)
        self.model.ramp_rate = self.start + (self.model.pruning.schedule[0] - self.start) * min(1.0, share)
