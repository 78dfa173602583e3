"""An LSTM layer on packed words with its own way back, for training on a CPU (Hochreiter and Schmidhuber 1997).

The words lie time by time, as in PyTorch's ``PackedSequence``: the first of all sentences, the longest first, then the
second of those that have one. So every product has as many rows as sentences are still read, and none is of padding.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
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
        doubled = w_input.new_tensor([1.0, 1.0, 2.0, 1.0]).repeat_interleave(lstm.hidden_size)  # see ``Recurrence``
        said = F.linear(x, w_input * doubled[:, None], (b_input + b_state) * doubled)
        said = said if number else F.embedding(occurrences, said)
        x = Recurrence.apply(said, w_state * doubled[:, None], batch_sizes)
    starts = list(accumulate(batch_sizes, initial=0))
    return x.index_select(0, torch.tensor([starts[length - 1] + row for row, length in enumerate(lengths)]))


class Recurrence(torch.autograd.Function):
    """States of an LSTM layer from what the words say to its gates: input, forget, cell and output, as in PyTorch.

    One call makes sigmoids of all four: the cell's tanh(x) is 2 sigmoid(2 x) - 1, and its x comes doubled.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx: Any, words: Tensor, weight: Tensor, batch_sizes: list[int]) -> Tensor:
        """Read ``words`` [T, 4 H], biases included, with recurrent weights [4 H, H] -> states after each word, [T, H]

        ``batch_sizes`` are the numbers of sentences that are read at each time, ever fewer.
        """
        size = weight.shape[1]
        gates, news, cells, tanhs, states = (words.new_empty(len(words), n) for n in (4 * size, *[size] * 4))
        times = [x.split(batch_sizes) for x in (words, gates, *by_gate(gates), news, cells, tanhs, states)]
        minus_one, transposed = words.new_tensor(-1.0), weight.t()
        cell = state = None
        for said, gate, i, f, g, o, new, now, tanh, after in zip(*times, strict=True):
            if state is None:
                gate.copy_(said)
            else:
                torch.addmm(said, state[: len(said)], transposed, out=gate)
            gate.sigmoid_()
            torch.add(minus_one, g, alpha=2, out=new)
            torch.mul(i, new, out=now)
            if cell is not None:
                now.addcmul_(f, cell[: len(said)])
            torch.tanh(now, out=tanh)
            torch.mul(o, tanh, out=after)
            cell, state = now, after
        ctx.save_for_backward(weight, gates, news, cells, tanhs, states)
        ctx.batch_sizes = batch_sizes
        return states

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, d_states: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        weight, gates, news, cells, tanhs, states = ctx.saved_tensors
        batch_sizes, zero = ctx.batch_sizes, gates.new_zeros(())
        d_gates, d_sigmoids, d_states = torch.empty_like(gates), torch.empty_like(gates), d_states.clone()
        wholes = (gates, *by_gate(gates), news, tanhs, d_gates, d_sigmoids, *by_gate(d_sigmoids), d_states)
        times = [x.split(batch_sizes) for x in wholes]
        befores = [None, *cells.split(batch_sizes)[:-1]]
        d_cell = d_after = None
        for before, *now in reversed(list(zip(befores, *times, strict=True))):
            gate, i, f, _, o, new, tanh, d_gate, d_sigmoid, d_i, d_f, d_g, d_o, d_state = now
            if d_after is not None:  # of the sentences that are read on
                d_state[: len(d_after)].addmm_(d_after, weight)
            d_now = torch.ops.aten.tanh_backward(d_state * o, tanh)
            if d_cell is not None:
                d_now[: len(d_cell)] += d_cell
            torch.mul(d_now, new, out=d_i)
            if before is None:
                d_f.zero_()  # there was nothing to forget
            else:
                torch.mul(d_now, before[: len(d_now)], out=d_f)
            torch.addcmul(zero, d_now, i, value=2, out=d_g)
            torch.mul(d_state, tanh, out=d_o)
            torch.ops.aten.sigmoid_backward(d_sigmoid, gate, grad_input=d_gate)
            d_cell, d_after = d_now * f, d_gate
        # The state that each word but the first has met.
        met = [state[:size] for state, size in zip(states.split(batch_sizes), batch_sizes[1:], strict=False)]
        return d_gates, d_gates[batch_sizes[0] :].t() @ torch.cat([*met, states[:0]]), None


def by_gate(gates: Tensor) -> tuple[Tensor, ...]:
    """[T, 4 H] -> [T, H] of input, forget, cell and output"""
    return gates.unflatten(1, (4, -1)).unbind(1)
