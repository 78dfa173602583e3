"""An LSTM classifier of words. A pair of sentences is classified by the difference of their two last states."""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from pruner.data.vocabulary import PADDING, UNKNOWN
from pruner.models.packing import to_device
from pruner.models.recurrence import last_states

# Of words before training. With PyTorch's own 1, what rare words can learn is lost in the noise they start from.
EMBEDDING_STD = 0.1
# On a CPU, sentences are read in chunks, sorted by length and padded to their longest: oneDNN reads padded batches
# about twice as fast as PyTorch's own loop reads packed ones. Small chunks leave little padding, but each call has a
# price: a chunk has at least so many sentences and, where these are short, so many words. (Training: ``recurrence``.)
CHUNK_SENTENCES, CHUNK_WORDS = 64, 1024


@strict
class LstmConfig(PretrainedConfig):
    """Sizes of the model, as published by default."""

    model_type = "lstm"
    vocab_size: int = 65_000
    embedding_size: int = 300
    hidden_size: int = 300
    num_layers: int = 1
    head_size: int = 256


class LstmForSequenceClassification(PreTrainedModel):
    """Embedding, LSTM, classifier on the state after the last word; words have ids above 0.

    What a sentence gets depends neither on its batch mates nor on padding, on whichever side. A sentence may be empty:
    its state is zero.
    """

    config_class = LstmConfig
    accepts_loss_kwargs = False  # the loss is a mean over the batch

    def __init__(self, config: LstmConfig) -> None:
        super().__init__(config)
        hidden, head = config.hidden_size, config.head_size
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=PADDING)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_STD)
        with torch.no_grad():  # unknown words say nothing, unless training learns that they do
            self.embedding.weight[: UNKNOWN + 1] = 0
        sizes = [config.embedding_size] + [hidden] * (config.num_layers - 1)
        self.lstm = nn.ModuleList(nn.LSTM(size, hidden, batch_first=True) for size in sizes)
        labels: int = config.num_labels  # type: ignore[assignment]  # None is of configs without labels
        self.classifier = nn.Sequential(nn.Linear(hidden, head), nn.ReLU(), nn.Linear(head, labels))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Leave the modules as PyTorch makes them: BERT's initialisation is not for an LSTM."""

    def forward(
        self,
        input_ids: Tensor,
        second_ids: Tensor | None = None,
        labels: Tensor | None = None,
        lengths: Sequence[int] | None = None,
        second_lengths: Sequence[int] | None = None,
        return_dict: bool = True,
    ) -> SequenceClassifierOutput | tuple:
        """Classify sentences, or pairs of them.

        Args:
            input_ids: [B, L] words, 0 where there is none.
            second_ids: [B, M] the second sentences of pairs.
            labels: [B] class numbers.
            lengths, second_lengths: B numbers of words known on the host; they promise that padding is on the right.
                Without them the device is waited for, and padding may be anywhere.
        """
        ids, all_lengths = one_below_another(input_ids, second_ids, lengths, second_lengths)
        logits = self.classify(self.last_states(ids, all_lengths), pairs=second_ids is not None)
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        output = SequenceClassifierOutput(loss=loss, logits=logits)
        return output if return_dict else output.to_tuple()

    def classify(self, states: Tensor, pairs: bool) -> Tensor:
        """Classify last states [S, hidden] -> [B, labels]; of ``pairs``, the second half are the second sentences'."""
        return self.classifier(torch.sub(*states.chunk(2)) if pairs else states)

    def last_states(self, ids: Tensor, lengths: Sequence[int]) -> Tensor:
        """Read sentences [S, L], the words on the left -> the last layer's states after the last word, [S, hidden]"""
        states, order, device = [], [], ids.device
        learns = torch.is_grad_enabled() and not reads_packed(device)
        for rows, width in self.chunks(lengths, device, at_once=learns):
            chunk, chunk_lengths = ids[to_device(rows, device), :width], [lengths[row] for row in rows]
            states.append(self._learn(chunk, chunk_lengths) if learns else self._read(chunk, chunk_lengths))
            order += rows
        empty = [row for row, length in enumerate(lengths) if length == 0]
        states.append(self.embedding.weight.new_zeros(len(empty), self.config.hidden_size))
        places = sorted(range(len(lengths)), key=(order + empty).__getitem__)
        return torch.cat(states).index_select(0, to_device(places, device))

    def _learn(self, ids: Tensor, lengths: Sequence[int]) -> Tensor:
        return last_states(self.embedding, cast("list[nn.LSTM]", list(self.lstm)), ids, lengths)

    def _read(self, ids: Tensor, lengths: Sequence[int]) -> Tensor:
        x = self.embedding(ids)
        if reads_packed(ids.device):
            x = pack_padded_sequence(x, torch.tensor(lengths), batch_first=True)
        for lstm in self.lstm:
            x, (last, _) = lstm(x)
        # Nothing flows back from padding that follows.
        return last[0] if reads_packed(ids.device) else x[torch.arange(len(ids)), torch.tensor(lengths) - 1]

    def chunks(
        self, lengths: Sequence[int], device: torch.device, at_once: bool = False
    ) -> Iterator[tuple[list[int], int]]:
        """Chunk rows that are not empty, the longest first, into what is read at once, each with its longest length."""
        order = sorted((row for row, length in enumerate(lengths) if length), key=lambda row: -lengths[row])
        while order:
            width = lengths[order[0]]
            all_rows = at_once or reads_packed(device)
            size = len(order) if all_rows else max(CHUNK_SENTENCES, CHUNK_WORDS // width)
            yield order[:size], width
            order = order[size:]


def one_below_another(
    input_ids: Tensor, second_ids: Tensor | None, lengths: Sequence[int] | None, second_lengths: Sequence[int] | None
) -> tuple[Tensor, list[int]]:
    """Stack first and second sentences, the words on the left -> ids [S, longest] and S lengths."""
    parts = [input_ids] if second_ids is None else [input_ids, second_ids]
    width = max(ids.shape[1] for ids in parts)
    ids = torch.cat([F.pad(ids, (0, width - ids.shape[1])) for ids in parts])
    if lengths is None or (second_ids is not None and second_lengths is None):
        real = ids != PADDING
        ids = ids.gather(1, real.int().sort(dim=1, descending=True, stable=True).indices)
        seqlens = real.sum(dim=1).tolist()
    else:
        seqlens = [*lengths, *(second_lengths or ())]
    return ids[:, : max(seqlens)], seqlens


def reads_packed(device: torch.device) -> bool:
    """Whether cuDNN reads: it takes packed batches without waste."""
    return device.type == "cuda"
