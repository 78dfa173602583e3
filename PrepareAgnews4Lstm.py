"""Turn the official AG News files of data/ag_news_csv/ into cache/lstm/: words' ids, lengths, labels, a vocabulary."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from pruner.data.agnews import AGNEWS, AGNEWS_ADDRESS, COLUMNS, read_agnews
from pruner.data.prepare import ClosingTable, missing_file, prepare_words, read_task
from pruner.utils.errors import Parser, UserError, comma_list, run_script

data_folder = "data/ag_news_csv"  # where train.csv and test.csv are
columns = ["title", "description"]  # the text of a row, in this order; ["description"] alone is as published
cache_folder = "cache/lstm"  # where the prepared task goes
vocabulary_size = 65_000  # the commonest words of the training split; the others are one unknown word (published)
max_length = 128  # words of a text at most (published: 128)
skip_bad_rows = False  # leave out rows of the wrong width or of an unknown class instead of stopping
download = False  # fetch the official files first if they are not there
agnews_address = AGNEWS_ADDRESS  # the folder on a server that --download asks


def parse_arguments(arguments: list[str]):
    parser = Parser(__doc__)
    parser.add_argument("--data", default=data_folder, help="where train.csv and test.csv are")
    parser.add_argument("--columns", type=comma_list, default=columns, help=f"of {', '.join(COLUMNS)}")
    parser.add_argument("--cache", default=cache_folder, help="where the prepared task goes")
    parser.add_argument("--vocabulary-size", type=int, default=vocabulary_size, help="words at most")
    parser.add_argument("--max-length", type=int, default=max_length, help="words of a text at most")
    parser.add_argument("--skip-bad-rows", action="store_true", default=skip_bad_rows, help="leave out bad rows")
    parser.add_argument("--download", action="store_true", default=download, help="fetch the official files first")
    parser.add_argument("--agnews-address", default=agnews_address, help="the folder that --download asks")
    return parser.parse_args(arguments)


def main() -> None:
    args = parse_arguments(sys.argv[1:])
    for column in args.columns:
        if column not in COLUMNS:
            raise UserError(f"columns: unknown column {column!r}; choose from {', '.join(COLUMNS)}")
    if not args.columns:
        raise UserError(f"columns: none; choose from {', '.join(COLUMNS)}")
    data = Path(args.data)
    if args.download:
        AGNEWS.download(data, args.agnews_address)
    if missing := missing_file(AGNEWS, data):
        raise UserError(f"{missing}; put the official files there, or run with --download")
    task = replace(AGNEWS, reader=partial(read_agnews, columns=args.columns))
    rows = read_task(task, data, args.skip_bad_rows)
    table = ClosingTable("words")
    table.add(prepare_words(task, rows, args.vocabulary_size, args.max_length, Path(args.cache)), rows)
    table.print()


if __name__ == "__main__":
    run_script(main)
