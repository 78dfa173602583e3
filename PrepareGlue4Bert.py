"""Turn the official files of GLUE and AG News in data/, or a table of your own, into cache/bert/: word-piece ids."""

from pathlib import Path

from pruner.utils.errors import SettingError, run_script
from pruner.utils.flags import parse_flags

# Data
tasks = ["cola", "sst-2", "mrpc", "qqp", "sts-b", "mnli", "qnli", "rte", "wnli", "agnews"]  # those that are in data/
data = "data"  # where the tasks' folders are: data/MRPC/train.tsv and so on
skip_bad_rows = False  # leave out rows of the wrong width or with unknown labels instead of stopping
download = False  # fetch the official files of the tasks that are not in data/ first
glue_address = "https://dl.fbaipublicfiles.com"  # the server that --download asks

# A table of your own in place of those
tsv: str | None = None  # a file of tab-separated values with a header
text: list[str] | None = None  # its column of texts, or two for pairs
label: str | None = None  # its column of classes
name: str | None = None  # of the task; None: that of the file
dev_tsv: str | None = None  # what it is evaluated on, another such file; None: a tenth of the rows, held out
test_tsv: str | None = None  # what --predict-test predicts, a third one, without labels; None: nothing

# Output
bert = "bert"  # whose vocabulary: a folder, or a model of the hub
cache = "cache/bert"  # where the prepared tasks go
max_length = 128  # tokens of a sentence or pair at most, special tokens included (published: 128)


def main() -> None:
    args = parse_flags(globals())
    from pruner.data.cache import make_cache, write_cache
    from pruner.data.custom import check_table_flags, next_command
    from pruner.data.encode import encode
    from pruner.data.prepare import ClosingTable, read_tasks
    from pruner.data.task import find_task
    from pruner.data.tokenizer import bert_folder, check_max_length, load_tokenizer

    check_table_flags(args)
    selected = [find_task(name) for name in args.tasks]
    if args.max_length < 4:
        raise SettingError("max_length", f"{args.max_length} leaves no room for words; use 4 or more (published: 128)")
    folder = bert_folder(args.bert)
    check_max_length(folder, args.max_length)
    tokenizer = load_tokenizer(folder, args.max_length)
    casing = "uncased" if tokenizer.lower_case else "cased"
    print(f"vocabulary: {args.bert}, {tokenizer.size} word pieces, {casing}")

    table = ClosingTable("tokens")
    for task, rows in read_tasks(args, selected):
        splits = {split: encode(split_rows, task, tokenizer) for split, split_rows in rows.items()}
        prepared = make_cache(task, splits, tokenizer.size, args.max_length)
        path = write_cache(Path(args.cache), prepared, "bert", tokenizer.fingerprint)
        print(f"{task.name} -> {path}")
        table.add(prepared, rows)
    table.print()
    if args.tsv is not None:
        print(f"\nnext: {next_command(args, globals(), 'RunBert4Glue.py')}")


if __name__ == "__main__":
    run_script(main)
