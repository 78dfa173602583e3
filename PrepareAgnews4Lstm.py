"""Turn the official AG News files of data/ag_news_csv/ into cache/lstm/: words' ids, lengths, labels, a vocabulary."""

from typing import Literal

from pruner import run_script

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
    from pruner.utils.flags import parse_flags

    args = parse_flags(globals())
    from pruner.data.prepare import prepare_agnews

    prepare_agnews(args)


if __name__ == "__main__":
    run_script(main)
