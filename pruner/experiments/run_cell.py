"""Runs one cell: its stages, its method's last touch, one evaluation, one record."""

import time
from dataclasses import replace
from pathlib import Path

from torch import nn

from pruner.compress.method import Dense
from pruner.evaluation.collapse import collapsed, majority_share
from pruner.evaluation.latency import measure_latency
from pruner.evaluation.metrics import dev_metrics, metrics_by_length
from pruner.evaluation.submission import predict_tests, submission_names
from pruner.experiments.cell import Cell, Grid
from pruner.models.pretrained import check_finite
from pruner.report.card import card
from pruner.report.records import Log, Record, finite, write_record
from pruner.report.tables import metric_text, one_answer
from pruner.training.stages import WEIGHTS
from pruner.training.train import training_device
from pruner.utils.distributed import is_main
from pruner.utils.environment import environment, named_dtype
from pruner.utils.errors import UserError
from pruner.utils.files import is_there, write_whole
from pruner.utils.folders import SUMS, check_sums, sha256, whole_folder, write_sums

EXAMPLES = 3  # sentences whose surviving words are in a record; the first is shown too


def run_cell(grid: Grid, cell: Cell, baseline: Record | None) -> Record | None:
    """Train, evaluate, measure and record one cell; ``baseline`` is the finished record of its baseline.

    The main process alone does what comes after the training, and returns the record.
    """
    started, log, context, method = time.monotonic(), grid.log, cell.context, cell.method
    trained = [grid.stages.obtain(stage) for stage in cell.stages]
    dense = grid.stages.obtain(cell.dense, quiet=True).model if cell.baseline else trained[-1].model
    if not is_main():
        return None
    model = method.finalize(trained, context, dense, log)
    collate = method.collate(context)
    logits = context.predict_dev(model, collate)
    metrics = finite(dev_metrics(context.task, context.cache, logits), cell.task)
    only = collapsed(context.task, context.cache, logits)
    cost, plain = method.cost(model, context), Dense().cost(dense, context)
    latency = None
    if cell.baseline:
        latency = measure_latency(
            dense,
            model,
            context.dev_splits[0],
            grid.options.latency_batch_size or context.train_settings.batch_size,
            (context.backbone.collate(context.task), collate),
            named_dtype(grid.options.latency_dtype),
            grid.options.latency_repeats,
            context.backbone.latency_batches,
        )
    record = Record(
        model=context.backbone.name,
        task=cell.task,
        method=method.name,
        title=method.title,
        variant=method.variant,
        seed=context.seed,
        metrics=metrics,
        baseline_metrics=baseline.metrics if baseline else metrics,
        held_out_metrics=finite(context.held_out_metrics(model, collate), cell.task),
        majority_share=majority_share(context.task, context.cache),
        collapsed=only,
        baseline_collapsed=baseline.collapsed if baseline else only,
        metrics_by_length=metrics_by_length(context.task, context.cache, logits),
        flops={"baseline": plain.flops, "pruned": cost.flops, "reduction": round(plain.flops / cost.flops, 4)},
        parameters={"baseline": plain.parameters, "pruned": cost.parameters},
        bytes={"baseline": plain.bytes, "pruned": cost.bytes},
        latency=latency,
        examples=method.examples(model, context, EXAMPLES),
        loss=trained[-1].loss,
        settings=cell.settings(),
        environment=environment(grid.steady),
        section=method.describe(model, context) | taught_by(grid, cell),
    )
    kept = keep_model(grid, model, cell, record)
    size = None if kept is None else sum(path.stat().st_size for path in Path(kept).glob("*.safetensors"))
    record = replace(record, model_folder=kept, file_bytes=size, seconds=round(time.monotonic() - started, 1))
    files = predictions(grid, cell, model) if grid.options.predict_test else {}
    report(record, log)
    log(f"-> {grid.folder(cell)}")
    write_record(grid.folder(cell), record, log, files, context.task.submission_files.values())
    for stage in cell.stages:
        if not stage.shared:
            grid.stages.remove(stage)
    return record


def taught_by(grid: Grid, cell: Cell) -> dict:
    """Name whom the cell's model has learned from, if it had a teacher, and the hash of its weights."""
    teacher = cell.stages[-1].teacher
    if teacher is None:
        return {}
    return {"taught_by": {"stage": teacher.name, "sha256": sha256(grid.stages.folder(teacher) / WEIGHTS)}}


def keep_model(grid: Grid, model: nn.Module, cell: Cell, record: Record) -> str | None:
    """Keep the cell's model and its card; return the folder. If that cannot be, the result need not be lost too."""
    folder = grid.model_folder(cell)
    if folder is None:
        return None
    try:
        with whole_folder(folder, last=SUMS) as temporary:
            cell.context.backbone.save(model, cell.context.task, temporary)
            text = card(record, cell.context.task, model, folder)
            (temporary / "README.md").write_text(text, encoding="utf-8", errors="replace", newline="")
            write_sums(temporary)
    except UserError as error:
        grid.log(f"the model is not kept: {error}")
        return None
    grid.log(f"model: {folder}")
    return folder.as_posix()


def predictions(grid: Grid, cell: Cell, model: nn.Module) -> dict[str, str]:
    """Predict the task's test sets; return the contents of the files, by their names."""
    context = cell.context
    size, collate = context.train_settings.batch_size, cell.method.collate(context)
    return predict_tests(model, context.task, context.cache, size, collate)


def predict_finished(grid: Grid, cell: Cell) -> None:
    """Predict the test sets with the kept model of a cell that was finished without."""
    folder, kept = grid.folder(cell), grid.model_folder(cell)
    if all(is_there(folder / name) for name in submission_names(cell.context.task, cell.context.cache).values()):
        return
    if kept is None or not is_there(kept):
        raise UserError(
            f"{folder}: finished without predictions, and its model was not kept{f' in {kept}' if kept else ''}; "
            "name its folder with --save-models, or run it again with --force"
        )
    check_sums(kept, "remove the folder and run with --force")
    try:
        model = cell.method.load(kept, cell.context).to(training_device())
    except Exception as error:  # safetensors, pickle, JSON and torch each raise their own
        raise UserError(f"{kept}: not a kept model ({error}); remove it and run with --force") from None
    check_finite(model, kept)
    for name, content in predictions(grid, cell, model).items():
        write_whole(folder / name, content.encode())
        print(f"-> {folder / name}")


def report(record: Record, log: Log) -> None:
    """Say what came out of a cell, in a few lines."""
    told = "unpruned baseline" if record.latency is None else f"baseline: {metric_text([record.baseline_metrics])}"
    log(f"result: {metric_text([record.metrics])} ({told})")
    if only := one_answer(record.collapsed):
        log(f"no result to use: the model {only}")
    if record.latency is None:
        return
    if only := one_answer(record.baseline_collapsed):
        log(f"nothing to compare it with: the baseline {only}")
    section, latency = record.section, record.latency
    if "teacher_metrics" in section:
        log(
            f"the student alone; led by its teacher: {metric_text([section['teacher_metrics']])}; "
            f"rank correlation with it {section['student_rank_correlation']:.2f}"
        )
    tokens = f"tokens not computed {section['tokens']['effective_rate']:.1%}, " if "tokens" in section else ""
    log(
        f"{tokens}FLOPs reduction {record.flops['reduction']:.2f}x, speed-up {latency['speedup']:.2f}x "
        f"({latency['baseline_ms']:.1f} -> {latency['pruned_ms']:.1f} ms per batch)"
    )
    for example in record.examples[:1]:
        log(f"  {example['sentence']}\n  -> {example['kept']}")
