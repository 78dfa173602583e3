"""What the pruned models answer."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import SequenceClassifierOutput

from pruner.compress.tokens.student import distillation_loss
from pruner.models.packing import Packing


@dataclass
class PrunedOutput(SequenceClassifierOutput):
    """Loss and logits, and what became of the tokens and their importance scores.

    All that follows are attributes, and while training entries as well: DDP and mixed precision hand on entries alone,
    but pipelines cut every entry into rows, and ``Trainer.predict`` collects them.

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


@dataclass
class Trace:
    """Collects in a pass, layer by layer, what ``PrunedOutput`` says of the tokens."""

    token_counts: list[list[int]]
    token_positions: list[Tensor] = field(default_factory=list)
    score_sums: list[Tensor] = field(default_factory=list)
    student_losses: list[Tensor] = field(default_factory=list)
    student_scores: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    student_counts: list[list[int]] = field(default_factory=list)

    def distil(self, student: Tensor, teacher: Tensor, packing: Packing) -> None:
        """Add a student's loss, whose scores are to be its teacher's, [B, L] each."""
        self.student_losses.append(distillation_loss(student, teacher, packing.real))
        self.student_scores.append((student.detach(), teacher))
        self.student_counts.append(packing.seqlens)

    def output(
        self, loss: Tensor | None, logits: Tensor, training: bool, hidden_states: tuple[Tensor, ...] | None = None
    ) -> PrunedOutput:
        """Make the output, the students' loss added to the task's ``loss``."""
        student_loss = torch.stack(self.student_losses).mean() if self.student_losses else None
        if loss is not None and student_loss is not None:
            loss = loss + student_loss
        told: dict[str, Any] = {
            "student_loss": student_loss,
            "student_scores": self.student_scores or None,
            "student_counts": self.student_counts or None,
            "token_positions": self.token_positions,
            "token_counts": self.token_counts,
            "score_sum": torch.stack(self.score_sums).sum() if self.score_sums else None,
        }
        output = PrunedOutput(loss=loss, logits=logits, hidden_states=hidden_states, **(told if training else {}))
        vars(output).update(told)  # attributes in any case; setattr would make entries of them
        return output
