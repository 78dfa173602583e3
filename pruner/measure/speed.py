"""Timings of the pruned BERT and the unpruned one, on prepared tasks or on random sentences."""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import BertConfig

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.tokens.flops import pruned_flops
from pruner.compress.tokens.schedule import check_schedule, schedule_text
from pruner.compress.tokens.scores import scorer_names
from pruner.compress.tokens.select import keep_counts
from pruner.data.cache import Split, read_cache
from pruner.data.collate import BertCollator, random_rows
from pruner.data.task import TASKS
from pruner.data.tokenizer import bert_folder, load_tokenizer
from pruner.evaluation.latency import measure_latency
from pruner.experiments.settings import check_settings, start_run
from pruner.measure.kept import kept_table, measure_kept
from pruner.measure.precisions import PRECISIONS, in_precision
from pruner.measure.training import measure_training, training_table
from pruner.models.flops import BertShape, dense_flops
from pruner.models.pretrained import load_model
from pruner.report.tables import markdown
from pruner.utils.environment import environment
from pruner.utils.errors import SettingError, UserError, unknown
from pruner.utils.files import check_writable, write_whole
from pruner.utils.progress import Progress

MOST_BATCHES = 40  # that are timed of a task, spread evenly over its lengths
RANDOM_BATCHES = 4  # of random sentences
LARGEST_NUMBER = 100_000  # of a batch, a width, a repeat: beyond lies a slip
MOST_PARAMETERS = 10**10  # of a BERT of random weights


def sizes(text: str, separator: str) -> list[int]:
    """``"12x768"`` -> ``[12, 768]``; empty where these are not whole numbers from 1."""
    parts = text.split(separator)
    return list(map(int, parts)) if all(part.isdecimal() and 0 < int(part) <= LARGEST_NUMBER for part in parts) else []


def check_arguments(args: argparse.Namespace) -> str:
    """Return the device's name; raise a UserError if a setting has an impossible value, or two exclude each other."""
    check_settings(args)
    if bool(args.weights) == bool(args.random):
        raise UserError("weights, random: give one of them: --weights FOLDER, or --random 12x768 for random weights")
    if bool(args.task) == bool(args.lengths):
        raise UserError("task, lengths: give one of them: --task mrpc, or --lengths 16-112 for random sentences")
    if args.task and args.random:
        raise SettingError("task", "random weights have no vocabulary; use --weights, or --lengths")
    if args.kept and not args.weights:
        raise SettingError("kept", "a kept model is timed against the one that it was made of; give --weights too")
    if not args.pruning_methods:
        raise SettingError("pruning_methods", "the list is empty; leave it out for the usual ones")
    methods = ["none", *PRECISIONS, *scorer_names("bert")]
    for constant, kind, known in ("task", "task", [*TASKS]), ("pruning_methods", "method", methods):
        for name in getattr(args, constant) or ():
            if name not in known:
                raise SettingError(constant, unknown(kind, name, known))
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    place = re.fullmatch(r"cpu(:0)?|cuda(:(?P<index>0|[1-9]\d*))?", device)
    if not place:
        raise SettingError("device", f"{device!r} is neither cpu nor cuda; use one of them")
    if device.startswith("cuda") and int(place["index"] or 0) >= torch.cuda.device_count():
        raise SettingError("device", f"PyTorch sees {torch.cuda.device_count()} GPUs here; use --device cpu")
    return device


