"""Which class of a fine-tuned classifier is which class of a task: matched by their names."""

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress

from pruner.data.task import Task
from pruner.utils.errors import listed

# What transformers calls classes that nobody has named, and what people make of it: "LABEL_1", "label 1", "1".
UNNAMED = re.compile(r"(?:label|class)?[ _-]?(\d+)", re.IGNORECASE)


def case_free(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip().casefold()


def letters_only(name: str) -> str:
    """Drop what spellings of a name differ in: case, spaces, punctuation, trailing zeros of a number."""
    name = case_free(name)
    with suppress(ValueError):
        if math.isfinite(float(name)):
            return f"{float(name):g}"
    return re.sub(r"[\W_]+", "", name) or name


SPELLINGS: tuple[Callable[[str], str], ...] = (str, case_free, letters_only)


def match_classes(own: Sequence[str], task: Task) -> list[int] | None:
    """Find the task's classes among a model's ``own``: the number of each there, or ``None`` where names differ.

    Classes that are only numbered (``LABEL_k``) are the task's in its order, which is that of GLUE's numbers. A
    regression has one score, whatever it is called.
    """
    if len(own) != task.num_labels:
        return None
    if not task.labels:
        return [0]
    names = list(zip(task.labels, task.names or task.labels, strict=True))
    for spelled in SPELLINGS:
        numbers = {spelled(name): number for number, name in enumerate(own)}
        # A spelling under which two names are one tells nothing.
        if len(numbers) == len(own) == len({spelled(label) for label in task.labels}):
            found = [next((numbers[spelled(n)] for n in both if spelled(n) in numbers), None) for both in names]
            order = [number for number in found if number is not None]
            if len(set(order)) == len(own):
                return order
    numbered = class_numbers(own)
    return None if numbered is None else [numbered.index(label) for label in range(len(own))]


def class_numbers(own: Sequence[str]) -> list[int] | None:
    """Return k for each ``LABEL_k``; ``None`` if any class has a name."""
    matches = [UNNAMED.fullmatch(name.strip()) for name in own]
    numbers = [int(match[1]) for match in matches if match]
    return numbers if sorted(numbers) == list(range(len(own))) else None


def explain(bert: str, own: Sequence[str], task: Task, order: Sequence[int] | None) -> str | None:
    """Say in a line what becomes of a fine-tuned classifier whose classes are ``own``; ``None`` if it goes unsaid."""
    wanted = listed(task.labels) or f"a score, {task.label}"
    if order is None:
        return f"{bert}: its classifier is for {listed(own)}, {task.name} for {wanted}: begins with a fresh one"
    if class_numbers(own) is not None and class_numbers(task.labels) is None:
        as_numbered = listed([task.labels[order.index(number)] for number in range(len(own))])
        return f"{bert}: its classes have no names, {listed(own)}; taken for {as_numbered}"
    return None
