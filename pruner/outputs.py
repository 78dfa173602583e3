"""What the pruned models answer."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.modeling_outputs import SequenceClassifierOutput


class _Told:
    """Attributes that are no fields of ``PrunedOutput``: those would be entries always."""

    student_loss: Tensor | None = None
    student_scores: list[tuple[Tensor, Tensor]] | None = None
    student_counts: list[list[int]] | None = None
    token_positions: list[Tensor]
    token_counts: list[list[int]]
    score_sum: Tensor | None = None


@dataclass
class PrunedOutput(_Told, SequenceClassifierOutput):
    """``loss`` is the task's loss plus, while students are being distilled, ``student_loss``.

    ``token_positions[l]`` are the positions in their sentences of the tokens that layer ``l`` computed, sentence after
    sentence; ``token_counts[l]`` says how many belong to each: ``token_positions[l].split(token_counts[l])``.
    ``student_scores`` has a pair for each layer of method ``student``, if the teacher was asked: the student's scores
    and the teacher's, [B, L] each, of the tokens that enter the layer; ``student_counts`` says how many of each row
    are real. ``score_sum`` is a finite number if all scores were, by which tokens were chosen.

    An LSTM has one layer, and one row per sentence: 2 B of pairs, all first sentences before all second ones.
    """

    def tell(self, **found: Any) -> "PrunedOutput":
        """Add what is told beside loss and logits.

        It is an entry with a loss only: Accelerate hands on nothing else in mixed precision, while pipelines cut every
        entry into the rows of a batch.
        """
        for name, value in found.items():
            if self.loss is None or value is None:
                setattr(self, name, value)
            else:
                self[name] = value
        return self
