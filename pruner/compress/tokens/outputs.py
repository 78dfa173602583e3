"""What the pruned models answer."""

from dataclasses import dataclass

from torch import Tensor
from transformers.modeling_outputs import SequenceClassifierOutput


@dataclass
class PrunedOutput(SequenceClassifierOutput):
    """Loss and logits, and with ``output_tokens`` what became of the tokens and their importance scores.

    ``loss`` is the task's loss plus, while students are being distilled, ``student_loss``.

    ``token_positions[l]`` are the positions in their sentences of the tokens that layer ``l`` computed, sentence after
    sentence; ``token_counts[l]`` says how many belong to each: ``token_positions[l].split(token_counts[l])``.
    ``student_scores`` has a pair for each layer with a student, if its teacher was run: the student's scores and the
    teacher's, [B, L] each, of the tokens that enter the layer; ``student_counts`` says how many of each row are real.
    ``score_sum`` is finite if all scores were by which tokens were chosen.

    An LSTM has one layer, and one row per sentence: 2 B of pairs, all first sentences before all second ones.
    """

    student_loss: Tensor | None = None
    student_scores: list[tuple[Tensor, Tensor]] | None = None
    student_counts: list[list[int]] | None = None
    token_positions: list[Tensor] | None = None
    token_counts: list[list[int]] | None = None
    score_sum: Tensor | None = None
