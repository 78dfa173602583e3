"""What the prepare scripts write and the run scripts read: one file of plain arrays per task.

The container is safetensors: no pickle, a header of strings, lengths that are checked when it is opened. Sentences
lie end to end, without padding:

    <split>.tokens   int32 [tokens]    the sentences' ids, special tokens included
    <split>.offsets  int64 [rows + 1]  where each sentence starts in them
    <split>.second   int32 [rows]      where its second segment starts, counted from its own start
    <split>.labels   int64 or float32 [rows], absent from test splits
    counts           int64 [vocabulary] occurrences in the training split
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pruner.errors import UserError
from pruner.files import cannot_write, write_whole
from pruner.glue import Task

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Split:
    """Sentences of one split; the arrays are described above."""

    tokens: np.ndarray
    offsets: np.ndarray
    second: np.ndarray
    labels: np.ndarray | None
    numbers: np.ndarray | None = None  # of the rows, where they are a part of a split's

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Real tokens of each sentence [rows]."""
        return np.diff(self.offsets)

    def sentence(self, row: int) -> np.ndarray:
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]


@dataclass(frozen=True)
class Cache:
    """A prepared task."""

    task: str
    labels: tuple[str, ...]
    max_length: int
    splits: dict[str, Split]
    counts: np.ndarray


def make_cache(task: Task, splits: dict[str, Split], vocabulary_size: int, max_length: int) -> Cache:
    """A task's cache, with the counts of its training split."""
    counts = np.bincount(splits["train"].tokens, minlength=vocabulary_size).astype(np.int64)
    return Cache(task.name, task.labels, max_length, splits, counts)


def cache_path(folder: Path, task: str) -> Path:
    return folder / f"{task}.safetensors"


def write_cache(folder: Path, cache: Cache, kind: str, fingerprint: str) -> Path:
    """Write ``<folder>/<task>.safetensors`` under a temporary name and rename it when it is whole.

    ``kind`` is ``bert`` or ``lstm``; ``fingerprint`` stands for the tokenizer that made the ids.
    """
    arrays = {"counts": cache.counts}
    for name, split in cache.splits.items():
        arrays |= {f"{name}.tokens": split.tokens, f"{name}.offsets": split.offsets, f"{name}.second": split.second}
        if split.labels is not None:
            arrays[f"{name}.labels"] = split.labels
    header = {
        "format_version": str(FORMAT_VERSION),
        "kind": kind,
        "task": cache.task,
        "labels": json.dumps(cache.labels),
        "max_length": str(cache.max_length),
        "fingerprint": fingerprint,
        "splits": json.dumps(list(cache.splits)),
    }
    path = cache_path(folder, cache.task)
    try:
        content = save(arrays, metadata=header)
    except SafetensorError as error:
        raise cannot_write(path, error) from None
    write_whole(path, content)
    return path


def read_cache(folder: Path, task: str, kind: str, fingerprint: str, prepare: str) -> Cache:
    """Read what ``write_cache`` wrote.

    Raises:
        UserError: no such file, cut short or foreign, of another format version, task or tokenizer. ``prepare`` is
            the command that makes it again.
    """
    path = cache_path(folder, task)
    if not path.is_file():
        raise UserError(f"{path}: no such file; run {prepare} first")
    again = f"run {prepare} again"
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            version = header.get("format_version")
            if version != str(FORMAT_VERSION):
                raise UserError(f"{path}: format version {version}, this code reads {FORMAT_VERSION}; {again}")
            if (header["kind"], header["task"]) != (kind, task):
                raise UserError(f"{path}: holds {header['kind']} data of {header['task']}, not {kind} {task}; {again}")
            if header["fingerprint"] != fingerprint:
                raise UserError(f"{path}: made with another vocabulary or casing than the model's; {again}")
            names = set(file.keys())
            splits = {}
            for name in json.loads(header["splits"]):
                labels = file.get_tensor(f"{name}.labels") if f"{name}.labels" in names else None
                parts = [file.get_tensor(f"{name}.{part}") for part in ("tokens", "offsets", "second")]
                splits[name] = Split(*parts, labels)
            counts = file.get_tensor("counts")
            return Cache(task, tuple(json.loads(header["labels"])), int(header["max_length"]), splits, counts)
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cut short or not a cache ({error}); {again}") from None
