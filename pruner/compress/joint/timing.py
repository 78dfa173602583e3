"""Measures the times of a BERT's parts on this machine, once for a size and dtype, and keeps them.

After the latency tables of structured pruning (ZipLM, Kurtic et al. 2023, arXiv 2302.04089), and by tokens too.
"""

import copy
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.joint.times import Times, tokens_by_layer
from pruner.compress.structure.shrink import Structure, shrink
from pruner.compress.tokens.budget import LARGEST_RATE
from pruner.compress.tokens.schedule import make_pruning
from pruner.data.collate import BertCollator, make_batch, random_rows, sorted_rows
from pruner.evaluation.latency import measure_latency, seconds, spread_evenly
from pruner.models.flops import BertShape
from pruner.utils.environment import cpu_name
from pruner.utils.errors import UserError
from pruner.utils.files import read_json, write_whole
from pruner.utils.progress import Progress

REPEATS = 7  # interleaved timings of all models for a length; the median counts
SPREAD = 0.1  # by which sentences of a batch are shorter and longer than the length that they stand for
APART = 0.75  # of the longest length is the one before it at most
SHARES = (0.25, 0.5, 0.75, 1.0)  # of heads and of neurons that are timed, beside one head and no feed-forward
LEAVING = 1.2  # tokens that leave a sentence before each layer, rounded down, where it is timed how long that takes

COLLATES = BertCollator(with_lengths=False), BertCollator(with_lengths=True)  # of stock, of this project's models

Models = dict[tuple[str, int], Any]  # by their kind, and their heads or neurons
Took = dict[tuple[str, int], float]  # their milliseconds


def known_times(
    folder: Path | None, dense: Any, batch_size: int, dtype: torch.dtype, longest: int, say: Callable[[str], None]
) -> Times:
    """Return the times of a BERT classifier's parts on its device: those kept in ``folder``, or measured now.

    Args:
        longest: tokens of the longest sentence that they are to serve.
    """
    machine = describe_machine(dense, batch_size, dtype)
    path = folder and folder / file_name(machine)
    if path:
        with suppress(UserError, TypeError):  # what is not such a table is measured anew
            times = Times(**read_json(path, missing_ok=True))
            if times.machine == machine and times.lengths[-1] >= longest:
                return times
    say(f"measuring how long layers take: {machine['hardware']}, {machine['dtype']}, batches of {batch_size}")
    times = measure_times(dense, machine, dtype, longest)
    if path:
        write_whole(path, (json.dumps(asdict(times), indent=1) + "\n").encode())
        say(f"-> {path}")
    return times


class Beside:
    """Times models beside the stock one on random words, in batches of sentences of some ``lengths``, sorted by them.

    With ``most_batches`` so many of them are used, spread evenly, as a run's latencies are measured.
    """

    def __init__(
        self, dense: Any, lengths: Sequence[int], batch_size: int, dtype: torch.dtype, most_batches: int | None
    ) -> None:
        self.split = random_rows(lengths, dense.config.vocab_size, np.random.default_rng(0))
        batches = sorted_rows(self.split, batch_size)
        self.batches = [self.split.lengths[batches[index]] for index in spread_evenly(len(batches), most_batches)]
        self.dense, self.how = dense, (batch_size, COLLATES, dtype, REPEATS, most_batches)

    def __call__(self, model: Any) -> dict:
        """Return what ``measure_latency`` does."""
        return measure_latency(self.dense, model, self.split, *self.how)


def describe_machine(dense: Any, batch_size: int, dtype: torch.dtype) -> dict[str, Any]:
    """Name what times depend on beside tokens, heads, neurons and layers."""
    config, on_gpu = dense.config, dense.device.type == "cuda"
    return {
        "hardware": torch.cuda.get_device_name(dense.device) if on_gpu else cpu_name() or "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": str(dtype).removeprefix("torch."),
        "batch_size": batch_size,
        "layers": config.num_hidden_layers,
        "hidden": config.hidden_size,
        "heads": config.num_attention_heads,
        "neurons": config.intermediate_size,
        "vocabulary": config.vocab_size,
    }


def file_name(machine: dict[str, Any]) -> str:
    hardware = "-".join("".join(c if c.isalnum() else " " for c in machine["hardware"].lower()).split())
    size, what = f"{machine['layers']}x{machine['hidden']}", f"{machine['dtype']}_batch-{machine['batch_size']}"
    return f"{hardware}_{machine['threads']}-threads_{size}_{what}.json"


