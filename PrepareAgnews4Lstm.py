"""Turn the official AG News files of data/ag_news_csv/ into cache/lstm/: words' ids, lengths, labels, a vocabulary."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from pruner.utils.errors import SettingError, UserError, run_script
from pruner.utils.flags import parse_flags

# Data
data = "data/ag_news_csv"  # where train.csv and test.csv are
columns: list[Literal["title", "description"]] = ["title", "description"]  # a row's text; published: description alone
skip_bad_rows = False  # leave out rows of the wrong width or of an unknown class instead of stopping
download = False  # fetch the official files first if they are not there
agnews_address = "https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/master/data/ag_news_csv"  # of --download

# Output
cache = "cache/lstm"  # where the prepared task goes
vocabulary_size = 65_000  # the commonest words of the training split; the others are one unknown word (published)
max_length = 128  # words of a text at most (published: 128)


def main() -> None:
    args = parse_flags(globals())
    from pruner.data.agnews import AGNEWS, read_agnews
    from pruner.data.prepare import ClosingTable, missing_file, prepare_words, read_task

    if not args.columns:
        raise SettingError("columns", "the list is empty; use title, description or both")
    folder = Path(args.data)
    if args.download:
        AGNEWS.download(folder, args.agnews_address)
    if missing := missing_file(AGNEWS, folder):
        raise UserError(f"{missing}; put the official files there, or run with --download")
    task = replace(AGNEWS, reader=partial(read_agnews, columns=args.columns))
    rows = read_task(task, folder, args.skip_bad_rows)
    table = ClosingTable("words")
    table.add(prepare_words(task, rows, args.vocabulary_size, args.max_length, Path(args.cache)), rows)
    table.print()


if __name__ == "__main__":
    run_script(main)
