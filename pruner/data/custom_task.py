"""A user's own task: what it may be called, and its definition, which travels in the header of its cache."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from pruner.data.agnews import BERT_TASKS as TASKS
from pruner.data.glue import NAME, Task
from pruner.utils.errors import UserError

RESERVED = {*TASKS, "demo"}  # names of other tasks; the last is that of pruner.data.sample, whose imports take seconds
MOST_LABELS = 1000  # beyond lie scores and texts, not classes
# No f1: which of two classes it would be of, their names do not tell.
METRICS = ("accuracy",)


def is_name(name: str) -> bool:
    """Whether an own task may have that name."""
    # Folders that begin with a dot are hidden, and what begins with a dash is taken for a flag.
    return bool(NAME.fullmatch(name)) and name[0] not in ".-" and name == name.lower() and name not in RESERVED


def definition(task: Task) -> str:
    """What the header says of an own task beside its labels; nothing of another."""
    if not task.own:
        return ""
    return json.dumps({"text": task.text, "label": task.label, "fingerprint": task.fingerprint})


def find_own(folder: Path) -> dict[str, Path]:
    """The caches of own tasks by their names. Damaged ones are among them: ``read_own`` complains about those."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        if is_name(path.stem):
            try:
                with safe_open(path, framework="numpy") as file:
                    if "own" not in (file.metadata() or {}):
                        continue
            except (SafetensorError, OSError):
                pass
            found[path.stem] = path
    return found


def read_own(path: Path, prepare: str) -> Task:
    """The task that a cache's header defines.

    Raises:
        UserError: a header that defines none. ``prepare`` is the command that makes it again.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
        own, labels = json.loads(header["own"]), json.loads(header["labels"])
        text, label, fingerprint = own["text"], own["label"], own["fingerprint"]
        if not isinstance(text, list) or not isinstance(labels, list):
            raise ValueError("columns or labels that are no lists")
        "".join([*text, label, fingerprint, *labels]).encode()  # an error unless all are text
        if len(text) not in (1, 2) or not 2 <= len(set(labels)) == len(labels) <= MOST_LABELS:
            raise ValueError("too few or too many columns or labels")
    # A foreign header may hold anything.
    except (SafetensorError, LookupError, TypeError, ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path}: cut short or not a cache ({error}); run {prepare} again") from None
    name = path.stem
    return Task(name, name, tuple(text), label, tuple(labels), METRICS, own=True, fingerprint=fingerprint)
