"""Time the pruned BERT against the unpruned one: python -m pruner.measure --random 6x384 --lengths 16-112"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm
from transformers import BertConfig

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.tokens.flops import pruned_flops
from pruner.compress.tokens.schedule import check_schedule, schedule_name
from pruner.compress.tokens.scores import scorer_names
from pruner.compress.tokens.select import keep_counts
from pruner.data.cache import Split, read_cache
from pruner.data.collate import BertCollator
from pruner.data.glue import TASKS
from pruner.data.tokenizer import bert_folder, load_tokenizer
from pruner.evaluation.latency import measure_latency
from pruner.experiments.flags import check_widths, start_run
from pruner.models.flops import BertShape, dense_flops, reduction
from pruner.models.pretrained import load_model
from pruner.report.records import check_writable, environment
from pruner.report.tables import markdown
from pruner.utils.errors import Parser, UserError, comma_list, run_script
from pruner.utils.files import write_whole

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MOST_BATCHES = 40  # that are timed of a task, spread evenly over its lengths
RANDOM_BATCHES = 4  # of random sentences
LARGEST_NUMBER = 100_000  # of a batch, a width, a repeat: beyond lies a slip
MOST_PARAMETERS = 10**10  # of a BERT of random weights


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--weights", help="a BERT: a folder or a model of the hub")
    add("--random", help="a BERT of random weights instead, as 12x768: layers x width")
    add("--task", type=comma_list, help=f"the dev sets of prepared tasks: {', '.join(TASKS)}")
    add("--lengths", type=comma_list, help="random sentences instead, of 128 tokens, or 16-112 for all lengths between")
    add(
        "--methods",
        type=comma_list,
        default=["none", "student", "attention"],
        help=f"of none, {', '.join(scorer_names('bert'))}",
    )
    add("--schedule", nargs="+", default=["0.2"], help="one rate for all layers, or a list as 0.5,0,0; or several such")
    add("--batch-sizes", type=comma_list, default=[32], help="sentences per batch, one or more")
    add("--dtypes", type=comma_list, default=["float32"], help=f"of {', '.join(DTYPES)}")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    add("--repeats", type=int, default=7, help="interleaved timings of both models; the median counts")
    add("--student-widths", type=comma_list, default=[64, 64], help="hidden widths of the students' MLPs")
    add("--cache", default="cache/bert", help="what PrepareGlue4Bert.py wrote")
    add("--json", help="where the result goes (default: a file in records/speed/)")
    return parser.parse_args(arguments)


def whole_numbers(texts: Sequence[str | int], name: str) -> list[int]:
    try:
        numbers = [int(text) for text in texts]
    except ValueError:
        numbers = [0]
    if not numbers or not 1 <= min(numbers) <= max(numbers) <= LARGEST_NUMBER:
        raise UserError(f"{name}: {','.join(map(str, texts))!r} are not whole numbers from 1 to {LARGEST_NUMBER}")
    return numbers


def check_arguments(args: argparse.Namespace) -> None:
    """Complain about what cannot be, before anything is loaded."""
    if bool(args.weights) == bool(args.random):
        raise UserError("weights, random: give one of them: --weights FOLDER, or --random 12x768 for random weights")
    if bool(args.task) == bool(args.lengths):
        raise UserError("task, lengths: give one of them: --task mrpc, or --lengths 16-112 for random sentences")
    if args.task and args.random:
        raise UserError("task: random weights have no vocabulary; use --weights, or --lengths")
    for name in ("methods", "dtypes"):
        if not getattr(args, name):
            raise UserError(f"{name}: the list is empty; leave it out for the usual ones")
    for name in args.task or ():
        if name not in TASKS:
            raise UserError(f"task: unknown task {name!r}; choose from {', '.join(TASKS)}")
    for name in args.methods:
        if name not in ("none", *scorer_names("bert")):
            raise UserError(f"methods: unknown method {name!r}; choose from none, {', '.join(scorer_names('bert'))}")
    for name in args.dtypes:
        if name not in DTYPES:
            raise UserError(f"dtypes: unknown dtype {name!r}; choose from {', '.join(DTYPES)}")
    try:
        device = torch.device(args.device)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device: {args.device!r} is neither cpu nor cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device: PyTorch sees {torch.cuda.device_count()} GPUs here; use --device cpu")
    if not 1 <= args.repeats <= LARGEST_NUMBER:
        raise UserError(f"repeats: {args.repeats} is not a number from 1 to {LARGEST_NUMBER}")


def make_model(args: argparse.Namespace) -> PrunedBertForSequenceClassification:
    """In float32, two labels."""
    if args.weights:
        return load_model(PrunedBertForSequenceClassification, args.weights, TASKS["sst-2"]).eval()
    layers, width = whole_numbers(args.random.split("x"), "random")[:2] if args.random.count("x") == 1 else (0, 0)
    if not layers or width % 64:
        raise UserError(f"random: {args.random!r} is not LAYERSxWIDTH with a width of so many times 64, as 12x768")
    if 12 * layers * width**2 > MOST_PARAMETERS:
        raise UserError(f"random: {args.random!r} has more than {MOST_PARAMETERS:,} parameters; use a smaller one")
    torch.manual_seed(0)
    config = BertConfig(
        num_hidden_layers=layers, hidden_size=width, num_attention_heads=width // 64, intermediate_size=4 * width
    )
    return PrunedBertForSequenceClassification(config).eval()


def random_sentences(lengths: str, sentences: int, vocabulary: int, longest: int) -> Split:
    """Sentences of random words, their lengths uniform in the range that ``lengths`` says."""
    first, last = (whole_numbers(lengths.split("-"), "lengths") * 2)[:2]
    if lengths.count("-") > 1 or not first <= last <= longest:
        raise UserError(f"lengths: {lengths!r} is no range of lengths up to {longest}; give one as 128 or 16-112")
    generator = np.random.default_rng(0)
    offsets = np.concatenate([[0], generator.integers(first, last + 1, sentences).cumsum()])
    tokens = generator.integers(5, vocabulary, offsets[-1]).astype(np.int32)
    return Split(tokens, offsets, np.diff(offsets).astype(np.int32), None)


def measure(args: argparse.Namespace) -> list[dict]:
    """One row for each dtype, batch size, schedule and method."""
    batch_sizes, widths = whole_numbers(args.batch_sizes, "batch_sizes"), check_widths(args.student_widths)
    model = make_model(args).to(args.device)
    config, shape = model.config, BertShape.of(model.config)
    schedules = []
    for text in args.schedule:
        rates = comma_list(text)
        schedules.append(check_schedule(rates * shape.depth if len(rates) == 1 else rates, shape.depth))
    splits: dict[tuple[str, int], Split] = {}
    if args.task:
        fingerprint = load_tokenizer(bert_folder(args.weights), max_length=128).fingerprint
        for name in args.task:
            cache = read_cache(Path(args.cache), name, "bert", fingerprint, "PrepareGlue4Bert.py")
            splits |= {(name, size): cache.splits[TASKS[name].dev[0]] for size in batch_sizes}
    else:
        limits = config.vocab_size, config.max_position_embeddings
        for name in args.lengths:
            splits |= {(name, size): random_sentences(name, RANDOM_BATCHES * size, *limits) for size in batch_sizes}

    unpruned = [("none", (0.0,) * shape.depth)] if "none" in args.methods else []
    pruned = [(method, rates) for rates in schedules for method in args.methods if method != "none"]
    sources = [(name, size) for size in batch_sizes for name in args.task or args.lengths]
    cells = [(dtype, *source, *cell) for dtype in args.dtypes for source in sources for cell in unpruned + pruned]
    collates = BertCollator(with_lengths=False), BertCollator(with_lengths=True)
    no_counts = torch.zeros(config.vocab_size, dtype=torch.int64)
    rows = []
    for dtype, name, batch_size, method, rates in tqdm(cells, unit="row"):
        # Where all rates are 0 no method is asked.
        methods = "student" if method == "none" else method
        model.set_pruning(rates, methods, token_counts=no_counts, student_widths=widths)
        split = splits[name, batch_size]
        lengths = [int(length) for length in split.lengths]
        flops = pruned_flops(shape, lengths, keep_counts(lengths, rates), model.pruning)
        saved = reduction(dense_flops(shape, lengths), flops)["reduction"]
        latency = measure_latency(model, split, batch_size, collates, DTYPES[dtype], args.repeats, MOST_BATCHES)
        what = {"data": name, "method": method, "schedule": list(rates), "flops_reduction": saved}
        what["efficiency"] = round(latency["speedup"] / saved, 4)
        rows.append(what | latency)
    return rows


def table(rows: Sequence[dict]) -> pd.DataFrame:
    """The rows of a result as text, for a terminal or a README."""
    return pd.DataFrame(
        {
            "dtype": row["dtype"],
            "data": row["data"],
            "batch": row["batch_size"],
            "method": row["method"],
            "schedule": schedule_name(row["schedule"]),
            "baseline ms": f"{row['baseline_ms']:.1f}",
            "pruned ms": f"{row['pruned_ms']:.1f}",
            "FLOPs reduction": f"{row['flops_reduction']:.2f}x",
            "speed-up": f"{row['speedup']:.2f}x",
            "efficiency": f"{row['efficiency']:.2f}",
        }
        for row in rows
    )


def main() -> None:
    args = parse_arguments(sys.argv[1:])
    check_arguments(args)
    weights = Path(args.weights).name if args.weights else f"random-{args.random}"
    data, device = "_".join(args.task or args.lengths), args.device.replace(":", "")
    path = Path(args.json or f"records/speed/{weights}_{data}_{device}.json")
    check_writable(path.parent)
    steady = start_run()
    rows = measure(args)
    result = {
        "model": weights,
        "student_widths": [int(width) for width in args.student_widths],
        "environment": environment(steady),
        "rows": rows,
    }
    write_whole(path, (json.dumps(result, indent=1) + "\n").encode())
    print(markdown(table(rows)) + f"\n-> {path}")


if __name__ == "__main__":
    run_script(main, packages=("torch", "transformers"))
