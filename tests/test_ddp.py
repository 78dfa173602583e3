"""Two processes compute the steps of one: uneven shares, an empty one, parts, parameters that a step leaves out.

Run as a script, this file is those two processes: they train a tiny model in each of the ways in ``SETTINGS``.
"""

import copy
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback

from pruner.compress.tokens.outputs import PrunedOutput
from pruner.data.cache import Split
from pruner.data.collate import BertCollator, SplitDataset
from pruner.training.train import train
from pruner.training.trainer import TrainSettings
from pruner.utils.distributed import join

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows cannot fork")
ROWS, SPECIAL = 25, 7  # the last batch of 8 is one row: one of the two processes has none
SETTINGS = {
    "whole": TrainSettings(epochs=33, batch_size=8, learning_rate=1e-2),  # two steps are logged together
    "uneven": TrainSettings(epochs=2, batch_size=7, learning_rate=1e-2),
    "parts": TrainSettings(epochs=2, batch_size=8, learning_rate=1e-2, accumulation_steps=3),
}


class Tiny(nn.Module):
    """Mean embeddings, classified; a student on the detached embeddings; parameters used sometimes, and never."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 4)
        self.classifier = nn.Linear(4, 3)
        self.students = nn.ModuleList([nn.Linear(4, 1)])
        self.special, self.unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))

    def forward(self, input_ids, attention_mask, token_type_ids, labels, lengths):
        embeddings = self.embedding(input_ids) * attention_mask[:, :, None]
        size = torch.tensor(lengths)[:, None]
        logits = self.classifier(embeddings.sum(dim=1) / size)
        special = input_ids[:, :1] == SPECIAL
        if special.any():
            logits = logits + special * self.special
        errors = (self.students[0](embeddings.detach()).squeeze(-1) - input_ids / 20).square() * attention_mask
        student_loss = (errors.sum(dim=1) / size[:, 0]).mean()  # of each sentence, then over sentences
        loss = nn.functional.cross_entropy(logits, labels) + student_loss
        counts, score_sum = [[length // 2 for length in lengths]], errors.detach().sum()  # as if half were pruned
        return PrunedOutput(loss, logits, student_loss=student_loss, token_counts=counts, score_sum=score_sum)


class Watch(TrainerCallback):
    """Keeps the gradients of each step, and how they came together."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.gradients, self.synchronised, self.logged, self.wrapped = model, [], [], [], set()
        self.hook = nn.modules.module.register_module_forward_pre_hook(self.before_forward)

    def before_forward(self, module, _):
        if isinstance(module, DistributedDataParallel) and module.module is self.model:
            self.synchronised.append(module.require_backward_grad_sync)
            self.wrapped.add(module)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        parameters = self.model.named_parameters()
        self.gradients.append({name: None if x.grad is None else x.grad.clone() for name, x in parameters})

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logged.append(dict(logs))


