"""Turn the official GLUE files of data/, or a table of your own, into cache/lstm/: ids of words, a vocabulary each."""

from pruner import run_script

# Data
tasks = ["sst-2", "mrpc", "qqp", "mnli"]  # those that are in data/ (published)
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
cache = "cache/lstm"  # where the prepared tasks go
vocabulary_size = 65_000  # the commonest words of the training split; the others are one unknown word (published)
max_length = 128  # words of each sentence at most (published: 128)


def main() -> None:
    from pruner.utils.flags import parse_flags

    args = parse_flags(globals())
    from pruner.data.prepare import prepare_lstm

    prepare_lstm(args)


if __name__ == "__main__":
    run_script(main)
