"""Predictions of the test sets in the form that the GLUE server takes."""

import numpy as np
from torch import nn

from pruner.data.cache import Cache
from pruner.data.collate import Collate
from pruner.data.task import Task
from pruner.evaluation.predict import predict


def submission_names(task: Task, cache: Cache) -> dict[str, str]:
    """The file of each of the task's test sets that are prepared."""
    return {split: name for split, name in task.submission_files.items() if split in cache.splits}


def submission(task: Task, logits: np.ndarray) -> str:
    """Logits [rows, labels] -> a table of ``index`` and ``prediction``: a label's name, or a score."""
    if task.labels:
        predictions = [task.labels[number] for number in logits.argmax(axis=1)]
    else:
        predictions = [f"{score:.3f}" for score in logits[:, 0].clip(*task.score_range)]
    return "".join(["index\tprediction\n", *(f"{row}\t{text}\n" for row, text in enumerate(predictions))])


def predict_tests(model: nn.Module, task: Task, cache: Cache, batch_size: int, collate: Collate) -> dict[str, str]:
    """Predict the test sets -> the contents of the files, by their names."""
    names = submission_names(task, cache).items()
    logits = {name: predict(model, cache.splits[split], batch_size, collate) for split, name in names}
    return {name: submission(task, logits[name]) for name in logits}
