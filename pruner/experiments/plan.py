"""What a grid is going to do: shown by ``--dry-run``, and written down for ``python -m pruner.clean``.

``stages/plans/<hash>.json`` lists the cells of a run that had no record when it began its last one: the folders of
their records and stages.
"""

import hashlib
import json
from collections.abc import Sequence

from torch import Tensor

from pruner.experiments.cell import Cell, Grid
from pruner.report.records import Record
from pruner.training.stage import Stage, unique
from pruner.utils.files import megabytes, remove_empty, write_whole
from pruner.utils.folders import remove_own

PLANS = "plans"
FLOAT32 = 4  # bytes of a parameter
ADAM = 3  # a checkpoint's parameters: the weights and Adam's two moments


def write_plan(grid: Grid, cells: Sequence[Cell], finished: Sequence[Record | None]) -> None:
    """Write down which kept stages the unfinished cells of a run need."""
    records = [grid.folder(cell).resolve().as_posix() for cell in cells]
    stages = [[stage.place for stage in cell.lineage] for cell in cells]
    rows = zip(records, stages, finished, strict=True)
    plan = [{"record": record, "stages": places} for record, places, done in rows if done is None]
    key = hashlib.sha256("\n".join(records).encode()).hexdigest()[:12]
    write_whole(grid.stages.root / PLANS / f"{key}.json", json.dumps(plan, indent=1).encode())


def drop_plans(grid: Grid) -> None:
    """Remove the plans where there is no stage, finished or begun."""
    if not any(path.is_dir() for path in grid.stages.root.glob("*/*")):
        remove_own(grid.stages.root / PLANS, ["*.json"])
        remove_empty([grid.stages.root])


def print_plan(grid: Grid, cells: Sequence[Cell]) -> None:
    """Print the cells, the stages of each and what they take on disk."""
    finished = [grid.finished(cell) is not None for cell in cells]
    shown: set[str] = set()
    for cell, done in zip(cells, finished, strict=True):
        print(f"{cell.task}: {cell.name}{' (finished)' if done else ''}")
        for stage in cell.lineage:
            where = "as above" if stage.place in shown else describe(grid, stage, done)
            shown.add(stage.place)
            print(f"    stage {stage.name}: {where}")
    waiting = [cell for cell, done in zip(cells, finished, strict=True) if not done]
    stages = unique(stage for cell in waiting for stage in cell.lineage)
    to_do = [stage for stage in stages if not stage.measures and grid.stages.state(stage) != "finished"]
    models = {cell.task: cell.context.backbone.empty(cell.context.task) for cell in cells}
    sizes = {task: FLOAT32 * sum(map(Tensor.numel, model.parameters())) for task, model in models.items()}
    kept = sum(sizes[stage.context.task.name] for stage in to_do if stage.shared)
    kept_models = 0 if grid.options.discard_models else sum(sizes[cell.task] for cell in waiting)
    checkpoints = max((ADAM * sizes[stage.context.task.name] for stage in to_do), default=0)
    print(f"\n{len(cells)} cells, {sum(finished)} of them finished; {len(to_do)} trainings to do")
    print(
        f"they take about {megabytes(kept + kept_models)} on disk: {megabytes(kept)} of stages in {grid.stages.root}/, "
        f"{megabytes(kept_models)} of models in {grid.models}/; and {megabytes(checkpoints)} of "
        "checkpoints while a stage is trained"
    )


def describe(grid: Grid, stage: Stage, done: bool) -> str:
    """Say how far a stage is and how long its training is."""
    state = grid.stages.state(stage)
    if done and state != "finished":
        return "finished, not kept"
    if stage.measures:
        return f"{state} (a measurement of {stage.start.name if stage.start else 'the pre-trained model'})"
    settings, data = stage.context.train_settings, stage.recipe.data(stage.context, None)
    rows, batches = len(data), data.batches(settings.batch_size, stage.context.seed)
    steps = (-(-rows // settings.batch_size) if batches is None else len(batches)) * settings.epochs
    start = f", from {stage.start.name}" if stage.start else ""
    return f"{state} ({settings.epochs:g} epochs of {rows} rows, {steps:.0f} steps{start})"
