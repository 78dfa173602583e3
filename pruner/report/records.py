"""Records: one folder per cell, written whole or not at all; the screen's text beside it."""

import json
import math
import os
import platform
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
import transformers
from tqdm import tqdm

from pruner.report.tables import budgets, summary
from pruner.utils.distributed import count
from pruner.utils.errors import NotFiniteError, UserError
from pruner.utils.files import cannot_write, whole_folder
from pruner.utils.version import git_commit

# What settings that some records are older than were, before there was a choice.
AS_BEFORE = {"dtype": "auto", "start": "pretrained", "reach": None, "search": None}
OUTDATED = "outdated"  # a file beside a record that is to be replaced


class Log:
    """Prints lines above the progress bars and keeps those of the current cell for its ``run.log``."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, text: str = "") -> None:
        tqdm.write(text)
        self.lines.append(text)

    def start_cell(self) -> None:
        self.lines = []


def check_writable(folder: Path) -> None:
    """Complain before the work, not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise cannot_write(folder, error) from None


def write_record(folder: Path, record: dict, log: Log, files: Mapping[str, str] = MappingProxyType({})) -> None:
    """Write ``record.json``, ``run.log`` and other ``files`` into ``folder``, all or none.

    Raises:
        UserError: the place cannot be written.
    """
    with whole_folder(folder) as temporary:
        text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        (temporary / "record.json").write_text(text, encoding="utf-8")
        (temporary / "run.log").write_text("\n".join(log.lines) + "\n", encoding="utf-8")
        for name, content in files.items():
            (temporary / name).write_text(content, encoding="utf-8", newline="")


def read_record(folder: Path) -> dict | None:
    """The record of a finished cell, or ``None``.

    Raises:
        UserError: a file that is no record, or one that the tables could not show.
    """
    path = folder / "record.json"
    if not os.path.lexists(path) or (folder / OUTDATED).is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["status"] != "complete":
            return None
        summary([record])
        budgets([record])
        kinds = {"task": str, "seed": int, "settings": dict, "target_flops_reduction": int | float | None}
        whole = record["metrics"] and record["metrics"].keys() == record["baseline_metrics"].keys()
        if not whole or not all(isinstance(record.get(key), kind) for key, kind in kinds.items()):
            raise ValueError
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, StopIteration, OSError):
        raise UserError(f"{path}: not a record; remove its folder or run with --force") from None
    return record


def mark_outdated(folder: Path) -> None:
    """Let the cell be run again. Until it has been, its record stays; a run that is stopped knows what was left."""
    if (folder / "record.json").is_file():
        (folder / OUTDATED).touch()


def finished_record(folder: Path, settings: dict) -> dict | None:
    """As ``read_record``, but a record made with other settings is an error: it must not pass for this run's."""
    record = read_record(folder)
    if record is None:
        return None
    wanted = json.loads(json.dumps(settings))
    have = {key: value for key, value in AS_BEFORE.items() if key in wanted} | record["settings"]
    for key in sorted(wanted.keys() | have.keys()):
        if wanted.get(key) != have.get(key):
            raise UserError(
                f"{folder}: finished with {key} = {have.get(key)}, this run has {wanted.get(key)}; "
                "replace it with --force or write elsewhere with --records"
            )
    return record


def environment(steady: bool) -> dict:
    """Versions, hardware and commit. ``steady`` says that ``latency.steady_allocator`` was in effect."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "processes": count(),
        "steady_allocator": steady,
        "git_commit": git_commit(),
    }


def cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()


def finite(values: dict[str, float], where: str) -> dict[str, float]:
    """The metrics as they are, or an error: a record holds numbers only."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise NotFiniteError(f"{where}: {name} is {value}; the training diverged, try a lower learning rate")
    return values
