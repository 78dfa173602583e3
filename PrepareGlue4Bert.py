"""Turn the official GLUE files of data/ into cache/bert/: word-piece ids, lengths, labels and counts."""

import sys
from pathlib import Path

import numpy as np

from pruner.cache import Cache, write_cache
from pruner.download import GLUE_ADDRESS, download_task
from pruner.encode import encode, make_cache
from pruner.errors import Parser, UserError, comma_list, run_script
from pruner.glue import TASKS, Task, find_task, read_split
from pruner.tokenizer import BertTokenizer, bert_folder, check_max_length, load_tokenizer

task_names = list(TASKS)  # which tasks; those that are not in data/ are skipped and named
data_folder = "data"  # where the tasks' folders are: data/MRPC/train.tsv and so on
bert = "bert"  # whose vocabulary: a folder, or a model of the hub
cache_folder = "cache/bert"  # where the prepared tasks go
max_length = 128  # tokens of a sentence or pair at most, special tokens included (published: 128)
skip_bad_rows = False  # leave out rows of the wrong width or with unknown labels instead of stopping
download = False  # fetch the official files of the tasks that are not in data/ first
glue_address = GLUE_ADDRESS  # the server that --download asks


def parse_arguments(arguments: list[str]):
    parser = Parser(__doc__)
    parser.add_argument("--tasks", type=comma_list, help=f"of {', '.join(TASKS)} (default: all that data/ has)")
    parser.add_argument("--data", default=data_folder, help="the folder of the tasks' folders")
    parser.add_argument("--bert", default=bert, help="whose vocabulary: a folder or a model of the hub")
    parser.add_argument("--cache", default=cache_folder, help="where the prepared tasks go")
    parser.add_argument("--max-length", type=int, default=max_length, help="tokens at most, special tokens included")
    parser.add_argument("--skip-bad-rows", action="store_true", default=skip_bad_rows, help="leave out bad rows")
    parser.add_argument("--download", action="store_true", default=download, help="fetch the official files first")
    parser.add_argument("--glue-address", default=glue_address, help="the server that --download asks")
    return parser.parse_args(arguments)


def prepare_task(task: Task, folder: Path, tokenizer: BertTokenizer, length: int, skip_bad: bool) -> tuple[Cache, dict]:
    """Read and encode the splits of a task that are there; also the number of bad rows left out of each."""
    splits, skipped = {}, {}
    for name in task.splits:
        if name in task.test and not (folder / f"{name}.tsv").is_file():
            continue
        rows = read_split(task, folder, name, skip_bad)
        splits[name], skipped[name] = encode(rows, task, tokenizer), rows.skipped
    return make_cache(task, splits, tokenizer, length), skipped


def missing_files(task: Task, folder: Path) -> list[str]:
    return [f"{name}.tsv" for name in ("train", *task.dev) if not (folder / f"{name}.tsv").is_file()]


def main() -> None:
    args = parse_arguments(sys.argv[1:])
    tasks = [find_task(name) for name in args.tasks or task_names]
    if args.max_length < 4:
        raise UserError(f"max_length: {args.max_length} leaves no room for words; use 4 or more (published: 128)")
    folder = bert_folder(args.bert)
    check_max_length(folder, args.max_length)
    tokenizer = load_tokenizer(folder, args.max_length)
    casing = "uncased" if tokenizer.lower_case else "cased"
    print(f"vocabulary: {args.bert}, {tokenizer.size} word pieces, {casing}")

    data = Path(args.data)
    if args.download:
        for task in tasks:
            download_task(task, data / task.folder, args.glue_address)
    found = []
    for task in tasks:
        missing = missing_files(task, data / task.folder)
        if not missing:
            found.append(task)
            continue
        reason = f"no {missing[0]}" if (data / task.folder).is_dir() else "no such folder"
        if args.tasks:
            raise UserError(f"{data / task.folder}: {reason}; put the official files there, or run with --download")
        print(f"skipped {task.name}: {data / task.folder}: {reason}")
    if not found:
        raise UserError(
            f"{data}: none of the GLUE tasks is there; download them from https://gluebenchmark.com/tasks so that "
            f"{data / 'MRPC' / 'train.tsv'} and so on exist, or run with --download"
        )

    lines = [f"{'task':8}{'split':18}{'sentences':>10}{'mean tokens':>13}{'95th pct.':>11}"]
    for task in found:
        cache, skipped = prepare_task(task, data / task.folder, tokenizer, args.max_length, args.skip_bad_rows)
        path = write_cache(Path(args.cache), cache, "bert", tokenizer.fingerprint)
        print(f"{task.name} -> {path}")
        for name, split in cache.splits.items():
            lengths = split.lengths
            line = f"{task.name:8}{name:18}{len(split):>10}{lengths.mean():>13.1f}{np.percentile(lengths, 95):>11.0f}"
            lines.append(line + (f"  ({skipped[name]} bad rows left out)" if skipped[name] else ""))
    print("\n".join(["", *lines]))


if __name__ == "__main__":
    run_script(main)
