"""Turn the official files of GLUE and AG News in data/ into cache/bert/: word-piece ids, lengths, labels and counts."""

import sys
from pathlib import Path

from pruner.agnews import BERT_TASKS as TASKS
from pruner.cache import make_cache, write_cache
from pruner.download import GLUE_ADDRESS
from pruner.encode import encode
from pruner.errors import Parser, UserError, comma_list, run_script
from pruner.glue import find_task
from pruner.prepare import ClosingTable, find_data, read_task
from pruner.tokenizer import bert_folder, check_max_length, load_tokenizer

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


def main() -> None:
    args = parse_arguments(sys.argv[1:])
    tasks = [find_task(name, TASKS) for name in args.tasks or task_names]
    if args.max_length < 4:
        raise UserError(f"max_length: {args.max_length} leaves no room for words; use 4 or more (published: 128)")
    folder = bert_folder(args.bert)
    check_max_length(folder, args.max_length)
    tokenizer = load_tokenizer(folder, args.max_length)
    casing = "uncased" if tokenizer.lower_case else "cased"
    print(f"vocabulary: {args.bert}, {tokenizer.size} word pieces, {casing}")

    data, table = Path(args.data), ClosingTable("tokens")
    for task in find_data(tasks, data, bool(args.tasks), args.glue_address if args.download else None):
        rows = read_task(task, data / task.folder, args.skip_bad_rows)
        splits = {name: encode(each, task, tokenizer) for name, each in rows.items()}
        cache = make_cache(task, splits, tokenizer.size, args.max_length)
        path = write_cache(Path(args.cache), cache, "bert", tokenizer.fingerprint)
        print(f"{task.name} -> {path}")
        table.add(cache, rows)
    table.print()


if __name__ == "__main__":
    run_script(main)