@torch.no_grad()
def measure_times(dense: Any, machine: dict[str, Any], dtype: torch.dtype, longest: int) -> Times:
    """Time models of fewer heads, neurons and layers side by side on random words, and take their times apart.

    Layers are timed within models of as many as there are: alone, their weights would stay in the processor's cache.
    """
    heads, neurons = grid(machine["heads"], 1), grid(machine["neurons"], 0)
    lengths = [length for length in map(int, 2 ** np.arange(20)) if length <= APART * longest] + [longest]
    models = {name: model.to(dtype).eval() for name, model in make_parts(dense, heads, neurons).items()}
    batches = [random_batch(dense, machine["batch_size"], length) for length in lengths]
    depth = machine["layers"]
    schedules = [one_by_one(length, depth) for length in lengths]
    took = time_all(models, batches, schedules)
    ends = [end_of(one, heads, depth) for one in took]
    times = Times(
        machine,
        lengths,
        heads,
        neurons,
        ends=ends,
        attention=[[(one["heads", n] - end) / depth for n in heads] for one, end in zip(took, ends, strict=True)],
        feed_forward=[[max(0, one["neurons", n] - one["neurons", 0]) / depth for n in neurons] for one in took],
        choosing=[[0.0] * len(heads)] * len(lengths),
    )
    # Beside what leaves saves, models in which tokens leave take as long as choosing them does.
    choosing = list[list[float]]()
    for one, batch, schedule in zip(took, batches, schedules, strict=True):
        pruning = make_pruning(schedule, "attention", depth)
        tokens = tokens_by_layer(pruning, [batch["lengths"]])
        whole, drops = np.repeat(tokens[:1], depth + 1, axis=0), max(1, int((np.diff(tokens[:, 0]) < 0).sum()))
        shapes = [BertShape.of_model(models["choosing", n]) for n in heads]
        saved = [float((times.ms(shape, whole) - times.ms(shape, tokens))[0]) for shape in shapes]
        choosing.append([max(0, one["added", n] + ms) / drops for n, ms in zip(heads, saved, strict=True)])
    return replace(times, choosing=choosing)


def one_by_one(length: int, layers: int) -> list[float]:
    """Return a schedule by which about one token leaves each layer, until one is left."""
    return [min(LEAVING / max(length - layer, 1), LARGEST_RATE) for layer in range(layers)]


def grid(most: int, least: int) -> list[int]:
    return sorted({least, *(max(least, round(share * most)) for share in SHARES)})


def make_parts(dense: Any, heads: list[int], neurons: list[int]) -> Models:
    """Make the models that are timed, which share their embeddings; layers without a feed-forward tell attention's."""
    whole: Any = PrunedBertForSequenceClassification.from_unpruned(dense)
    layers = Structure.of(dense.config).layers

    def made(head: int, neuron: int, depth: int = len(layers)) -> Any:
        kept = layers[:depth], (tuple(range(head)),) * depth, (tuple(range(neuron)),) * depth
        model = shrink(copy.deepcopy(whole), Structure(*kept))
        model.bert.embeddings = whole.bert.embeddings
        return model

    models: Models = {("neurons", n): made(heads[-1], n) for n in neurons}
    for n in heads:
        models["one", n] = made(n, 0, depth=1)
        models["heads", n] = made(n, 0)
        models["choosing", n] = made(n, 0)
    return models


def random_batch(dense: Any, batch_size: int, length: int) -> dict[str, Any]:
    """Make a batch of random words, sentences a little longer and shorter than ``length``, the longest first."""
    config = dense.config
    factors = np.linspace(1 + SPREAD, 1 - SPREAD, batch_size) if batch_size > 1 else np.ones(1)
    lengths = np.clip(np.round(length * factors), 1, config.max_position_embeddings).astype(int)
    rows = random_rows(lengths, config.vocab_size, np.random.default_rng(0))
    return make_batch(rows, range(batch_size), COLLATES[1], dense.device)


def time_all(models: Models, batches: list[dict[str, Any]], schedules: list[list[float]]) -> list[Took]:
    """Time the models on each batch, all of it again and again; the first pass warms up.

    What a machine is slower in some seconds, it is so for all of them, and medians leave it out.
    """
    passes = list[list[Took]]()
    bar = Progress(total=(REPEATS + 1) * len(batches), desc="measuring times", unit="batch")
    for _ in range(REPEATS + 1):
        passes.append([])
        for batch, schedule in zip(batches, schedules, strict=True):
            took: Took = {}
            for (kind, n), model in models.items():
                if kind == "choosing":
                    model.set_pruning(schedule, "attention")
                took[kind, n] = 1000 * seconds(model, batch)
                if kind == "choosing":  # timed right behind the same model from which none leaves
                    took["added", n] = took[kind, n] - took["heads", n]
            passes[-1].append(took)
            bar.update()
    bar.close()
    of_batches = zip(*passes[1:], strict=True)
    return [{name: float(np.median([one[name] for one in same])) for name in same[0]} for same in of_batches]


def end_of(took: Took, heads: list[int], depth: int) -> float:
    """Return what is not in the layers: models with one layer take that and a layer, others that and all layers."""
    if depth == 1:
        return 0.0
    ends = [took["one", n] - (took["heads", n] - took["one", n]) / (depth - 1) for n in heads]
    return max(0.0, float(np.median(ends)))  # which is less than the noise where all takes hardly any time
