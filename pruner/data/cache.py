"""What the prepare scripts write and the run scripts read: one file of plain arrays per task.

The container is safetensors: no pickle, a header of strings, lengths that are checked when it is opened. Sentences
lie end to end, without padding:

    <split>.tokens   int32 [tokens]    the sentences' ids, special tokens included
    <split>.offsets  int64 [rows + 1]  where each sentence starts in them
    <split>.second   int32 [rows]      where its second segment starts, counted from its own start
    <split>.labels   int64 or float32 [rows], absent from test splits
    counts           int64 [vocabulary] occurrences in the training split

The header of a task that is not registered defines it too: the run scripts know it from nowhere else. Its ``sha256``
is that of all the rest.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pruner.data.task import TASKS, Task
from pruner.utils.errors import UserError
from pruner.utils.files import check_regular, is_there, whole

FORMAT_VERSION = 1
PARTS = ("tokens", "offsets", "second", "labels")  # of a split


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

    def check(self, labels: Sequence[str], longest: int, vocabulary_size: int) -> None:
        """Raise a ValueError if these arrays cannot be a split of that task: anyone may have written them."""
        kinds = {"tokens": "int32", "offsets": "int64", "second": "int32", "labels": "int64" if labels else "float32"}
        for name, kind in kinds.items():
            array = getattr(self, name)
            if array is not None and (array.dtype != kind or array.ndim != 1):
                raise ValueError(f"{name} are not {kind} in one dimension")
        if len(self.offsets) < 2 or any(x is not None and len(x) != len(self) for x in (self.second, self.labels)):
            raise ValueError("no rows, or arrays of different lengths")
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.tokens) or (self.offsets[1:] < self.offsets[:-1]).any():
            raise ValueError("offsets do not ascend from 0 to the end")
        if self.lengths.max() > longest:
            raise ValueError(f"a sentence of more than {longest} tokens")
        if self.second.min() < 0 or (self.second > self.lengths).any():
            raise ValueError("a second segment outside its sentence")
        if len(self.tokens) and not 0 <= self.tokens.min() <= self.tokens.max() < vocabulary_size:
            raise ValueError("tokens outside the vocabulary")
        if self.labels is not None:
            good = (self.labels >= 0) & (self.labels < len(labels)) if labels else np.isfinite(self.labels)
            if not good.all():
                raise ValueError("labels outside the task's")


@dataclass(frozen=True)
class Cache:
    """A prepared task."""

    task: str
    labels: tuple[str, ...]
    max_length: int
    splits: dict[str, Split]
    counts: np.ndarray
    definition: str = ""  # of a task that is not registered

    def check(self, sentences: int) -> None:
        """Raise a ValueError if this cannot be the task; a row has at most ``sentences`` of ``max_length`` tokens."""
        task = TASKS.get(self.task)
        if self.max_length < 1 or (task and self.labels != task.labels):
            raise ValueError("a header of no such task")
        if self.counts.dtype != "int64" or self.counts.ndim != 1:
            raise ValueError("counts are not int64 in one dimension")
        for name in ("train", *(task.dev if task else ("dev",))):
            if name not in self.splits or self.splits[name].labels is None:
                raise ValueError(f"no {name} split with labels")
        for name, split in self.splits.items():
            try:
                split.check(self.labels, sentences * self.max_length, len(self.counts))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None


def make_cache(task: Task, splits: dict[str, Split], vocabulary_size: int, max_length: int) -> Cache:
    """Make a task's cache, with the occurrences of each id in its training split."""
    counts = np.bincount(splits["train"].tokens, minlength=vocabulary_size).astype(np.int64)
    return Cache(task.name, task.labels, max_length, splits, counts, task.definition)


def cache_path(folder: Path, task: str) -> Path:
    return folder / f"{task}.safetensors"


def checksum(arrays: Mapping[str, np.ndarray], header: Mapping[str, str]) -> str:
    """Hash the arrays and what else the header says of them. Mapped arrays are read, not copied."""
    digest = hashlib.sha256(json.dumps(dict(header), sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).reshape(-1).data)
    return digest.hexdigest()


def write_cache(folder: Path, cache: Cache, kind: str, fingerprint: str) -> Path:
    """Write a cache of ``kind`` ``bert`` or ``lstm``; ``fingerprint`` stands for the tokenizer that made the ids."""
    arrays = {f"{name}.{part}": getattr(split, part) for name, split in cache.splits.items() for part in PARTS}
    arrays = {name: array for name, array in arrays.items() if array is not None} | {"counts": cache.counts}
    header = {
        "format_version": str(FORMAT_VERSION),
        "kind": kind,
        "task": cache.task,
        "labels": json.dumps(cache.labels),
        "max_length": str(cache.max_length),
        "fingerprint": fingerprint,
        "splits": json.dumps(list(cache.splits)),
        **({"own": cache.definition} if cache.definition else {}),
    }
    header["sha256"] = checksum(arrays, header)
    path = cache_path(folder, cache.task)
    with whole(path) as name:
        name.write_bytes(save(arrays, metadata=header))
    return path


@contextmanager
def open_cache(path: Path, prepare: str, framework: str = "numpy") -> Iterator[tuple[Any, dict[str, str]]]:
    """Open a cache and its header; whatever goes wrong with a foreign one becomes a ``UserError``."""
    check_regular(path)
    try:
        with safe_open(path, framework=framework) as file:
            yield file, file.metadata() or {}
    except UserError:
        raise
    # A foreign header may hold anything, and torch has types that numpy has not.
    except (SafetensorError, LookupError, TypeError, ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path}: cut short or not a cache ({error}); run {prepare} again") from None


def read_cache(folder: Path, task: str, kind: str, fingerprint: str, prepare: str) -> Cache:
    """Read what ``write_cache`` wrote, or raise a ``UserError`` that names ``prepare``, the command to run again."""
    path = cache_path(folder, task)
    if not is_there(path):
        raise UserError(f"{path}: no such file; run {prepare} first")
    # Torch's arrays are views of the mapped file: what is not used of it is not read, and nothing is copied.
    with open_cache(path, prepare, framework="pt") as (file, header):
        again = f"run {prepare} again"
        version = header.get("format_version")
        if version != str(FORMAT_VERSION):
            raise UserError(f"{path}: format version {version}, this code reads {FORMAT_VERSION}; {again}")
        if (header["kind"], header["task"]) != (kind, task):
            raise UserError(f"{path}: holds {header['kind']} data of {header['task']}, not {kind} {task}; {again}")
        if header["fingerprint"] != fingerprint:
            raise UserError(f"{path}: made with another vocabulary or casing than the model's; {again}")
        arrays = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118
        splits = {}
        for name in json.loads(header["splits"]):
            tokens, offsets, second = (arrays[f"{name}.{part}"] for part in PARTS[:3])
            splits[name] = Split(tokens, offsets, second, arrays.get(f"{name}.labels"))
        labels = tuple(json.loads(header["labels"]))
        cache = Cache(task, labels, int(header["max_length"]), splits, arrays["counts"], header.get("own", ""))
        cache.check(2 if kind == "lstm" else 1)  # each sentence of a pair is cut by itself there
        written = header.pop("sha256", None)  # older caches have none
        if written is not None and written != checksum(arrays, header):
            raise UserError(f"{path}: damaged, its checksum is not that of its content; {again}")
    return cache
