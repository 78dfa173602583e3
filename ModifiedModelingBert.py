"""BERT for sequence classification and regression whose encoder drops token vectors between layers.

It extends the public classes of ``transformers``; any BERT checkpoint loads:

    model = PrunedBertForSequenceClassification.from_pretrained("bert", num_labels=2, dtype=torch.float32)
    model.set_pruning([0.6] + [0] * 11, methods="student", teacher="emission")
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import SequenceClassifierOutput

from pruner import scores as scorers
from pruner import teachers
from pruner.errors import UserError
from pruner.schedule import Pruning, make_pruning
from pruner.select import gather_tokens, keep_counts, real_mask, select_tokens, to_device
from pruner.student import Student, distillation_loss


@dataclass
class PrunedOutput(SequenceClassifierOutput):
    """``loss`` is the task's loss plus, while students are being distilled, ``student_loss``.

    ``student_scores`` has a pair for each layer of method ``student``, if the teacher was asked: the student's scores
    and the teacher's, [B, L] each, of the tokens that enter the layer; ``student_counts`` says how many of each row
    are real.
    ``token_positions[l]`` [B, K_l] are the positions in the input of the tokens that layer ``l`` computed, and
    ``token_counts[l][b]`` says how many of row ``b`` are real; what follows them in the row is filling.
    """

    student_loss: Tensor | None = None
    student_scores: list[tuple[Tensor, Tensor]] | None = None
    student_counts: list[list[int]] | None = None
    token_positions: list[Tensor] | None = None
    token_counts: list[list[int]] | None = None


def real_lengths(attention_mask: Tensor | None, batch: int, width: int) -> list[int]:
    """Real tokens of each sentence, read from the mask [B, L]: one wait for the device, saved by ``lengths=``."""
    if attention_mask is None:
        return [width] * batch
    counts = attention_mask.bool().sum(dim=1)
    if not torch.equal(attention_mask.bool(), real_mask(counts, width)) or not bool((counts > 0).all()):
        raise ValueError("attention_mask: each row must be its real tokens, at least one, and then its padding")
    return counts.tolist()


class PrunedBertForSequenceClassification(BertForSequenceClassification):
    """``BertForSequenceClassification`` that drops tokens before the layers of its schedule; see ``set_pruning``.

    Without a schedule it computes what its parent does. The schedule, the methods and the students are saved by
    ``save_pretrained`` and come back with ``from_pretrained``.
    """

    # The loss is a mean over the batch: Trainer then divides it by the accumulation steps.
    accepts_loss_kwargs = False

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.pruning = Pruning.none(config.num_hidden_layers)
        self.students = nn.ModuleList()  # one per layer of method "student", in order
        saved = getattr(config, "pruning", None)
        if saved is not None:
            self._apply_pruning(Pruning.from_dict(saved))
        self.post_init()

    def set_pruning(
        self,
        schedule: Sequence[float],
        methods: str | Sequence[str | None] = "student",
        teacher: str | None = "emission",
        token_counts: Tensor | None = None,
        **options,
    ) -> "PrunedBertForSequenceClassification":
        """Set the schedule: one rate per layer, each the share of the real tokens dropped before that layer.

        Args:
            schedule: one rate per layer, ``0 <= rate < 1``.
            methods: a name of ``pruner.schedule.METHODS``, or one per layer.
            teacher: whom students imitate, ``emission`` or ``gradient``.
            token_counts: [vocabulary] occurrences in the training set; needed by ``frequency``.
            options: ``count``, ``padded_length``, ``seed``, ``student_widths`` of ``pruner.schedule.Pruning``.

        Students of layers that had one of the same size stay as they are; new ones are untrained.

        Returns:
            the model itself.

        Raises:
            UserError: a schedule of the wrong length or with an impossible rate, an unknown method or option.
        """
        layers, hidden = self.config.num_hidden_layers, self.config.hidden_size
        options.setdefault("student_widths", (hidden, hidden))
        pruning = make_pruning(schedule, methods, layers, teacher, **options)
        if "frequency" in pruning.methods:
            if token_counts is None:
                raise UserError("token_counts: the method 'frequency' needs the training set's word-piece counts")
            if token_counts.shape != (self.config.vocab_size,):
                raise UserError(
                    f"token_counts: {token_counts.numel()} counts for a vocabulary of {self.config.vocab_size}"
                )
        self._apply_pruning(pruning)
        if "frequency" in pruning.methods:
            self.token_counts.copy_(token_counts)
        return self

    def _apply_pruning(self, pruning: Pruning) -> None:
        like = self.classifier.weight
        wanted = [method == "student" for method in pruning.methods]
        have = [method == "student" for method in self.pruning.methods]
        if wanted != have or pruning.student_widths != self.pruning.student_widths:
            students = [Student(self.config.hidden_size, pruning.student_widths) for _ in range(sum(wanted))]
            self.students = nn.ModuleList(students).to(like.device, like.dtype).train(self.training)
        counts = None
        if "frequency" in pruning.methods:
            counts = torch.zeros(self.config.vocab_size, dtype=torch.int64, device=like.device)
        self.register_buffer("token_counts", counts)
        self.pruning = pruning
        self.config.pruning = pruning.to_dict()

    def unpruned_twin(self) -> BertForSequenceClassification:
        """The baseline of this model: the stock class with SDPA attention and the same weights."""
        config = copy.deepcopy(self.config)
        config._attn_implementation = "sdpa"
        twin = BertForSequenceClassification(config)
        weights = {name: w for name, w in self.state_dict().items() if name.startswith(("bert.", "classifier."))}
        twin.load_state_dict(weights)
        like = self.classifier.weight
        return twin.to(like.device, like.dtype).eval()

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
        if lengths is None:
            lengths = real_lengths(attention_mask, *input_ids.shape)
        lengths = list(lengths)
        follow_teacher = self.training if follow_teacher is None else follow_teacher
        # Padding that no sentence of this batch needs goes first.
        width = max(lengths)
        inputs = [None if x is None else x[:, :width] for x in (input_ids, token_type_ids, position_ids)]

        layer_counts = keep_counts(lengths, self.pruning.schedule, self.pruning.count, self.pruning.padded_length)
        on_device = to_device([lengths, *layer_counts], input_ids.device)
        scores = self._scores_before(inputs, lengths, on_device[0], follow_teacher)

        hidden = self.bert.embeddings(*inputs)
        counts, real = lengths, real_mask(on_device[0], width)
        mask = self._layer_mask(hidden, real, counts)
        positions = torch.arange(width, device=input_ids.device).expand(len(lengths), -1)
        token_positions, student_losses, student_scores, student_counts = [], [], [], []
        students = iter(self.students)
        for index, layer in enumerate(self.bert.encoder.layer):
            method, keep = self.pruning.methods[index], layer_counts[index]
            token_scores = scores.get(index)
            if token_scores is not None:
                token_scores = token_scores.gather(1, positions)
            if method == "student":
                student = next(students)
                if token_scores is not None:  # the teacher's
                    own = student(hidden)
                    student_losses.append(distillation_loss(own, token_scores, real))
                    student_scores.append((own.detach(), token_scores))
                    student_counts.append(counts)
                    token_scores = token_scores if follow_teacher else own
                elif keep != counts:
                    token_scores = student(hidden)
            if keep != counts:
                token_scores = scorers.mask_padding(token_scores.detach(), real)
                token_scores[:, 0] = float("inf")  # [CLS] always stays
                chosen = select_tokens(token_scores, keep, on_device[index + 1])
                hidden, positions = gather_tokens(hidden, chosen), gather_tokens(positions, chosen)
                counts, real = keep, real_mask(on_device[index + 1], hidden.shape[1])
                mask = self._layer_mask(hidden, real, counts)
            token_positions.append(positions)
            hidden = layer(hidden, mask)

        logits = self.classifier(self.dropout(self.bert.pooler(hidden)))
        loss = None
        if labels is not None and self.num_labels == 1:
            loss = F.mse_loss(logits.squeeze(-1).float(), labels.float())
        elif labels is not None:
            loss = F.cross_entropy(logits.float(), labels)
        student_loss = torch.stack(student_losses).mean() if student_losses else None
        if loss is not None and student_loss is not None:
            loss = loss + student_loss
        output = PrunedOutput(
            loss=loss,
            logits=logits,
            student_loss=student_loss,
            student_scores=student_scores or None,
            student_counts=student_counts or None,
            token_positions=token_positions,
            token_counts=layer_counts,
        )
        return output if return_dict else output.to_tuple()

    def _layer_mask(self, hidden: Tensor, real: Tensor, counts: list[int]) -> Tensor | None:
        """What a layer expects as mask, under any attention implementation; ``None`` where nothing is padded."""
        if min(counts) == hidden.shape[1]:
            return None
        # Without the skip: it looks for padding on the device and waits for the answer, which is known here.
        return create_bidirectional_mask(self.config, hidden, real, allow_is_bidirectional_skip=False)

    def _scores_before(
        self, inputs: list, lengths: list[int], counts: Tensor, follow_teacher: bool
    ) -> dict[int, Tensor]:
        """Scores [B, L] that are known before the pruned pass, by layer: the controls' and the teachers'."""
        input_ids, real = inputs[0], real_mask(counts, inputs[0].shape[1])
        teacher = self.pruning.teacher if follow_teacher or self.training else None
        wanted: dict[str, list[int]] = {}
        for layer, method in enumerate(self.pruning.methods):
            asked = teacher if method == "student" else method
            if asked:
                wanted.setdefault(asked, []).append(layer)
        make_mask = partial(self._layer_mask, counts=lengths)
        found: dict[int, Tensor] = {}
        for method, layers in wanted.items():
            if method == "emission":
                by_layer = teachers.emission(self, inputs, counts, make_mask)
            elif method == "gradient":
                by_layer = teachers.gradient(self, inputs, counts, make_mask, min(layers))
            elif method == "random":
                by_layer = {i: scorers.random_scores(input_ids, real, self.pruning.seed * 1000 + i) for i in layers}
            else:
                by_layer = dict.fromkeys(layers, scorers.fixed_scores(method, input_ids, self.token_counts))
            found.update({layer: by_layer[layer] for layer in layers})
        return found