def make_model(args: argparse.Namespace) -> PrunedBertForSequenceClassification:
    """Load or make a BERT in float32 with two labels."""
    if args.weights:
        return load_model(PrunedBertForSequenceClassification, args.weights, TASKS["sst-2"]).eval()
    numbers = sizes(args.random, "x")
    if len(numbers) != 2 or numbers[1] % 64:
        raise SettingError("random", f"{args.random!r} is not LAYERSxWIDTH; use a width that 64 divides, as 12x768")
    layers, width = numbers
    if 12 * layers * width**2 > MOST_PARAMETERS:
        raise SettingError("random", f"{args.random!r} has more than {MOST_PARAMETERS:,} parameters; use a smaller one")
    torch.manual_seed(0)
    widths: dict[str, Any] = {"hidden_size": width, "num_attention_heads": width // 64, "intermediate_size": 4 * width}
    return PrunedBertForSequenceClassification(BertConfig(num_hidden_layers=layers, **widths)).eval()


def random_sentences(lengths: str, sentences: int, vocabulary: int, longest: int) -> Split:
    """Make sentences of random words, their lengths uniform in the range that ``lengths`` says."""
    limits = sizes(lengths, "-")
    if len(limits) not in (1, 2) or not limits[0] <= limits[-1] <= longest:
        raise SettingError("lengths", f"{lengths!r} is no range of lengths up to {longest}; give one as 128 or 16-112")
    generator = np.random.default_rng(0)
    return random_rows(generator.integers(limits[0], limits[-1] + 1, sentences), vocabulary, generator)


def measure(args: argparse.Namespace, device: str) -> list[dict]:
    """Time the models: one row for each dtype, batch size, schedule and method."""
    model = make_model(args).to(device)  # type: ignore[arg-type]
    config, shape = model.config, BertShape.of(model.config)
    depth = shape.depth
    schedules = [check_schedule(rates * depth if len(rates) == 1 else rates, depth) for rates in args.pruning_schedule]
    fingerprint = load_tokenizer(bert_folder(args.weights), max_length=128).fingerprint if args.task else ""

    def sentences(name: str, batch_size: int) -> Split:
        if args.task:
            cache = read_cache(Path(args.cache), name, "bert", fingerprint, "PrepareGlue4Bert.py")
            return cache.splits[TASKS[name].dev[0]]
        limits = config.vocab_size, config.max_position_embeddings
        return random_sentences(name, RANDOM_BATCHES * batch_size, *limits)

    data = [(size, name, sentences(name, size)) for size in args.batch_sizes for name in args.task or args.lengths]
    if args.kept:
        return measure_kept(args, model.unpruned_twin(), data, MOST_BATCHES)
    whole = [method for method in args.pruning_methods if method == "none" or method in PRECISIONS]
    pruned = [(method, rates) for rates in schedules for method in args.pruning_methods if method not in whole]
    unpruned = [(method, (0.0,) * depth) for method in whole]
    cells = [(dtype, *source, *cell) for dtype in args.dtypes for source in data for cell in unpruned + pruned]
    collates = BertCollator(with_lengths=False), BertCollator(with_lengths=True)
    no_counts = torch.zeros(config.vocab_size, dtype=torch.int64)
    rows = []
    for dtype, batch_size, name, split, method, rates in Progress(cells, unit="row"):
        # Where all rates are 0 no method is asked.
        methods = "student" if method in whole else method
        model.set_pruning(rates, methods, token_counts=no_counts, student_widths=args.student_widths)
        lengths = split.lengths.tolist()
        flops = pruned_flops(shape, lengths, keep_counts(lengths, rates), model.pruning)
        saved = round(dense_flops(shape, lengths) / flops, 4)
        timing = getattr(torch, dtype), args.repeats, MOST_BATCHES
        timed = in_precision(model, method, timing[0]) if method in PRECISIONS else model
        latency = measure_latency(model.unpruned_twin(), timed, split, batch_size, collates, *timing)
        what = {"data": name, "method": method, "schedule": list(rates), "flops_reduction": saved}
        rows.append(what | {"efficiency": round(latency["speedup"] / saved, 4)} | latency)
    return rows


def table(rows: Sequence[dict]) -> pd.DataFrame:
    """Format the rows of a result, for a terminal or a README."""
    return pd.DataFrame(
        {
            "dtype": row["dtype"],
            "data": row["data"],
            "batch": row["batch_size"],
            "method": row["method"],
            "schedule": schedule_text(row["schedule"]),
            "baseline ms": f"{row['baseline_ms']:.1f}",
            "pruned ms": f"{row['pruned_ms']:.1f}",
            "FLOPs reduction": f"{row['flops_reduction']:.2f}x",
            "speed-up": f"{row['speedup']:.2f}x",
            "efficiency": f"{row['efficiency']:.2f}",
        }
        for row in rows
    )


def measure_and_write(args: argparse.Namespace) -> None:
    """Measure, write the result as JSON and print it as a table."""
    device = check_arguments(args)
    weights = Path(args.weights).name if args.weights else f"random-{args.random}"
    data = "_".join(args.task or args.lengths)
    what = f"training_{data}" if args.training else f"kept_{data}" if args.kept else data
    path = Path(args.json or f"records/speed/{weights}_{what}_{device.replace(':', '')}.json")
    check_writable(path.parent)
    steady = start_run()
    result: dict[str, Any] = {"model": weights, "environment": environment(steady)}
    if args.training:
        rows = measure_training(args, device)
    else:
        result["student_widths"], rows = args.student_widths, measure(args, device)
    write_whole(path, (json.dumps(result | {"rows": rows}, indent=1) + "\n").encode())
    show = training_table if args.training else kept_table if args.kept else table
    print(markdown(show(rows)) + f"\n-> {path}")
