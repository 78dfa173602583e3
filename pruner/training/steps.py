"""Trainings that others build on, and those under way: kept outside the records, found again by a later run.

A step is a folder ``<task>/<name>-<hash of its settings>`` with the weights and ``step.json``, written whole or not at
all; beside it, while it is being trained, ``....training`` with ``Trainer``'s checkpoints.
"""

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pruner.utils.distributed import Lock
from pruner.utils.errors import UserError
from pruner.utils.files import remove_folder, whole_folder

WEIGHTS = "model.safetensors"


def step_folder(root: Path, task: str, name: str, settings: dict) -> Path:
    """Steps of the same name but other settings are other steps."""
    text = json.dumps(settings, sort_keys=True)
    return root / task / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def training_folder(step: Path) -> Path:
    """Where the checkpoints lie while the step is being trained."""
    return step.with_name(f"{step.name}.training")


def remove_step(step: Path) -> None:
    """Forget a step, finished or interrupted; one that another process is at work on stays."""
    lock = Lock(step)
    if step.parent.is_dir() and lock.take(wait=False):
        remove_folder(step)
        remove_folder(training_folder(step))
        lock.release()


def write_step(step: Path, model: nn.Module, result: dict) -> None:
    """Keep a finished step; its checkpoints are removed.

    Raises:
        UserError: the place cannot be written.
    """
    with whole_folder(step) as temporary:
        save_file({name: x.contiguous() for name, x in model.state_dict().items()}, temporary / WEIGHTS)
        (temporary / "step.json").write_text(json.dumps(result), encoding="utf-8")
    remove_folder(training_folder(step))


def read_step(step: Path, model: nn.Module) -> dict:
    """What ``write_step`` was given, the weights put into ``model``.

    Raises:
        UserError: the files are not those of such a model.
    """
    try:
        result = json.loads((step / "step.json").read_text(encoding="utf-8"))
        if not _is_result(result):
            raise ValueError("step.json has no loss and no path")
        model.load_state_dict(load_file(step / WEIGHTS))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{step}: not a finished step ({reason}); remove the folder") from None
    return result


def _is_result(result: object) -> bool:
    """Whether this is a training's loss curve or a search's path, [points][layers]."""
    match result:
        case {"loss": [*_]}:
            return True
        case {"path": [[_, *_] as first, *_] as path}:
            rows = [row for row in path if isinstance(row, list) and len(row) == len(first)]
            return len(rows) == len(path) and all(type(share) in (int, float) for row in rows for share in row)
    return False
