"""BERT for sequence classification and regression whose encoder drops token vectors between layers.

It extends the public classes of ``transformers``; any BERT checkpoint loads:

    model = PrunedBertForSequenceClassification.from_pretrained("bert", num_labels=2, dtype=torch.float32)
    model.set_pruning([0.6] + [0] * 11, methods="student", teacher="emission")
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from pruner.compress.tokens import scores as scorers
from pruner.compress.tokens import teachers
from pruner.compress.tokens.outputs import PrunedOutput
from pruner.compress.tokens.schedule import Pruning, check_schedule, make_pruning
from pruner.compress.tokens.select import keep_counts, select_tokens
from pruner.compress.tokens.student import Student, distillation_loss
from pruner.models.bert_layers import attend, classify, embed, feed_forward, layers_of, run_layer, task_loss
from pruner.models.packing import Packing, pack, real_lengths
from pruner.utils.errors import SettingError, UserError

# A pipeline says of other names, in an error, that it does not support them. There is no such key among the configs.
MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES["pruned_bert"] = "PrunedBertForSequenceClassification"


class PrunedBertForSequenceClassification(BertForSequenceClassification):
    """``BertForSequenceClassification`` that drops tokens before the layers of its schedule; see ``set_pruning``.

    Without a schedule it computes what its parent does. The schedule, the methods and the students are saved by
    ``save_pretrained`` and come back with ``from_pretrained``.
    """

    # The loss is a mean over the batch: Trainer then divides it by the accumulation steps.
    accepts_loss_kwargs = False
    token_counts: Tensor | None  # [vocabulary], of the method "frequency"

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
            methods: a name of ``pruner.compress.tokens.schedule.METHODS``, or one per layer.
            teacher: whom students imitate, ``emission`` or ``gradient``.
            token_counts: [vocabulary] occurrences in the training set; needed by ``frequency``.
            options: ``count``, ``padded_length``, ``seed``, ``student_widths`` of ``compress.tokens.schedule.Pruning``.

        Students of layers that had one of the same size stay as they are; new ones are untrained.

        Returns:
            the model itself.

        Raises:
            UserError: a schedule of the wrong length or with an impossible rate, an unknown method or option.
        """
        pruning = make_pruning(schedule, methods, self.config.num_hidden_layers, teacher, **options)
        if "frequency" in pruning.methods:
            if token_counts is None:
                raise UserError("token_counts: the method 'frequency' needs the training set's word-piece counts")
            if token_counts.shape != (self.config.vocab_size,):
                raise UserError(
                    f"token_counts: {token_counts.numel()} counts for a vocabulary of {self.config.vocab_size}"
                )
        self._apply_pruning(pruning, token_counts)
        return self

    def set_schedule(self, schedule: Sequence[float]) -> "PrunedBertForSequenceClassification":
        """Other rates for the layers that are pruned, by one method; the students of those that remain stay.

        Raises:
            UserError: an impossible schedule, or one that prunes at a layer which has no student.
        """
        pruning = self.pruning.with_schedule(check_schedule(schedule, self.config.num_hidden_layers))
        students = dict(zip(self.pruning.student_layers, self.students, strict=True))
        for layer in pruning.student_layers:
            if layer not in students:
                raise SettingError(
                    "pruning_schedule", f"layer {layer} has no student; train the model with a rate there"
                )
        self.students = nn.ModuleList(students[layer] for layer in pruning.student_layers)
        self.pruning, self.config.pruning = pruning, pruning.to_dict()
        return self

    def _apply_pruning(self, pruning: Pruning, token_counts: Tensor | None = None) -> None:
        like = self.classifier.weight
        wanted, have = pruning.student_layers, self.pruning.student_layers
        if wanted != have or pruning.student_widths != self.pruning.student_widths:
            students = [Student(self.config.hidden_size, pruning.student_widths) for _ in wanted]
            self.students = nn.ModuleList(students).to(like.device, like.dtype).train(self.training)
        counts = None
        if "frequency" in pruning.methods:
            counts = torch.zeros(self.config.vocab_size, dtype=torch.int64, device=like.device)
            if token_counts is not None:
                counts.copy_(token_counts)
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
        return twin.to(like.device, like.dtype).eval()  # type: ignore[arg-type]  # its ``to`` is not seen as a method

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        lengths: Sequence[int] | None = None,
        follow_teacher: bool | None = None,
        student_tokens: Sequence[int] | None = None,
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
            student_tokens: ``count_student_tokens`` of the batch that these sentences are a part of, if they are:
                ``student_loss`` is then what they add to that of the batch.
        """
        if output_attentions or output_hidden_states:
            raise ValueError("output_attentions, output_hidden_states: tokens leave on the way; see token_positions")
        if lengths is None:
            lengths = real_lengths(attention_mask, *input_ids.shape)
        lengths = list(lengths)
        follow_teacher = self.training if follow_teacher is None else follow_teacher
        # Padding that no sentence of this batch needs goes first.
        input_ids = input_ids[:, : max(lengths)]
        types, ordered = (None if x is None else x[:, : max(lengths)] for x in (token_type_ids, position_ids))
        inputs = input_ids, types, ordered

        layer_counts = self._layer_counts(lengths)
        # On a CPU, oneDNN compiles a kernel for every new number of rows unless they are in float32.
        half = self.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
        round_up = half and input_ids.device.type == "cpu"
        packing, *packings = pack([lengths, *layer_counts], input_ids.device, round_up)
        known = self._scores_before(packing, inputs, follow_teacher)

        hidden = embed(self.bert, packing, *inputs)
        origin = torch.arange(packing.rows, device=input_ids.device)  # where each token lay in the first packed row
        positions = packing.positions
        student_losses: list[Tensor] = []
        token_positions, student_scores, student_counts, score_sums = [], [], [], []
        students = iter(self.students)
        for index, layer in enumerate(layers_of(self.bert)):
            method, kept = self.pruning.methods[index], packings[index]
            scores, context = None, None
            if index in known:
                scores = known[index].index_select(0, origin)
            if method == "attention" and kept is not packing:
                context, scores = attend(layer, hidden, packing, score=True)
            elif method == "student":
                student = next(students)
                if scores is not None:  # the teacher's
                    own = student(hidden)
                    pair = packing.pad(own), packing.pad(scores)
                    number = student_tokens[len(student_losses)] if student_tokens else None
                    student_losses.append(distillation_loss(*pair, packing.real, number))
                    student_scores.append((pair[0].detach(), pair[1]))
                    student_counts.append(packing.counts)
                    scores = scores if follow_teacher else own
                elif kept is not packing:
                    scores = student(hidden)
            if kept is not packing:
                assert scores is not None  # every layer that is pruned has a method
                score_sums.append(scores.detach().float().sum())
                by_sentence = packing.pad(scores.detach(), float("-inf"))
                by_sentence[:, 0] = float("inf")  # [CLS] always stays
                places = select_tokens(by_sentence, kept)
                hidden, origin = hidden.index_select(0, places), origin.index_select(0, places)
                positions = positions.index_select(0, places)
                context = None if context is None else context.index_select(0, places)
                packing = kept
            token_positions.append(positions[: packing.tokens])
            hidden = run_layer(layer, hidden, packing) if context is None else feed_forward(layer, context, hidden)

        logits = classify(self, hidden, packing)
        loss = None if labels is None else task_loss(logits, labels)
        student_loss = torch.stack(student_losses).mean() if student_losses else None
        if loss is not None and student_loss is not None:
            loss = loss + student_loss
        output = PrunedOutput(loss=loss, logits=logits).tell(
            student_loss=student_loss,
            student_scores=student_scores or None,
            student_counts=student_counts or None,
            token_positions=token_positions,
            token_counts=layer_counts,
            score_sum=torch.stack(score_sums).sum() if score_sums else None,
        )
        return output if return_dict else output.to_tuple()

    def _layer_counts(self, lengths: Sequence[int]) -> list[list[int]]:
        return keep_counts(lengths, self.pruning.schedule, self.pruning.count, self.pruning.padded_length)

    def count_student_tokens(self, lengths: Sequence[int], **_) -> list[int]:
        """The tokens that each student scores of a batch, given as to ``forward``."""
        entering = [list(lengths), *self._layer_counts(lengths)]
        return [sum(entering[layer]) for layer in self.pruning.student_layers]

    def _scores_before(self, packing: Packing, inputs: teachers.Inputs, follow_teacher: bool) -> dict[int, Tensor]:
        """Scores [T] that are known before the pruned pass, by layer: the controls' and the teachers'."""
        teacher = self.pruning.teacher if follow_teacher or self.training else None
        wanted: dict[str, list[int]] = {}
        for layer, method in enumerate(self.pruning.methods):
            asked = teacher if method == "student" else method
            if asked and asked != "attention":
                wanted.setdefault(asked, []).append(layer)
        found: dict[int, Tensor] = {}
        for method, layers in wanted.items():
            if method == "emission":
                by_layer = teachers.emission(self, packing, inputs)
            elif method == "gradient":
                by_layer = teachers.gradient(self, packing, inputs, min(layers))
            elif method == "random":
                seed = self.pruning.seed * 1000
                by_layer = {i: scorers.random_scores(inputs[0], packing.real, seed + i) for i in layers}
            else:
                by_layer = dict.fromkeys(layers, scorers.fixed_scores(method, inputs[0], self.token_counts))
            found.update({layer: packing.unpad(by_layer[layer]) for layer in layers})
        return found
