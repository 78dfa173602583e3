"""Turn the official GLUE files of data/, or a table of your own, into cache/lstm/: ids of words, a vocabulary each."""

import sys
from pathlib import Path

from pruner.data.custom import check_table_flags, next_command, own_flags
from pruner.data.download import GLUE_ADDRESS
from pruner.data.prepare import ClosingTable, prepare_words, read_tasks
from pruner.data.task import TASKS, find_task
from pruner.utils.errors import Parser, UserError, comma_list, run_script

task_names = ["sst-2", "mrpc", "qqp", "mnli"]  # which tasks (published); those that are not in data/ are skipped
tsv = None  # a table of your own in place of those: a file of tab-separated values with a header
text = None  # its column of texts, or a list of two for pairs
label = None  # its column of classes
name = None  # of the task; None: that of the file
dev_tsv = None  # what it is evaluated on, another such file; None: a tenth of the rows, which are not trained on
test_tsv = None  # what --predict-test predicts, a third one, without labels; None: nothing
data_folder = "data"  # where the tasks' folders are: data/MRPC/train.tsv and so on
cache_folder = "cache/lstm"  # where the prepared tasks go
vocabulary_size = 65_000  # the commonest words of the training split; the others are one unknown word (published)
max_length = 128  # words of each sentence at most (published: 128)
skip_bad_rows = False  # leave out rows of the wrong width or with unknown labels instead of stopping
download = False  # fetch the official files of the tasks that are not in data/ first
glue_address = GLUE_ADDRESS  # the server that --download asks


def parse_arguments(arguments: list[str]):
    parser = Parser(__doc__)
    classes = [name for name, task in TASKS.items() if task.labels]
    parser.add_argument("--tasks", type=comma_list, help=f"of {', '.join(classes)} (default: {', '.join(task_names)})")
    own_flags(parser, globals())
    parser.add_argument("--data", default=data_folder, help="the folder of the tasks' folders")
    parser.add_argument("--cache", default=cache_folder, help="where the prepared tasks go")
    parser.add_argument("--vocabulary-size", type=int, default=vocabulary_size, help="words at most")
    parser.add_argument("--max-length", type=int, default=max_length, help="words of each sentence at most")
    parser.add_argument("--skip-bad-rows", action="store_true", default=skip_bad_rows, help="leave out bad rows")
    parser.add_argument("--download", action="store_true", default=download, help="fetch the official files first")
    parser.add_argument("--glue-address", default=glue_address, help="the server that --download asks")
    return parser.parse_args(arguments)


def main() -> None:
    args = parse_arguments(sys.argv[1:])
    check_table_flags(args)
    tasks = [find_task(name) for name in args.tasks or task_names]
    for task in tasks:
        if not task.labels:
            raise UserError(f"task_names: {task.name} has scores, not classes; the LSTM is a classifier")
    table = ClosingTable("words")
    for task, rows in read_tasks(args, tasks):
        table.add(prepare_words(task, rows, args.vocabulary_size, args.max_length, Path(args.cache)), rows)
    table.print()
    if args.tsv is not None:
        print(f"\nnext: {next_command(args, globals(), 'RunLstm4Glue.py')}")


if __name__ == "__main__":
    run_script(main)
