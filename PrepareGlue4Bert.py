"""Turn the official files of GLUE and AG News in data/, or a table of your own, into cache/bert/: word-piece ids."""

from pruner import run_script

# Data
tasks = ["cola", "sst-2", "mrpc", "qqp", "sts-b", "mnli", "qnli", "rte", "wnli", "agnews"]  # those that are in data/
data = "data"  # where the tasks' folders are: data/MRPC/train.tsv and so on
skip_bad_rows = False  # leave out rows of the wrong width or with unknown labels instead of stopping
download = False  # fetch the official files of the tasks that are not in data/ first
glue_address = "https://dl.fbaipublicfiles.com"  # the server that --download asks

# A table of your own in place of those
table: str | None = None  # a file with a header, by its name .tsv, .csv, .jsonl or .parquet
text: list[str] | None = None  # its column of texts, or two for pairs
label: str | None = None  # its column of classes
name: str | None = None  # of the task; None: that of the file
dev_table: str | None = None  # what it is evaluated on, another such file; None: a tenth of the rows, held out
test_table: str | None = None  # what --predict-test predicts, a third one, without labels; None: nothing
tsv: str | None = None  # in place of table: tab-separated values, whatever the file's name
dev_tsv: str | None = None  # in place of dev_table
test_tsv: str | None = None  # in place of test_table

# Output
bert = "bert"  # whose vocabulary: a folder, or a model of the hub
cache = "cache/bert"  # where the prepared tasks go
max_length = 128  # tokens of a sentence or pair at most, special tokens included (published: 128)


def main() -> None:
    from pruner.utils.flags import parse_flags

    args = parse_flags(globals())
    from pruner.data.prepare import prepare_bert

    prepare_bert(args)


if __name__ == "__main__":
    run_script(main)
