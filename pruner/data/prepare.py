"""What the prepare scripts do with their constants: find the tasks' files, read and encode them, write the caches."""

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from pruner.data.agnews import AGNEWS, read_agnews
from pruner.data.cache import Cache, make_cache, write_cache
from pruner.data.custom import check_table_flags, next_command, own_file, read_table
from pruner.data.download import GLUE_ADDRESS
from pruner.data.encode import encode, encode_words
from pruner.data.rows import Rows
from pruner.data.task import Task, find_task
from pruner.data.tokenizer import bert_folder, check_max_length, check_pairs, load_tokenizer
from pruner.data.vocabulary import learn_vocabulary, write_words
from pruner.utils.errors import SettingError, UserError, check_whole

Splits = dict[str, Rows]
LARGEST = 2**31 - 1  # of a size


def prepare_bert(args: argparse.Namespace) -> None:
    """Write caches of word pieces for BERT."""
    check_table_flags(args)
    tasks = [find_task(name) for name in args.tasks]
    check_size("max_length", args.max_length, 4, 128)  # of three special tokens and a word
    folder = bert_folder(args.bert)
    check_max_length(folder, args.max_length)
    tokenizer = load_tokenizer(folder, args.max_length)
    print(f"tokenizer: {type(tokenizer.stock).__name__} of {args.bert}, {tokenizer.size} word pieces")

    def prepare(task: Task, rows: Splits) -> Cache:
        check_pairs(folder, tokenizer, task)
        splits = {name: encode(split, task, tokenizer) for name, split in rows.items()}
        cache = make_cache(task, splits, tokenizer.size, args.max_length)
        path = write_cache(Path(args.cache), cache, "bert", tokenizer.fingerprint)
        print(f"{task.name} -> {path}")
        return cache

    prepare_all(read_tasks(args, tasks), prepare, "tokens")
    if own_file(args) is not None:
        print(f"\nnext: {next_command(args, 'RunBert4Glue.py')}")


def prepare_lstm(args: argparse.Namespace) -> None:
    """Write caches of words, and a vocabulary each, for the LSTM."""
    check_table_flags(args)
    check_word_sizes(args)
    tasks = [find_task(name) for name in args.tasks]
    for task in tasks:
        if not task.labels:
            raise SettingError(
                "tasks", f"{task.name} has scores, not classes; the LSTM is a classifier; name other tasks"
            )
    prepare_all(read_tasks(args, tasks), partial(prepare_words, args), "words")
    if own_file(args) is not None:
        print(f"\nnext: {next_command(args, 'RunLstm4Glue.py')}")


def prepare_agnews(args: argparse.Namespace) -> None:
    """Write the cache of AG News' words, of the given columns, for the LSTM."""
    if not args.columns:
        raise SettingError("columns", "the list is empty; use title, description or both")
    check_word_sizes(args)
    folder = Path(args.data)
    if args.download:
        AGNEWS.download(folder, args.agnews_address)
    if missing := missing_file(AGNEWS, folder):
        raise UserError(f"{missing}; put the official files there, or run with --download")
    task = replace(AGNEWS, reader=partial(read_agnews, columns=args.columns))
    prepare_all([(task, task.read_splits(folder, args.skip_bad_rows))], partial(prepare_words, args), "words")


def check_word_sizes(args: argparse.Namespace) -> None:
    """Check the sizes of what the LSTM reads."""
    check_size("vocabulary_size", args.vocabulary_size, 3, 65_000)  # of padding, the unknown word and another
    check_size("max_length", args.max_length, 1, 128)


def check_size(name: str, number: int, least: int, published: int) -> None:
    check_whole(name, number, least, LARGEST, f" (published: {published})")


def prepare_words(args: argparse.Namespace, task: Task, rows: Splits) -> Cache:
    """Learn a vocabulary from the training split, encode every split, and write both."""
    vocabulary = learn_vocabulary((text for texts in rows["train"].texts for text in texts), args.vocabulary_size)
    if not vocabulary.words:
        raise UserError(f"{task.name}: no words in the texts that it is trained on; name the file and column of texts")
    splits = {name: encode_words(split, vocabulary, args.max_length) for name, split in rows.items()}
    cache, path = write_words(Path(args.cache), task, splits, vocabulary, args.max_length)
    print(f"{task.name} -> {path} and {path.stem}.txt, {vocabulary.size} words")
    return cache


def read_tasks(args: argparse.Namespace, tasks: Sequence[Task]) -> Iterator[tuple[Task, Splits]]:
    """Read the user's own table, or those of ``tasks`` whose files are there, one by one; print which are not.

    With ``--download``, missing files are fetched first; from servers other than GLUE's, only for tasks that the user
    named. It is a ``UserError`` if such a task is not there, or none is.
    """
    if own_file(args) is not None:
        yield read_table(args)
        return
    data, named, complete = Path(args.data), "tasks" in args.given, []
    for task in tasks:
        folder, of_glue = data / task.folder, task.address == GLUE_ADDRESS
        if args.download and (of_glue or named):
            task.download(folder, args.glue_address if of_glue else task.address)
        missing = missing_file(task, folder)
        if missing is None:
            complete.append(task)
        elif named:
            raise UserError(f"{missing}; put the official files there, or run with --download")
        else:
            print(f"skipped {task.name}: {missing}")
    if not complete:
        raise UserError(
            f"{data}: none of the GLUE tasks is there; download them from https://gluebenchmark.com/tasks so that "
            f"{data / 'MRPC' / 'train.tsv'} and so on exist, or run with --download"
        )
    for task in complete:
        yield task, task.read_splits(data / task.folder, args.skip_bad_rows)


def missing_file(task: Task, folder: Path) -> str | None:
    """Name what training and evaluation need of the task's files and ``folder`` lacks."""
    if not task.files:
        return None
    # Unlike Path's own, these take a place that may not be looked into, or a name that is too long, for nothing there.
    if not os.path.isdir(folder):
        return f"{folder}: no such folder"
    names = map(task.file, ("train", *task.dev))
    return next((f"{folder}: no {name}" for name in names if not os.path.isfile(folder / name)), None)


def prepare_all(tasks: Iterable[tuple[Task, Splits]], prepare: Callable[[Task, Splits], Cache], unit: str) -> None:
    """Prepare one task after the other; print a table of sentences and their lengths, in ``unit``."""
    lines = [("task", f"{'split':18}{'sentences':>10}{f'mean {unit}':>13}{'95th pct.':>11}")]
    for task, rows in tasks:
        for name, split in prepare(task, rows).splits.items():
            mean, high = split.lengths.mean(), np.percentile(split.lengths, 95)
            skipped = f"  ({rows[name].skipped} bad rows left out)" if rows[name].skipped else ""
            lines.append((task.name, f"{name:18}{len(split):>10}{mean:>13.1f}{high:>11.0f}{skipped}"))
    width = max(8, *(len(task) + 1 for task, _ in lines))
    print("\n".join(["", *(f"{task:{width}}{line}" for task, line in lines)]))
