"""An LSTM classifier that drops words before its first step. A pair is classified by the difference of two states."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence
from transformers import PretrainedConfig, PreTrainedModel

from pruner.compress.tokens import scores as scorers
from pruner.compress.tokens.outputs import PrunedOutput
from pruner.compress.tokens.schedule import Pruning
from pruner.compress.tokens.select import keep_counts, select_tokens
from pruner.compress.tokens.student import Student, distillation_loss
from pruner.data.vocabulary import PADDING, UNKNOWN
from pruner.models.packing import left_align, pack, real_mask, to_device, to_width

# Of words before training. With PyTorch's own 1, what rare words can learn is lost in the noise they start from.
EMBEDDING_STD = 0.1
# On a CPU, sentences are read in chunks, sorted by length and padded to their longest: oneDNN reads padded batches
# about twice as fast as PyTorch's own loop reads packed ones. Small chunks leave little padding, but each call has a
# price: a chunk has at least so many sentences and, where these are short, so many words.
CHUNK_SENTENCES, CHUNK_WORDS = 64, 1024


class PrunedLstmConfig(PretrainedConfig):
    """Sizes of the model, as published by default. ``pruning`` is a ``schedule.Pruning`` as a dict."""

    model_type = "pruned_lstm"

    def __init__(
        self,
        vocab_size: int = 65_000,
        embedding_size: int = 300,
        hidden_size: int = 300,
        num_layers: int = 1,
        head_size: int = 256,
        pruning: dict | None = None,
        **kwargs,
    ) -> None:
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.head_size = head_size
        self.pruning = pruning
        super().__init__(**kwargs)


class PrunedLstmForSequenceClassification(PreTrainedModel):
    """Embedding, pruner, LSTM, classifier on the state after the last kept word; words have ids above 0.

    What a sentence gets depends neither on its batch mates nor on padding, on whichever side. A sentence may be empty:
    its state is zero.
    """

    config_class = PrunedLstmConfig
    accepts_loss_kwargs = False  # the loss is a mean over the batch
    token_counts: Tensor | None  # [vocabulary], of the method "frequency"

    def __init__(self, config: PrunedLstmConfig) -> None:
        super().__init__(config)
        self.pruning = Pruning.from_dict(config.pruning) if config.pruning else Pruning.none(1)
        self.ramp_rate: float | None = None  # takes the place of the rate while training; see RateRamp
        hidden = config.hidden_size
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=PADDING)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_STD)
        with torch.no_grad():  # unknown words say nothing, unless training learns that they do
            self.embedding.weight[: UNKNOWN + 1] = 0
        sizes = [config.embedding_size] + [hidden] * (config.num_layers - 1)
        self.lstm = nn.ModuleList(nn.LSTM(size, hidden, batch_first=True) for size in sizes)
        labels: int = config.num_labels  # type: ignore[assignment]  # None is of configs without labels
        self.classifier = nn.Sequential(
            nn.Linear(hidden, config.head_size), nn.ReLU(), nn.Linear(config.head_size, labels)
        )
        # Last, so that the rest starts from the same weights with and without it.
        wanted = "student" in self.pruning.methods
        self.students = nn.ModuleList([Student(config.embedding_size, self.pruning.student_widths)] if wanted else [])
        counted = "frequency" in self.pruning.methods
        self.register_buffer("token_counts", torch.zeros(config.vocab_size, dtype=torch.int64) if counted else None)
        self._word_scores: tuple[tuple, Tensor] | None = None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Leave the modules as PyTorch makes them: BERT's initialisation is not for an LSTM."""

    def unpruned_twin(self) -> "PrunedLstmForSequenceClassification":
        """The baseline of this model: the same weights, reading every word."""
        config = PrunedLstmConfig.from_dict(self.config.to_dict() | {"pruning": None})
        twin = type(self)(config)
        kept = {name: w for name, w in self.state_dict().items() if not name.startswith(("students.", "token_counts"))}
        twin.load_state_dict(kept)
        like = self.embedding.weight
        return twin.to(like.device, like.dtype).eval()  # type: ignore[arg-type]  # its ``to`` is not seen as a method

    def forward(
        self,
        input_ids: Tensor,
        second_ids: Tensor | None = None,
        labels: Tensor | None = None,
        lengths: Sequence[int] | None = None,
        second_lengths: Sequence[int] | None = None,
        follow_teacher: bool | None = None,
        student_tokens: Sequence[int] | None = None,
        return_dict: bool = True,
    ) -> PrunedOutput | tuple:
        """Classify sentences, or pairs of them.

        Args:
            input_ids: [B, L] words, 0 where there is none.
            second_ids: [B, M] the second sentences of pairs.
            labels: [B] class numbers.
            lengths, second_lengths: B numbers of words known on the host; they promise that padding is on the right.
                Without them they are read from the ids, and padding may be anywhere.
            follow_teacher: the student's words are chosen by the teacher's scores (as in training) or by its own.
                Default: the teacher's while training.
            student_tokens: ``count_student_tokens`` of the batch that these sentences are a part of, if they are:
                ``student_loss`` is then what they add to that of the batch.
        """
        parts = [left_align(input_ids, lengths, PADDING)]
        if second_ids is not None:
            parts.append(left_align(second_ids, second_lengths, PADDING))
        lengths = [length for _, each in parts for length in each]
        width = max(lengths)
        ids = torch.cat([to_width(part, width) for part, _ in parts])

        follow_teacher = self.training if follow_teacher is None else follow_teacher
        rate = self.pruning.schedule[0]
        if self.training and self.ramp_rate is not None:
            rate = self.ramp_rate
        method, counting = self.pruning.methods[0], (self.pruning.count, self.pruning.padded_length)
        keep = keep_counts(lengths, [rate], *counting)[0]
        packing, kept = pack([lengths, keep], ids.device)
        real = packing.real

        scores, teacher, pair = None, None, None  # the last: the student's scores and the teacher's
        if method == "gate" or (method == "student" and (follow_teacher or self.training)):
            scores = teacher = self.gate_scores(ids, lengths)
        if method == "student" and teacher is not None:
            own = self.students[0](self.embedding(ids))
            pair, scores = (own, teacher), teacher if follow_teacher else own
        elif method and method != "gate" and keep != lengths:
            scores = self._own_scores(method, ids, real)

        positions, score_sum = packing.positions, None
        if kept is not packing:
            assert scores is not None  # where words are dropped there is a method
            score_sum = scores.detach().masked_fill(~real, 0).float().sum()
            places = select_tokens(scorers.mask_padding(scores.detach(), real), kept)
            positions = positions.index_select(0, places)
            ids = kept.pad(packing.unpad(ids).index_select(0, places), PADDING)
        states = self.last_states(ids, keep)
        if len(parts) == 2:
            first, second = states.chunk(2)
            states = first - second
        logits = self.classifier(states)

        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        student_loss = None
        if pair is not None:
            student_loss = distillation_loss(*pair, real, student_tokens[0] if student_tokens else None)
            loss = None if loss is None else loss + student_loss
        output = PrunedOutput(loss=loss, logits=logits).tell(
            student_loss=student_loss,
            student_scores=None if pair is None else [(pair[0].detach(), pair[1])],
            student_counts=None if pair is None else [lengths],
            token_positions=[positions],
            token_counts=[keep],
            score_sum=score_sum,
        )
        return output if return_dict else output.to_tuple()

    def count_student_tokens(self, lengths: Sequence[int], second_lengths: Sequence[int] = (), **_) -> list[int]:
        """The words that the student scores of a batch, given as to ``forward``."""
        return [sum(lengths) + sum(second_lengths)]

    def _own_scores(self, method: str, ids: Tensor, real: Tensor) -> Tensor:
        """Scores [S, L] that need no teacher."""
        if method == "student":
            return self.word_scores()[ids]
        if method == "random":
            return scorers.random_scores(ids, real, self.pruning.seed * 1000)
        return scorers.fixed_scores(method, ids, self.token_counts)

    @torch.no_grad()
    def word_scores(self) -> Tensor:
        """The student's score of every word [vocabulary].

        The student reads the embedding, which knows no context: what it says is a property of the word. So the scores
        are computed once for the vocabulary and then looked up, until a weight changes or evaluation begins anew.
        """
        weights = [self.embedding.weight, *self.students.parameters()]
        state = tuple((w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights)
        if self._word_scores is None or self._word_scores[0] != state:
            self._word_scores = (state, self.students[0](self.embedding.weight).float())
        return self._word_scores[1]

    def train(self, mode: bool = True) -> "PrunedLstmForSequenceClassification":
        self._word_scores = None
        return super().train(mode)

    @torch.no_grad()
    def gate_scores(self, ids: Tensor, lengths: Sequence[int]) -> Tensor:
        """The teacher: the input gate of the first layer at each word, averaged over its width, in an unpruned pass.

        ``ids`` [S, L], the words on the left, and S ``lengths`` -> [S, L], 0 at padding.
        """
        lstm, hidden = self.lstm[0], self.config.hidden_size
        names = ("weight_ih_l0", "bias_ih_l0", "weight_hh_l0", "bias_hh_l0")  # the input gate's rows come first
        w_words, b_words, w_state, b_state = (lstm.get_parameter(name)[:hidden] for name in names)
        gates = torch.zeros(ids.shape, device=ids.device)
        for rows, width in self._chunks(lengths, ids.device):
            at = to_device(rows, ids.device)
            words = self.embedding(ids[at, :width])
            states = lstm(words)[0]
            before = F.pad(states[:, :-1], (0, 0, 1, 0))  # the state that each word meets
            gate = F.linear(words, w_words, b_words) + F.linear(before, w_state, b_state)
            gates[at, :width] = gate.float().sigmoid().mean(dim=-1)
        return gates.masked_fill(~real_mask(to_device(lengths, ids.device), ids.shape[1]), 0)

    def last_states(self, ids: Tensor, lengths: Sequence[int]) -> Tensor:
        """The last layer's state after the last word: ``ids`` [S, L] and S ``lengths`` -> [S, hidden]."""
        device = ids.device
        states, order = [], []
        for rows, width in self._chunks(lengths, device):
            counts = [lengths[row] for row in rows]
            x = self.embedding(ids[to_device(rows, device), :width])
            if reads_packed(device):
                x = pack_padded_sequence(x, torch.tensor(counts), batch_first=True)
            for lstm in self.lstm:
                x, (last, _) = lstm(x)
            # Nothing flows back from padding that follows.
            states.append(last[0] if reads_packed(device) else x[torch.arange(len(rows)), torch.tensor(counts) - 1])
            order += rows
        empty = [row for row, length in enumerate(lengths) if length == 0]
        states.append(self.embedding.weight.new_zeros(len(empty), self.config.hidden_size))
        places = sorted(range(len(lengths)), key=(order + empty).__getitem__)
        return torch.cat(states).index_select(0, to_device(places, device))

    def _chunks(self, lengths: Sequence[int], device: torch.device) -> Iterator[tuple[list[int], int]]:
        """Rows that are not empty, the longest first, in chunks that are read at once, each with its longest length."""
        order = sorted((row for row, length in enumerate(lengths) if length), key=lambda row: -lengths[row])
        while order:
            width = lengths[order[0]]
            size = len(order) if reads_packed(device) else max(CHUNK_SENTENCES, CHUNK_WORDS // width)
            yield order[:size], width
            order = order[size:]


def reads_packed(device: torch.device) -> bool:
    """cuDNN reads packed batches without waste; a CPU is faster with chunks of similar length."""
    return device.type == "cuda"
