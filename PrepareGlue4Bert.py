"""Turn the official files of GLUE and AG News in data/, or a table of your own, into cache/bert/: word-piece ids."""

import sys
from pathlib import Path

from pruner.data.cache import make_cache, write_cache
from pruner.data.custom import check_table_flags, next_command, own_flags
from pruner.data.download import GLUE_ADDRESS
from pruner.data.encode import encode
from pruner.data.prepare import ClosingTable, read_tasks
from pruner.data.task import find_task
from pruner.data.tokenizer import bert_folder, check_max_length, load_tokenizer
from pruner.utils.errors import Parser, UserError, comma_list, run_script

task_names = ["cola", "sst-2", "mrpc", "qqp", "sts-b", "mnli", "qnli", "rte", "wnli", "agnews"]  # if in data/
tsv = None  # a table of your own in place of those: a file of tab-separated values with a header
text = None  # its column of texts, or a list of two for pairs
label = None  # its column of classes
name = None  # of the task; None: that of the file
dev_tsv = None  # what it is evaluated on, another such file; None: a tenth of the rows, which are not trained on
test_tsv = None  # what --predict-test predicts, a third one, without labels; None: nothing
data_folder = "data"  # where the tasks' folders are: data/MRPC/train.tsv and so on
bert = "bert"  # whose vocabulary: a folder, or a model of the hub
cache_folder = "cache/bert"  # where the prepared tasks go
max_length = 128  # tokens of a sentence or pair at most, special tokens included (published: 128)
skip_bad_rows = False  # leave out rows of the wrong width or with unknown labels instead of stopping
download = False  # fetch the official files of the tasks that are not in data/ first
glue_address = GLUE_ADDRESS  # the server that --download asks


def parse_arguments(arguments: list[str]):
    parser = Parser(__doc__)
    parser.add_argument("--tasks", type=comma_list, help=f"of {', '.join(task_names)} (default: all that data/ has)")
    own_flags(parser, globals())
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
    check_table_flags(args)
    tasks = [find_task(name) for name in args.tasks or task_names]
    if args.max_length < 4:
        raise UserError(f"max_length: {args.max_length} leaves no room for words; use 4 or more (published: 128)")
    folder = bert_folder(args.bert)
    check_max_length(folder, args.max_length)
    tokenizer = load_tokenizer(folder, args.max_length)
    casing = "uncased" if tokenizer.lower_case else "cased"
    print(f"vocabulary: {args.bert}, {tokenizer.size} word pieces, {casing}")

    table = ClosingTable("tokens")
    for task, rows in read_tasks(args, tasks):
        splits = {name: encode(each, task, tokenizer) for name, each in rows.items()}
        cache = make_cache(task, splits, tokenizer.size, args.max_length)
        path = write_cache(Path(args.cache), cache, "bert", tokenizer.fingerprint)
        print(f"{task.name} -> {path}")
        table.add(cache, rows)
    table.print()
    if args.tsv is not None:
        print(f"\nnext: {next_command(args, globals(), 'RunBert4Glue.py')}")


if __name__ == "__main__":
    run_script(main)
