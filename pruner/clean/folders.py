"""What runs have kept that no unfinished cell needs, and its removal."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pruner.utils.errors import UserError
from pruner.utils.files import check_regular, is_there, megabytes
from pruner.utils.folders import own_files, remove_own
from pruner.utils.locks import Lock
from pruner.utils.text import printable

PLANS = "plans"  # what experiments/plan.py has written, in the folder of the stages
FILES = "stage.json", "step.json", "config.json"  # one of them is in the folder of a stage, an old one or a model
# What else is in the folders of trainings, and of what older versions have kept without checksums.
OWN = "checkpoint-*", "model.safetensors", "vocab.txt", "tokenizer*.json", "special_tokens_map.json", "README.md"


@dataclass(frozen=True)
class Kept:
    """A folder of a stage, finished or being trained, or of a model; ``cells`` are the unfinished ones that need it."""

    folder: Path
    size: int  # bytes
    cells: int


def unfinished_cells(stages: Path) -> dict[str, set[str]]:
    """Read from the plans which unfinished cells need a stage, by its place in the folder of stages."""
    cells: dict[str, set[str]] = {}
    for path in sorted((stages / PLANS).glob("*.json")):
        check_regular(path)
        try:
            for cell in json.loads(path.read_text(encoding="utf-8")):
                record = Path(cell["record"])
                if not is_there(record / "record.json") or is_there(record / "outdated"):
                    for place in cell["stages"]:
                        cells.setdefault(place, set()).add(cell["record"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{path}: not a plan of a run ({error}); remove the file") from None
    return cells


def find_kept(root: Path, with_models: bool) -> Iterator[Kept]:
    """Yield what runs have kept in a folder of caches. Whatever else lies there is not listed."""
    for kind in ("stages", "steps", "models") if with_models else ("stages", "steps"):
        for place in sorted((*root.glob(kind), *root.glob(f"*/{kind}"))):
            cells = unfinished_cells(place)
            for folder in sorted(place.glob("*/*")):
                training = folder.name.endswith(".training")
                if folder.is_dir() and (training or any((folder / name).is_file() for name in FILES)):
                    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                    name = f"{folder.parent.name}/{folder.name.removesuffix('.training')}"
                    yield Kept(folder, size, len(cells.get(name, ())))


def remove(kept: Kept) -> bool:
    """Remove a folder, unless a run is at work on it."""
    lock = Lock(kept.folder.with_name(kept.folder.name.removesuffix(".training")))
    if not lock.take(wait=False):
        print(f"left {printable(str(kept.folder))}: another process is at work on it")
        return False
    remove_own(kept.folder, [*FILES, *OWN, *own_files(kept.folder)])
    lock.release()
    return True


def answer(question: str) -> str:
    """Ask the user; raise a ``UserError`` where nobody can answer."""
    try:
        return input(question).strip().lower()
    except EOFError:
        print()
        raise UserError("nothing was removed: there is nobody to ask; --yes removes them without asking") from None


def clean(options: argparse.Namespace) -> None:
    """List what is kept, ask, and remove it."""
    root = Path(options.cache)
    if not root.is_dir():
        raise UserError(f"--cache (cache): {root} is no folder; name the one in which the run scripts' caches lie")
    removable = []
    for kept in find_kept(root, options.models):
        need = f", needed by {kept.cells} unfinished cell{'s' if kept.cells > 1 else ''}" if kept.cells else ""
        print(f"{printable(str(kept.folder))}: {megabytes(kept.size)}{need}")
        if options.unfinished or not kept.cells:
            removable.append(kept)
    if not removable:
        print("nothing to remove")
        return
    total = f"{len(removable)} of these folders, {megabytes(sum(kept.size for kept in removable))}"
    if not options.yes and answer(f"remove {total}? records are not touched [y/N] ") not in ("y", "yes"):
        print("nothing was removed")
        return
    removed = [kept for kept in removable if remove(kept)]
    print(f"removed {len(removed)} folders, {megabytes(sum(kept.size for kept in removed))}")