def make_data() -> SplitDataset:
    generator = np.random.default_rng(0)
    lengths = generator.integers(2, 9, ROWS)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = generator.integers(8, 20, offsets[-1]).astype(np.int32)
    tokens[offsets[[3, 11]]] = SPECIAL
    labels = generator.integers(0, 3, ROWS)
    split = Split(tokens, offsets, (lengths // 2).astype(np.int32), labels)
    return SplitDataset(split, generator.standard_normal((ROWS, 3)).astype(np.float32))


def step_sizes(settings: TrainSettings) -> list[int]:
    """The number of sentences in each step."""
    size = settings.batch_size
    return [min(size, ROWS - first) for first in range(0, ROWS, size)] * int(settings.epochs)


def fit(settings: TrainSettings) -> dict:
    """Train a tiny model; return what is compared."""
    transformers.set_seed(1)
    model = Tiny()
    watch = Watch(model)
    reduced, real = [], torch.distributed.all_reduce

    def all_reduce(tensor, *args, **kwargs):
        reduced.append(tensor.numel())
        return real(tensor, *args, **kwargs)

    torch.distributed.all_reduce = all_reduce
    try:
        with tempfile.TemporaryDirectory() as folder:
            places = Path(folder), BertCollator(True)
            curve = train(model, make_data(), settings, 1, *places, "linear", [watch], {"students.": 3e-3})
    finally:
        torch.distributed.all_reduce = real
        watch.hook.remove()
    kept = ("loss", "student_loss", "retained_tokens")
    return {
        "curve": curve,
        "logged": [{key: logs[key] for key in kept if key in logs} for logs in watch.logged],
        "gradients": watch.gradients,
        "weights": copy.deepcopy(model.state_dict()),
        "synchronised": watch.synchronised,
        "buckets": [module._get_ddp_logging_data()["bucket_sizes"] for module in watch.wrapped],
        "reduced": reduced,
    }


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """The results of each of the two processes."""
    folder = tmp_path_factory.mktemp("ddp")
    command = [sys.executable, __file__, str(folder)]
    root = str(Path(__file__).resolve().parent.parent)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": root}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert finished.returncode == 0, finished.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        return {name: fit(settings) for name, settings in SETTINGS.items()}


@pytest.mark.parametrize("name", SETTINGS)
def test_gradients_losses_and_weights_are_those_of_one_process(processes, alone, name):
    one = alone[name]
    assert len(one["gradients"]) == len(step_sizes(SETTINGS[name]))
    for run in processes:
        for gradients, expected in zip(run[name]["gradients"], one["gradients"], strict=True):
            for parameter, gradient in expected.items():
                other = gradients[parameter]
                assert (gradient is None) == (other is None), parameter
                assert gradient is None or torch.allclose(gradient, other, atol=1e-6), parameter
        for parameter, weight in one["weights"].items():
            assert torch.allclose(weight, run[name]["weights"][parameter], atol=1e-5), parameter
        assert [entry["step"] for entry in run[name]["curve"]] == [entry["step"] for entry in one["curve"]]
        for logs, expected in zip(run[name]["logged"], one["logged"], strict=True):
            assert logs == pytest.approx(expected, abs=1e-5)
    assert all(torch.equal(w, processes[1][name]["weights"][key]) for key, w in processes[0][name]["weights"].items())


@pytest.mark.parametrize("name", SETTINGS)
def test_a_parameter_that_a_step_leaves_out_has_no_gradient(processes, alone, name):
    """None rather than 0, by which Adam would go on moving it; also where another process or part has one."""
    for run in (alone, *processes):
        gradients = run[name]["gradients"]
        assert all(step["unused"] is None for step in gradients)
        assert len(gradients) / 4 <= sum(step["special"] is not None for step in gradients) <= len(gradients) / 2
        assert torch.equal(run[name]["weights"]["unused"], torch.ones(3))


@pytest.mark.parametrize("name", SETTINGS)
def test_gradients_are_averaged_by_ddp_in_the_last_part_of_each_step(processes, name):
    settings, sizes = SETTINGS[name], step_sizes(SETTINGS[name])
    for rank, run in enumerate(processes):
        shares = [size * (rank + 1) // 2 - size * rank // 2 for size in sizes]
        parts = [min(settings.accumulation_steps, max(1, share)) for share in shares]
        assert run[name]["synchronised"] == [part == number - 1 for number in parts for part in range(number)]
        # By DDP, in buckets of many parameters; by hand only the five numbers that are logged.
        assert set(run[name]["reduced"]) == {5}
        assert len(run[name]["reduced"]) == len(sizes)
        assert [len(str(buckets).split(",")) for buckets in run[name]["buckets"]] == [1]
        assert (0 in shares) == (rank == 0 and sizes[-1] == 1)


def work(rank: int, folder: str) -> None:
    places = {"MASTER_ADDR": "127.0.0.1", "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2}
    os.environ.update({name: str(value) for name, value in places.items()})
    join()
    torch.save({name: fit(settings) for name, settings in SETTINGS.items()}, Path(folder) / f"{rank}.pt")


if __name__ == "__main__":
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ["MASTER_PORT"] = str(free.getsockname()[1])
    # Forked, so that the libraries are imported once.
    multiprocessing.start_processes(work, (sys.argv[1],), nprocs=2, start_method="fork")
