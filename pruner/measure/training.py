"""Timings of fine-tuning: as the run scripts do it, and as stock ``Trainer`` does, in one process by turns."""

import argparse
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset
from transformers import (
    BertForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from pruner.data.cache import Split, read_cache
from pruner.data.collate import BertCollator, SplitDataset
from pruner.data.task import TASKS
from pruner.data.tokenizer import BertTokenizer, bert_folder, load_tokenizer
from pruner.models.packed_bert import packed
from pruner.models.pretrained import load_model
from pruner.training.embedding import used_words
from pruner.training.train import make_trainer
from pruner.training.trainer import TrainSettings
from pruner.utils.errors import SettingError
from pruner.utils.progress import Progress

OURS = "packed"
# The steps that are timed of each way to train. ``Trainer`` sorts 50 batches by length where it groups them.
STEPS = {"stock, padded": 16, "stock, grouped by length": 50, OURS: 16}
SAMPLING = {"stock, padded": "random", "stock, grouped by length": "group_by_length"}  # as transformers calls it
SEED = 1


class Sentences(Dataset):
    """The rows of a training set as users of ``Trainer`` have them."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, row: int) -> dict:
        assert self.split.labels is not None  # of a training set
        ids, second = self.split.sentence(row).tolist(), int(self.split.second[row])
        types = [0] * second + [1] * (len(ids) - second)
        return {"input_ids": ids, "token_type_ids": types, "labels": self.split.labels[row].item()}


class Timer(TrainerCallback):
    """Times steps, from the end of one to the end of the next, and then ends the training."""

    def __init__(self, steps: int) -> None:
        self.steps, self.ends = steps, list[float]()

    def on_step_end(self, args, state, control, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        control.should_training_stop = len(self.ends) > self.steps

    def seconds(self) -> np.ndarray:
        """Return those of each step but the first, in which the optimizer makes its state."""
        return np.diff(self.ends)


def stock_trainer(
    model: BertForSequenceClassification, split: Split, settings: TrainSettings, folder: str, sampling: str
) -> Trainer:
    """Make ``transformers.Trainer`` with its own defaults but for the published settings."""
    arguments = TrainingArguments(
        output_dir=folder,
        use_cpu=not torch.cuda.is_available(),
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        bf16=settings.dtype == "bfloat16",
        train_sampling_strategy=sampling,
        save_strategy="no",
        disable_tqdm=True,
        seed=SEED,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # not DataParallel
    trainer = Trainer(model, arguments, train_dataset=Sentences(split))
    trainer.remove_callback(PrinterCallback)
    return trainer


@contextmanager
def prepared(
    way: str, plain: BertForSequenceClassification, split: Split, settings: TrainSettings, tokenizer: BertTokenizer
) -> Iterator[tuple[Trainer, list[int]]]:
    """Make a training of a copy of the model, and a list that will hold the tokens of each batch, as computed."""
    model, computed = copy.deepcopy(plain), list[int]()

    def counting(collate: Callable, count: Callable[[dict], int]) -> Callable:
        def collate_and_count(sentences: Sequence[dict]) -> dict:
            batch = collate(sentences)
            computed.append(count(batch))
            return batch

        return collate_and_count

    with TemporaryDirectory() as folder:
        if way == OURS:
            with used_words(model, split.tokens):
                collate = counting(BertCollator(with_lengths=True), lambda batch: sum(batch["lengths"]))
                data = SplitDataset(split)
                yield make_trainer(packed(model), data, settings, SEED, Path(folder), collate), computed
        else:
            trainer = stock_trainer(model, split, settings, folder, SAMPLING[way])
            trainer.data_collator = counting(DataCollatorWithPadding(tokenizer.stock), lambda x: x["input_ids"].numel())
            yield trainer, computed


def measure_training(args: argparse.Namespace, device: str) -> list[dict]:
    """Time fine-tunings: a row for each dtype, task, batch size and way to train."""
    if not args.task or args.random:
        raise SettingError("training", "real sentences with labels are trained on; use --weights and --task")
    if "float16" in args.dtypes:
        raise SettingError("dtypes", "nothing is trained in float16 where there is bfloat16; use float32 or bfloat16")
    for name in ("pruning_methods", "pruning_schedule", "student_widths"):
        if name in args.given:
            raise SettingError(name, "the trainings that are timed prune nothing; leave it out")
    if device.startswith("cuda") != torch.cuda.is_available():
        raise SettingError("device", "a training is on the GPU where there is one; leave it out")
    tokenizer = load_tokenizer(bert_folder(args.weights), max_length=128)
    cells = [(dtype, name, size) for dtype in args.dtypes for name in args.task for size in args.batch_sizes]
    progress, rows = Progress(total=len(cells) * (args.repeats + 1) * len(STEPS), unit="training"), []
    for dtype, name, batch_size in cells:
        cache = read_cache(Path(args.cache), name, "bert", tokenizer.fingerprint, "PrepareGlue4Bert.py")
        plain = load_model(BertForSequenceClassification, args.weights, TASKS[name])
        settings, split = TrainSettings(batch_size=batch_size, dtype=dtype), cache.splits["train"]
        seconds: dict[str, list[np.ndarray]] = {way: [] for way in STEPS}
        tokens = {}
        for repeat in range(args.repeats + 1):  # the first warms up
            for way in list(STEPS)[:: (1, -1)[repeat % 2]]:
                steps = min(STEPS[way], len(split) // batch_size - 1)
                with prepared(way, plain, split, settings, tokenizer) as (trainer, computed):
                    timer = Timer(steps)
                    trainer.add_callback(timer)
                    trainer.train()
                seconds[way].append(timer.seconds())
                tokens[way] = float(np.mean(computed[1 : steps + 1]))
                progress.update()
        # The batches are the same in each repetition: by step, so that an interruption spoils one number of many.
        ms = {way: float(np.median(times[1:], axis=0).mean() * 1000) for way, times in seconds.items()}
        for way in STEPS:
            rows.append(
                {
                    "data": name,
                    "training": way,
                    "dtype": dtype,
                    "batch_size": batch_size,
                    "device": device,
                    "repeats": args.repeats,
                    "steps": len(seconds[way][0]),  # a small training set has fewer than ``STEPS``
                    "tokens_per_step": round(tokens[way], 1),
                    "ms_per_step": round(ms[way], 2),
                    "minutes": round(settings.epochs * len(split) / batch_size * ms[way] / 60_000, 2),
                    "speedup": round(ms["stock, padded"] / ms[way], 4),
                }
            )
    progress.close()
    return rows


def training_table(rows: Sequence[dict]) -> pd.DataFrame:
    """Format the rows of a result, for a terminal or a README."""
    return pd.DataFrame(
        {
            "dtype": row["dtype"],
            "data": row["data"],
            "batch": row["batch_size"],
            "training": row["training"],
            "tokens per step": f"{row['tokens_per_step']:.0f}",
            "ms per step": f"{row['ms_per_step']:.0f}",
            "3 epochs": f"{row['minutes']:.1f} min",
            "speed-up": f"{row['speedup']:.2f}x",
        }
        for row in rows
    )
