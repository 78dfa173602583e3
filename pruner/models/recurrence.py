"""An LSTM layer on packed words with its own way back, for training on a CPU (Hochreiter and Schmidhuber 1997).

The words lie time by time, as in PyTorch's ``PackedSequence``: the first of all sentences, the longest first, then the
second of those that have one. So every product has as many rows as sentences are still read, and none is of padding.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence


def last_states(embedding: nn.Embedding, layers: Iterable[nn.LSTM], ids: Tensor, lengths: Sequence[int]) -> Tensor:
    """Read sentences [S, L], the longest first -> the last layer's states after their last words, [S, H]

    What a word says to the gates of the first layer depends on nothing else: it is computed once for each that occurs.
    """
    packed = pack_padded_sequence(ids, torch.tensor(lengths), batch_first=True)
    batch_sizes = packed.batch_sizes.tolist()
    words, occurrences = packed.data.unique(return_inverse=True)
    x = embedding(words)
    for number, lstm in enumerate(layers):
        w_input, w_state, b_input, b_state = lstm.all_weights[0]
        said = F.linear(x, w_input, b_input + b_state)
        x = Recurrence.apply(said if number else F.embedding(occurrences, said), w_state, batch_sizes)
    starts = list(accumulate(batch_sizes, initial=0))
    return x.index_select(0, torch.tensor([starts[length - 1] + row for row, length in enumerate(lengths)]))


class Recurrence(torch.autograd.Function):
    """States of an LSTM layer from what the words say to its gates.

    Gates are in PyTorch's order: input, forget, cell, output.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx: Any, words: Tensor, weight: Tensor, batch_sizes: list[int]) -> Tensor:
        """Read ``words`` [T, 4 H], biases included, with recurrent weights [4 H, H] -> states after each word, [T, H]

        ``batch_sizes`` are the numbers of sentences that are read at each time, ever fewer.
        """
        size = weight.shape[1]
        gates, cells, tanhs, states = (words.new_empty(len(words), n) for n in (4 * size, size, size, size))
        transposed, before = weight.t(), None
        for start, end in pairwise(accumulate(batch_sizes, initial=0)):
            number, now = end - start, slice(start, end)
            if before is None:
                gates[now] = words[now]
            else:
                torch.addmm(words[now], states[before][:number], transposed, out=gates[now])
            gates[now, : 2 * size].sigmoid_()
            gates[now, 2 * size : 3 * size].tanh_()
            gates[now, 3 * size :].sigmoid_()
            i, f, g, o = gates[now].split(size, dim=1)
            torch.mul(i, g, out=cells[now])
            if before is not None:
                cells[now].addcmul_(f, cells[before][:number])
            torch.tanh(cells[now], out=tanhs[now])
            torch.mul(o, tanhs[now], out=states[now])
            before = now
        ctx.save_for_backward(weight, gates, cells, tanhs, states)
        ctx.batch_sizes = batch_sizes
        return states

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, d_states: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        weight, gates, cells, tanhs, states = ctx.saved_tensors
        size, starts = weight.shape[1], list(accumulate(ctx.batch_sizes, initial=0))
        d_gates, d_states = torch.empty_like(gates), d_states.clone()
        d_cell = d_after = None
        for step in reversed(range(len(ctx.batch_sizes))):
            now = slice(starts[step], starts[step + 1])
            i, f, g, o = gates[now].split(size, dim=1)
            d_i, d_f, d_g, d_o = d_gates[now].split(size, dim=1)
            d_state, tanh = d_states[now], tanhs[now]
            if d_after is not None:  # of the sentences that are read on
                d_state[: len(d_after)].addmm_(d_after, weight)
            torch.ops.aten.sigmoid_backward(d_state * tanh, o, grad_input=d_o)
            d_new = torch.ops.aten.tanh_backward(d_state * o, tanh)
            if d_cell is not None:
                d_new[: len(d_cell)] += d_cell
            torch.ops.aten.sigmoid_backward(d_new * g, i, grad_input=d_i)
            torch.ops.aten.tanh_backward(d_new * i, g, grad_input=d_g)
            if step:
                before = cells[starts[step - 1] :][: now.stop - now.start]
                torch.ops.aten.sigmoid_backward(d_new * before, f, grad_input=d_f)
            else:
                d_f.zero_()  # there was nothing to forget
            d_cell, d_after = d_new * f, d_gates[now]
        # The state that each word but the first has met.
        met = [states[start : start + number] for start, number in zip(starts, ctx.batch_sizes[1:], strict=False)]
        d_weight = d_gates[starts[1] :].t() @ torch.cat([*met, states[:0]])
        return d_gates, d_weight, None
